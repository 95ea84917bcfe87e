"""Initial values by the table, drawn in place: a sharded tensor gets the same values as a whole one.

A newcomer would call `normal_` on a shard. Every process then draws its own numbers, so a model that was sharded before
it was initialised is another one, and depends on how many processes there are. Here each tensor is drawn whole from its
own seed and every process keeps its part; one whole tensor at a time has to fit in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.scaling.rules.width import HIDDEN
from windtunnel.scaling.sites import LOOKUPS

if TYPE_CHECKING:
    from windtunnel.scaling.table import ScaleTable

DRAWN = (*HIDDEN, "input", "readout", "embedding", "tied")
# A standard deviation from 256 draws errs by 4 %; torch's own default for Linear is 0.58 of the table's at the base.
ENOUGH, FAR = 256, 1.3


def draw(param: nn.Parameter, mean: float, std: float, seed: int | None, blank: int | None = None) -> None:
    """Normal values in place, but for row `blank`, which is zero; None draws from torch's own generator.

    Raises InputError for a shard without a seed.
    """
    mesh = getattr(param, "device_mesh", None)  # a DTensor: FSDP2, tensor parallelism
    if mesh is not None and seed is None:
        raise InputError(
            "The model is sharded, and without a seed its processes would draw different values; call "
            "initialize(model, seed=0), with the same seed in every process."
        )
    generator = None if seed is None else torch.Generator(param.device).manual_seed(seed)
    with torch.no_grad():
        whole = param if mesh is None else torch.empty(param.shape, dtype=param.dtype, device=param.device)
        nn.init.normal_(whole, mean, std, generator=generator)
        if blank is not None:
            whole[blank].zero_()
        if mesh is not None:
            param.copy_(part_of(whole, cast(Any, param)))


def blank_rows(model: nn.Module) -> dict[int, int]:
    """Identity of each lookup table to its row that stands for no token: torch makes it zero, and it never learns."""
    lookups = [module for module in model.modules() if isinstance(module, LOOKUPS)]
    return {id(each.weight): each.padding_idx for each in lookups if each.padding_idx is not None}


def warn_of_other_values(params: Mapping[str, nn.Parameter], table: ScaleTable) -> None:
    """Warn where a matrix starts at another size than the table says, as when a constructor's 0.02 was left."""
    for name, site in table.sites.items():
        param, std = params[name], table.scales[name].init_std
        whole = not param.is_meta and not hasattr(param, "device_mesh") and tuple(param.shape) == site.shape
        if not whole or not param.requires_grad or site.role not in DRAWN or param.numel() < ENOUGH:
            continue
        if not std / FAR <= (here := float(param.detach().float().std())) <= std * FAR:
            warnings.warn(
                f"{name} has standard deviation {here:.3g} and the table starts it at {std:.3g}: call "
                f"initialize(model) before groups. If its values are not initial ones, say groups(..., pretrained="
                f"True).",
                stacklevel=3,
            )
            return


def part_of(whole: Tensor, like: Any) -> Tensor:
    """This process's part of a tensor that all processes hold whole; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
