"""The three functions a pack is trained with: gradient, update, judgement; batched over members, or one by one.

Packed, they run under `torch.func.vmap`; alone, the same functions are called on a single member without it. Which one
was used, and why not the other, is recorded in the run's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from windtunnel.train.pack import Group

Tree = dict[str, Tensor]


def over_members(function: Callable[..., Any], packed: bool) -> Callable[..., Any]:
    """Batch a function over the first axis of all its tensors; alone, over a first axis of length one without vmap."""
    if packed:
        return vmap(function, randomness="error")
    return lambda *args: _map(function(*(_map(a, lambda t: t[0]) for a in args)), lambda t: t.unsqueeze(0))


def over_tensors(function: Callable[..., Any], packed: bool) -> Callable[..., Any]:
    """Batch a function over the first axis; alone, call it for each entry and stack what it returns."""
    if packed:
        return vmap(function, randomness="error")

    def one_by_one(*args: Any) -> Any:
        count = len(args[0])
        results = [function(*(_map(a, lambda t, i=i: t[i]) for a in args)) for i in range(count)]
        return _stack(results)

    return one_by_one


def gradient(model: nn.Module, groups: Sequence[Group], objective: Any, packed: bool) -> Callable[..., Any]:
    """(params, inputs, targets) to (gradients, mean loss per token), all with a leading member axis."""

    def loss(params: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return objective(functional_call(model, _named(groups, params), (inputs,)), targets).mean()

    losses = over_members(loss, packed)

    def gradients(params: list[Tensor], inputs: Tensor, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        leaves = [p.detach().requires_grad_() for p in params]
        values = losses(leaves, inputs, targets)
        # no operation crosses members, so the gradient of the sum holds each member's own gradient
        return list(torch.autograd.grad(values.sum(), leaves)), values.detach()

    return gradients


def update(groups: Sequence[Group], optimizer: Any, packed: bool) -> Callable[..., Any]:
    """(params, gradients, states, hyperparameters) to (params, states), group by group."""
    rules = [over_tensors(_one_tensor(optimizer, group), packed) for group in groups]

    def apply(params: list[Tensor], grads: list[Tensor], states: list[Tree], hps: list[Tree]) -> Any:
        done = []
        for rule, param, grad, state, hp in zip(rules, params, grads, states, hps, strict=True):
            flat, state = rule(param.flatten(0, 1), grad.flatten(0, 1), state, hp)
            done.append((flat.view_as(param), state))
        return [p for p, _ in done], [s for _, s in done]

    return apply


def first_states(groups: Sequence[Group], optimizer: Any, params: Sequence[Tensor], packed: bool) -> list[Tree]:
    """The optimizer's initial state for each group, tensors (m * g, ...)."""
    return [
        over_tensors(lambda p, site=group.site: optimizer.init(p, site), packed)(param.flatten(0, 1))
        for group, param in zip(groups, params, strict=True)
    ]


def judgement(model: nn.Module, groups: Sequence[Group], packed: bool) -> Callable[..., Any]:
    """(params, inputs, targets) to (summed cross-entropy in nats, hits), one number a member."""

    def judged(params: list[Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(model, _named(groups, params), (inputs,)).flatten(0, 1)
        hits = (outputs.argmax(-1) == targets.flatten()).float().sum()
        return F.cross_entropy(outputs, targets.flatten(), reduction="sum"), hits

    if packed:
        return vmap(judged, in_dims=(0, None, None), randomness="error")
    return lambda params, x, y: _map(judged([p[0] for p in params], x, y), lambda t: t.unsqueeze(0))


def _one_tensor(optimizer: Any, group: Group) -> Callable[..., Any]:
    def step(param: Tensor, grad: Tensor, state: Tree, hp: Tree) -> tuple[Tensor, Tree]:
        move, new = optimizer.update(grad, state, param, hp, group.site)
        return param + move, new

    return step


def _named(groups: Sequence[Group], params: Sequence[Tensor]) -> dict[str, Tensor]:
    # unbind, not indexing: its backward is one stack instead of a zero-filled copy for each tensor
    pairs = zip(groups, params, strict=True)
    return {name: t for group, stack in pairs for name, t in zip(group.names, stack.unbind(0), strict=True)}


def _map(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, dict):
        return {name: _map(leaf, function) for name, leaf in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(leaf, function) for leaf in tree)
    return function(tree)


def _stack(trees: Sequence[Any]) -> Any:
    first = trees[0]
    if isinstance(first, dict):
        return {name: _stack([tree[name] for tree in trees]) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(_stack([tree[i] for tree in trees]) for i in range(len(first)))
    return torch.stack(list(trees))
