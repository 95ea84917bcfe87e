"""One tensor of a model as an optimizer part sees it: whole and in float32, also where each process holds some rows.

A DTensor (FSDP2, tensor parallelism) is updated row by row where the part treats every entry by itself, which is tried
out; in parts, with sums over the processes, where the rule says how (`divided`: SmallFC); and gathered where it looks
at more (Muon, Shampoo, LAMB). A newcomer would keep the state in bfloat16 as the weights are: a count of steps then
stops at 256, and moments lose what a step adds to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from windtunnel.recipe import Site
from windtunnel.scaling.initial import part_of
from windtunnel.train.divided import Divided, divided_of, gradient_here, whole_here
from windtunnel.train.sharded_update import acts_by_entry

Tree = dict[str, Any]
LOW = (torch.bfloat16, torch.float16)


def sharded(param: Tensor) -> bool:
    """Whether it is a DTensor."""
    return hasattr(param, "device_mesh")


def by_rows(part: Any, site: Site, hp: Mapping[str, Tensor]) -> bool:
    """Whether each process may update its rows alone; sums over the network need whole tensors."""
    joined = hasattr(part, "totals") or hasattr(part, "maxima")
    return not joined and acts_by_entry(part, site, hp)


def view_of(param: Any, part: Any, site: Site, by_rows: Callable[[], bool]) -> View:
    """A parameter opened for a part: whole, this process's rows alone, or its share of the whole."""
    if not sharded(param):
        return View(param, alone=False)
    if divided := divided_of(part, site, param):
        return View(param, alone=True, divided=divided)
    return View(param, alone=whole_here(param) or by_rows())


class View:
    """A parameter, its gradient and its state, opened for a part's functions.

    `alone`: this process works on what it has of a DTensor, else on the whole. `divided`: it does so together with the
    others. `param`, `grad` and `state` are plain tensors.
    """

    def __init__(self, param: Any, alone: bool, divided: Divided | None = None) -> None:
        self.like, self.alone, self.divided = param, alone, divided
        self.param: Tensor = self._opened(param.detach())

    @property
    def grad(self) -> Tensor:
        """The gradient, opened in the same way, however it is placed."""
        alone = self.alone and sharded(self.like)
        return self._opened(gradient_here(self.like) if alone else self.like.grad.detach())

    def opened(self, state: Mapping[str, Any]) -> Tree:
        """The state's leaves, those that are sharded as the parameter is opened in the same way."""
        return {name: self._opened(leaf) for name, leaf in state.items()}

    def closed(self, state: Mapping[str, Tensor]) -> Tree:
        """The state as it is kept: leaves of the parameter's shape are sharded as it is, so checkpoints can be."""
        if self.divided is not None:
            return {name: self.divided.closed(name, leaf, self.like) for name, leaf in state.items()}
        return {name: self._closed(leaf) for name, leaf in state.items()}

    def move(self, step: Tensor) -> None:
        """Add a step to the parameter."""
        self._local.add_(self._mine(step))

    def kept(self) -> Tensor:
        """A copy of what this process holds of the parameter, for `back`."""
        return self._local.clone()

    def back(self, kept: Tensor) -> None:
        """What `kept` gave."""
        self._local.copy_(kept)

    def become(self, values: Tensor) -> None:
        """Give the parameter other values."""
        self._local.copy_(self._mine(values))

    @property
    def _local(self) -> Tensor:
        held = self.like.detach()
        return held.to_local() if sharded(held) else held

    def _mine(self, value: Tensor) -> Tensor:
        """This process's rows of what was computed from opened tensors."""
        if self.alone or not sharded(self.like):
            return value
        mine: Any = part_of(value, self.like)
        return mine.to_local()

    def _opened(self, value: Any) -> Tensor:
        if sharded(value):
            value = value.to_local() if self.alone else value.full_tensor()
        return value.float() if value.dtype in LOW else value

    def _closed(self, leaf: Tensor) -> Any:
        if not sharded(self.like) or leaf.shape != self.param.shape or not leaf.ndim:
            return leaf
        if not self.alone:
            return part_of(leaf, self.like)
        from torch.distributed.tensor import DTensor

        like = self.like
        return DTensor.from_local(
            leaf, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
