"""Initial values by the table, drawn in place: a sharded tensor gets the same values as a whole one.

A newcomer would call `normal_` on a shard. Every process then draws its own numbers, so a model that was sharded before
it was initialised is another one, and depends on how many processes there are. Here each tensor is drawn whole from its
own seed and every process keeps its part; one whole tensor at a time has to fit in memory.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError


def draw(param: nn.Parameter, mean: float, std: float, seed: int | None) -> None:
    """Normal values in place; None draws from torch's own generator. Raises InputError for a shard without a seed."""
    mesh = getattr(param, "device_mesh", None)  # a DTensor: FSDP2, tensor parallelism
    if mesh is not None and seed is None:
        raise InputError(
            "The model is sharded, and without a seed its processes would draw different values; call "
            "initialize(model, seed=0), with the same seed in every process."
        )
    generator = None if seed is None else torch.Generator(param.device).manual_seed(seed)
    with torch.no_grad():
        if mesh is None:
            nn.init.normal_(param, mean, std, generator=generator)
            return
        whole = torch.empty(param.shape, dtype=param.dtype, device=param.device)
        nn.init.normal_(whole, mean, std, generator=generator)
        param.copy_(_part(whole, cast(Any, param)))


def blank_padding(model: nn.Module) -> None:
    """Zero the row of every lookup table that stands for no token, as torch does; it never learns."""
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None and module.weight.requires_grad:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()


def _part(whole: Tensor, like: Any) -> Tensor:
    """This process's part of a tensor that all processes hold whole; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
