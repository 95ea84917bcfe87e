"""What a stretch of training begins with when it goes on from others: some weights by name, or a fork of everything.

A fork has the optimizer's state too and goes on bit for bit; weights are as the network uses them and may come from
another network. A newcomer would fork the weights alone: Adam would then begin with an empty memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.train.pack import Group
from windtunnel.train.state import State
from windtunnel.train.steps import Tree


def replaced(params: Sequence[Tensor], groups: Sequence[Group], weights: Sequence[Mapping[str, Tensor]]) -> list[Any]:
    """Stacked values with the tensors that `weights`, one mapping a row, name put in their place."""

    def row(group: Group, own: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([given.get(name, value).to(value) for name, value in zip(group.names, own, strict=True)])

    return [
        torch.stack([row(group, own, given) for own, given in zip(stack, weights, strict=True)])
        for group, stack in zip(groups, params, strict=True)
    ]


def ended_with(state: State, row: int, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Weights and optimizer state of one row, by group."""
    found = {f"param.{i}": p[row] for i, p in enumerate(state.params)}
    for i, (tree, group) in enumerate(zip(state.states, groups, strict=True)):
        found |= {f"state.{i}.{name}": t.unflatten(0, (-1, len(group.names)))[row] for name, t in tree.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def forked(
    params: Sequence[Tensor], states: Sequence[Tree], groups: Sequence[Group], forks: Sequence[Mapping[str, Tensor]]
) -> tuple[list[Tensor], list[Tree]]:
    """Weights and optimizer states as `forks`, one a row, ended; `params` and `states` tell what there must be."""
    wanted = {f"param.{i}": p[0] for i, p in enumerate(params)}
    for i, (tree, group) in enumerate(zip(states, groups, strict=True)):
        wanted |= {f"state.{i}.{name}": t[: len(group.names)] for name, t in tree.items()}
    shapes = {name: t.shape for name, t in wanted.items()}
    if any({name: t.shape for name, t in fork.items()} != shapes for fork in forks):
        raise InputError(
            "A stretch forks one of another network or another optimizer; both must be the same. To hand weights on "
            "to another network, give the stretch a `start`."
        )
    stacked = {name: torch.stack([fork[name] for fork in forks]).to(t) for name, t in wanted.items()}
    trees = [{name: stacked[f"state.{i}.{name}"].flatten(0, 1) for name in tree} for i, tree in enumerate(states)]
    return [stacked[f"param.{i}"] for i in range(len(params))], trees
