"""One model spread over many devices with FSDP2, with the values and multipliers that the engine gives it whole.

Built without storage, sharded, and then filled tensor by tensor: each is drawn whole from its name and seed, as a pack
draws it, and every process keeps its part, so one whole tensor at a time has to fit in memory and never the model. A
newcomer would shard a model that was initialised on one device; that device must then hold it all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from windtunnel.scaling.initial import part_of
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.table import ScaleTable
from windtunnel.train.pack import Group, _draw
from windtunnel.train.ranks import Ranks


def sharded(build: Callable[[], nn.Module], table: ScaleTable, ranks: Ranks, compiled: bool = False) -> nn.Module:
    """The module of `build` with the table's multipliers, sharded over all processes; its values are still undefined.

    Blocks of a stack (the children of an nn.ModuleList or nn.Sequential) are gathered one at a time; what is left is
    gathered as one. `compiled` compiles each block.
    """
    from torch.distributed.fsdp import fully_shard

    model = on_meta(build)
    if _lacks_values(model):
        model = build()  # it computes constants that only a real device holds; all of it must fit once
    table.attach(model)
    for block in blocks_of(model):
        if compiled:
            block.compile()
        fully_shard(block, mesh=ranks.mesh)
    model = cast(nn.Module, fully_shard(model, mesh=ranks.mesh))
    return model._apply(lambda t: torch.empty_like(t, device=ranks.device) if t.is_meta else t.to(ranks.device))


def draw(model: nn.Module, groups: Sequence[Group], seed: int) -> None:
    """The engine's initial values, each process its part."""
    params = dict(model.named_parameters())
    for group in groups:
        for name in group.names:
            param: Any = params[name]
            with torch.no_grad():
                param.copy_(part_of(_draw(name, group, seed).to(param.device), param))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Children of the outermost stacks that hold parameters of their own, shared with nothing outside them."""
    found: list[nn.Module] = []
    for stack in _stacks(model):
        found += [child for child in stack.children() if any(True for _ in child.parameters())]
    owners: dict[int, int] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            owners[id(param)] = owners.get(id(param), 0) + 1
    return [block for block in found if all(owners[id(p)] == _held(block, p) for p in block.parameters())]


def _held(block: nn.Module, param: nn.Parameter) -> int:
    """How many modules of the block hold the parameter."""
    return sum(param is p for module in block.modules() for p in module.parameters(recurse=False))


def _stacks(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.ModuleList | nn.Sequential):
        return [module]
    return [stack for child in module.children() for stack in _stacks(child)]


def _lacks_values(model: nn.Module) -> bool:
    """Whether a tensor that is no parameter was computed without storage, so that its values are lost."""
    plain = (t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor))
    return any(t.is_meta for t in (*model.buffers(), *plain))
