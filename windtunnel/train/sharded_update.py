"""An optimizer written for one whole tensor, applied to a tensor of which every process holds some rows.

One that treats every entry by itself works on the rows alone; one that says how (`divided`: a learned optimizer) on
the rows with sums over the processes; for one that looks at the whole matrix or its norm (Muon, Shampoo, LAMB, LARS)
the tensor is gathered, updated, and each process keeps its rows. Whether entries count alone is tried out: `geometry`
says how a step grows with the tensor, not what the code looks at, and a rule that is called entrywise may still clip by
a norm. Sharding such a rule by its word would train another optimizer without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.recipe import Site
from windtunnel.scaling.initial import part_of
from windtunnel.scaling.table import geometry_of
from windtunnel.train.divided import divided_of, gradient_here, together
from windtunnel.train.pack import Group

Tree = dict[str, Tensor]
BY_ENTRY = ("entrywise", "gradient")
LONGEST = 1024  # sides tried are cut to this: longer than where known rules change their form (guess)
AGREE = 1e-5  # rows alone beside rows of the whole: vectorised and scalar arithmetic differ in last bits


class ShardedUpdate:
    """An optimizer over the sharded parameters of a model, its state beside it, by tensor name."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], optimizer: Any, hps: Sequence[Tree]) -> None:
        self.optimizer = optimizer
        self.params: dict[str, Any] = dict(model.named_parameters())
        self.sites = {name: group.site for group in groups for name in group.names}
        self.group = {name: i for i, group in enumerate(groups) for name in group.names}
        self.divided = {n: divided_of(optimizer, self.sites[n], param) for n, param in self.params.items()}
        by_group = [
            all(self.divided[name] is None for name in group.names) and acts_by_entry(optimizer, group.site, hp)
            for group, hp in zip(groups, hps, strict=True)
        ]
        self.by_entry = {name: by_group[i] for name, i in self.group.items()}
        self.in_rows: dict[str, set[str]] = {}  # leaves of a state that are sharded as the parameter is
        self.states = {name: self._first(name) for name in self.params}

    @torch.no_grad()
    def step(self, hps: Sequence[Tree]) -> None:
        """Move every parameter by its gradient; `hps` are scheduled numbers by group."""
        shares: dict[str, tuple[Any, Any]] = {}
        for name, param in self.params.items():
            if param.grad is None:
                raise RuntimeError(f"Parameter {name} got no gradient: the forward pass does not use it.")
            hp, divided = hps[self.group[name]], self.divided[name]
            if divided is not None:
                grad, rows = gradient_here(param), param.to_local()
                shares[name] = divided.rule.update(grad, self.states[name], rows, hp), divided.share
            elif self.by_entry[name]:
                self._by_rows(name, param, hp)
            else:
                self._gathered(name, param, hp)
        names = list(shares)
        for index, (move, state) in together(list(shares.values())):
            self.states[names[index]] = state
            self.params[names[index]].to_local().add_(move)
            del move

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and states as sharded or whole tensors, by the names a checkpoint gives them."""
        found = {f"param.{name}": param.detach() for name, param in self.params.items()}
        for name, state in self.states.items():
            for leaf, value in state.items():
                found[f"state.{name}.{leaf}"] = self._joined(name, leaf, value)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the states that `tensors` named; parameters are filled in place by whoever read them."""
        for name, state in self.states.items():
            for leaf in state:
                value: Any = tensors[f"state.{name}.{leaf}"]
                state[leaf] = value.to_local() if leaf in self.in_rows[name] else value

    def _first(self, name: str) -> Tree:
        param, divided = self.params[name], self.divided[name]
        if divided is not None:
            self.in_rows[name] = set(divided.rule.axes)
            return divided.rule.init(param.detach().to_local())
        if not self.by_entry[name]:
            # values do not matter for the shapes, but a part may read them
            return self._divided(name, self.optimizer.init(param.detach().full_tensor(), self.sites[name]))
        state = dict(self.optimizer.init(param.detach().to_local(), self.sites[name]))
        self.in_rows[name] = {leaf for leaf, value in state.items() if value.ndim}
        return state

    def _by_rows(self, name: str, param: Any, hp: Tree) -> None:
        rows, grad = param.to_local(), gradient_here(param)
        move, self.states[name] = self.optimizer.update(grad, self.states[name], rows, hp, self.sites[name])
        rows.add_(move)

    def _gathered(self, name: str, param: Any, hp: Tree) -> None:
        state = {leaf: _whole(self._joined(name, leaf, value)) for leaf, value in self.states[name].items()}
        move, state = self.optimizer.update(param.grad.full_tensor(), state, param.full_tensor(), hp, self.sites[name])
        param.to_local().add_(self._rows(name, move))
        self.states[name] = self._divided(name, state)

    def _divided(self, name: str, state: Tree) -> Tree:
        """Of tensors shaped like the parameter this process's rows; others stay whole."""
        self.in_rows[name] = {leaf for leaf, value in state.items() if value.shape == self.params[name].shape}
        return {leaf: self._rows(name, v) if leaf in self.in_rows[name] else v for leaf, v in state.items()}

    def _rows(self, name: str, value: Tensor) -> Tensor:
        part: Any = part_of(value, self.params[name])
        return part.to_local()

    def _joined(self, name: str, leaf: str, value: Tensor) -> Tensor:
        """The tensor of which `value` is this process's rows; one that every process holds stays as it is."""
        from torch.distributed.tensor import DTensor

        if leaf not in self.in_rows[name]:
            return value
        like, divided = self.params[name], self.divided[name]
        if divided is not None:
            return divided.closed(leaf, value, like)
        return DTensor.from_local(
            value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )


def acts_by_entry(optimizer: Any, site: Site, hp: Mapping[str, Tensor]) -> bool:
    """Whether two halves of a tensor, updated apart, are the halves of the tensor updated whole; two steps."""
    shape = tuple(min(n, LONGEST) for n in site.shape)
    if geometry_of(optimizer)(site) not in BY_ENTRY or not shape or shape[0] < 2:
        return False
    generator, half = torch.Generator().manual_seed(0), shape[0] // 2
    tensors = [torch.randn(shape, generator=generator) for _ in range(3)]
    for tensor in tensors:
        tensor[half:] *= 30.0  # so that a norm over all rows is not that of the first ones
    numbers = {name: value.cpu() for name, value in hp.items()}
    whole, *halves = (
        _two_steps(optimizer, site, numbers, [t[rows] for t in tensors])
        for rows in (slice(None), slice(0, half), slice(half, None))
    )
    return all(_joins(whole[leaf], [h[leaf] for h in halves], shape) for leaf in whole)


def _two_steps(optimizer: Any, site: Site, hp: Tree, tensors: Sequence[Tensor]) -> Tree:
    param, *grads = tensors
    state = optimizer.init(param, site)
    for grad in grads:
        move, state = optimizer.update(grad, state, param, hp, site)
        param = param + move
    return {"": param} | state


def _joins(whole: Tensor, halves: Sequence[Tensor], shape: tuple[int, ...]) -> bool:
    """Whether a tensor is its halves put together; one without axes must be the same in both."""
    if tuple(whole.shape) == shape:
        return _near(whole, torch.cat(list(halves)))
    return whole.ndim == 0 and all(half.ndim == 0 and _near(whole, half) for half in halves)


def _near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=AGREE, atol=AGREE * float(one.abs().max()))


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value
