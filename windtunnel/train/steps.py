"""The three functions a pack is trained with: gradient, update, judgement; batched over members, or one by one.

Packed, they run under `torch.func.vmap`; alone, the same functions are called on a single member without it. Which one
was used, and why not the other, is recorded in the run's cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from windtunnel.errors import InputError
from windtunnel.meaning import name_of
from windtunnel.train.data import share
from windtunnel.train.extras import needs_of
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Group

Tree = dict[str, Tensor]
Given = dict[str, Any]  # what an objective asked for, tensors with a leading member axis
Within = Callable[[], AbstractContextManager[Any]]  # entered anew at every call
JOINED: dict[str, Callable[[Tensor, int], Tensor]] = {"totals": torch.sum, "maxima": torch.amax}  # over the network


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


def called(model: nn.Module, within: Within = nullcontext) -> Callable[[Tree, Tensor], Tensor]:
    """(tensors by name, inputs) to outputs, in float32 whatever the precision `within` which the model is computed; the
    model's own tensors are in their places again afterwards.

    torch's own ties do not put them back where one module stands in several places: it is swapped twice.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    places = model.named_parameters(remove_duplicate=False)
    modules = {name for name, _ in model.named_modules()}  # each once, by its first name
    others = {n: first[id(p)] for n, p in places if n != first[id(p)] and n.rpartition(".")[0] in modules}

    def call(named: Tree, inputs: Tensor) -> Tensor:
        tied = {name: named[same] for name, same in others.items()}
        with within():
            try:
                outputs = functional_call(model, named | tied, (inputs,), tie_weights=False)
            except RuntimeError as error:
                raise _of_kind(error, model, inputs) from error
        return outputs.float() if outputs.dtype is torch.bfloat16 else outputs

    return call


def _of_kind(error: RuntimeError, model: nn.Module, inputs: Tensor) -> RuntimeError:
    """An error of a network, with a word on inputs that are neither float32 nor the usual numbers of tokens."""
    if inputs.dtype in (torch.float32, torch.int64, torch.int32) or is_out_of_memory(error):
        return error
    kind = str(inputs.dtype).removeprefix("torch.")
    return RuntimeError(
        f"{type(model).__name__} was given inputs of {kind}, as the data plan gives them, and raised: {error}. "
        f"Give float32 (of pixels divided by 255; int64 for the numbers of tokens), or let the network begin with "
        f"x.float()."
    ).with_traceback(error.__traceback__)


def gradient(
    model: nn.Module, groups: Sequence[Group], objective: Any, packed: bool, within: Within = nullcontext,
    pieces: int = 1,
) -> Callable[..., Any]:  # fmt: skip
    """(params, inputs, targets, given) to (gradients, mean loss per token, memory to keep), with a leading member axis.

    `given` holds what the objective needs ("start" as stacks, like params) and, as "network", what modules need, by
    the names of their buffers; {} where nothing is needed. The examples are taken in `pieces`, each weighed by its
    share of them: the same mean and gradient, but for rounding, where an example's loss is its own.
    """
    needs, call = needs_of(objective), called(model, within)

    def loss(params: list[Tensor], inputs: Tensor, targets: Tensor, given: Given) -> tuple[Tensor, Tree]:
        named = _named(groups, params)
        outputs = call(named | given.get("network", {}), inputs)
        if not needs:
            found = objective(outputs, targets) if packed else _paired(objective, outputs, targets)
            check_pairs(found, outputs, targets, objective)
            return found.mean(), {}
        start = _named(groups, given["start"]) if "start" in given else {}
        told = {name: value for name, value in given.items() if name in needs}
        told |= {"params": named} if "params" in needs else {}
        told |= {"start": start} if "start" in needs else {}
        if "reference" in needs:
            told["reference"] = call(start, inputs).detach()
        found = objective(outputs, targets, told)
        return (found[0].mean(), found[1]) if "memory" in needs else (found.mean(), {})

    losses = over_members(loss, packed)

    def gradients(
        params: list[Tensor], inputs: Tensor, targets: Tensor, given: Given | None = None
    ) -> tuple[list[Tensor], Tensor, Tree]:
        leaves = [p.detach().requires_grad_() for p in params]
        values, memory = losses(leaves, inputs, targets, given or {})
        # no operation crosses members, so the gradient of the sum holds each member's own gradient
        grads = list(torch.autograd.grad(values.sum(), leaves))
        return grads, values.detach(), {name: kept.detach() for name, kept in memory.items()}

    def in_pieces(
        params: list[Tensor], inputs: Tensor, targets: Tensor, given: Given | None = None
    ) -> tuple[list[Tensor], Tensor, Tree]:
        size = inputs.shape[1]
        whole, mean = [torch.zeros_like(p) for p in params], torch.zeros(len(inputs), device=inputs.device)
        for rows in (share(size, i, min(pieces, size)) for i in range(min(pieces, size))):
            grads, values, _ = gradients(params, inputs[:, rows], targets[:, rows], given)
            weight = (rows.stop - rows.start) / size
            for total, grad in zip(whole, grads, strict=True):
                total.add_(grad, alpha=weight)
            mean += weight * values
        return whole, mean, {}

    return gradients if pieces == 1 else in_pieces


def _paired(objective: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    """An objective's losses; an error of its says what it was given, and keeps the line where it was raised."""
    try:
        return objective(outputs, targets)
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise RuntimeError(
            f"{name_of(objective)} fails on outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}: "
            f"{error}. An objective is given outputs (examples, tokens, classes) and the data plan's targets, and "
            f"returns one loss a prediction, as F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), "
            f'reduction="none").view_as(targets)'
        ).with_traceback(error.__traceback__) from error


def look_ahead(groups: Sequence[Group], optimizer: Any, packed: bool) -> Callable[..., Any] | None:
    """(params, gradients, states, hyperparameters) to the weights where the update's gradient is taken, or None."""
    if not hasattr(optimizer, "look_ahead"):
        return None
    rules = [over_tensors(_shifted(optimizer, group), packed) for group in groups]
    sums = totals(groups, optimizer, packed)

    def shift(params: list[Tensor], grads: list[Tensor], states: list[Tree], hps: list[Tree]) -> list[Tensor]:
        hps = sums(params, grads, states, hps)
        return [
            rule(param.flatten(0, 1), grad.flatten(0, 1), state, hp).view_as(param)
            for rule, param, grad, state, hp in zip(rules, params, grads, states, hps, strict=True)
        ]

    return shift


def totals(groups: Sequence[Group], optimizer: Any, packed: bool) -> Callable[..., list[Tree]]:
    """(params, gradients, states, hyperparameters) to hyperparameters with what the optimizer sums over the network,
    and the largest of what it compares over it."""
    joins = [(name, join) for name, join in JOINED.items() if hasattr(optimizer, name)]
    rules = {name: [over_tensors(_of_tensor(optimizer, name, group), packed) for group in groups] for name, _ in joins}

    def joined(params: list[Tensor], grads: list[Tensor], states: list[Tree], hps: list[Tree]) -> list[Tree]:
        whole: Tree = {}
        for name, join in joins:
            parts = []
            for group, rule, param, grad, state, hp in zip(
                groups, rules[name], params, grads, states, hps, strict=True
            ):
                found = rule(param.flatten(0, 1), grad.flatten(0, 1), state, hp)
                parts.append({n: join(t.double().unflatten(0, (-1, len(group.names))), 1) for n, t in found.items()})
            whole |= {n: join(torch.stack([part[n] for part in parts]), 0) for n in parts[0]}
        return with_numbers(groups, hps, whole)

    return joined


def with_numbers(groups: Sequence[Group], hps: list[Tree], numbers: Tree) -> list[Tree]:
    """Hyperparameters and further numbers, a row each, the same for all tensors of a row's network."""
    return [
        hp | {name: t.repeat_interleave(len(group.names), 0) for name, t in numbers.items()}
        for group, hp in zip(groups, hps, strict=True)
    ]


def update(groups: Sequence[Group], optimizer: Any, packed: bool) -> Callable[..., Any]:
    """(params, gradients, states, hyperparameters) to (params, states), group by group."""
    rules = [over_tensors(_one_tensor(optimizer, group), packed) for group in groups]
    sums = totals(groups, optimizer, packed)

    def apply(params: list[Tensor], grads: list[Tensor], states: list[Tree], hps: list[Tree]) -> Any:
        done = []
        hps = sums(params, grads, states, hps)
        for rule, param, grad, state, hp in zip(rules, params, grads, states, hps, strict=True):
            flat, state = rule(param.flatten(0, 1), grad.flatten(0, 1), state, hp)
            done.append((_plain(flat).view_as(param), _plain(state)))
        return [p for p, _ in done], [s for _, s in done]

    return apply


def readout(groups: Sequence[Group], optimizer: Any, packed: bool) -> Callable[..., list[Tensor]]:
    """(params, states) to the params that are judged: the optimizer's readout, else as they are."""
    if not hasattr(optimizer, "readout"):
        return lambda params, states: params
    rules = [over_tensors(lambda p, s, site=group.site: optimizer.readout(p, s, site), packed) for group in groups]

    def read(params: list[Tensor], states: list[Tree]) -> list[Tensor]:
        return [
            rule(param.flatten(0, 1), state).view_as(param)
            for rule, param, state in zip(rules, params, states, strict=True)
        ]

    return read


def first_states(groups: Sequence[Group], optimizer: Any, params: Sequence[Tensor], packed: bool) -> list[Tree]:
    """The optimizer's initial state for each group, tensors (m * g, ...)."""
    return [
        _plain(over_tensors(lambda p, site=group.site: optimizer.init(p, site), packed)(param.flatten(0, 1)))
        for group, param in zip(groups, params, strict=True)
    ]


def judgement(
    model: nn.Module, groups: Sequence[Group], packed: bool, within: Within = nullcontext, loss: Any = None
) -> Callable[..., Any]:
    """(params, inputs, targets) to what `summed` says of them, one number a member."""

    call = called(model, within)

    def judged(params: list[Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return summed(call(_named(groups, params), inputs), targets, loss)

    if packed:
        return vmap(judged, in_dims=(0, None, None), randomness="error")
    return lambda params, x, y: _map(judged([p[0] for p in params], x, y), lambda t: t.unsqueeze(0))


def summed(outputs: Tensor, targets: Tensor, loss: Any = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats and hits, sums over predictions; with a judge's own loss, the sum over examples of their
    mean loss, and nan. `counted` says over how many. Raises InputError for losses that have no row an example."""
    if loss is None:
        outputs = outputs.flatten(0, 1)
        hits = (outputs.argmax(-1) == targets.flatten()).float().sum()
        return F.cross_entropy(outputs, targets.flatten(), reduction="sum"), hits
    found = loss(outputs, targets)
    if not isinstance(found, Tensor) or not found.ndim or len(found) != len(targets):
        what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"The judge's {name_of(loss)} gives {what} for {len(targets)} examples; it gives losses (examples, ...), "
            f"one row an example."
        )
    check_pairs(found, outputs, targets, loss)
    return found.float().reshape(len(targets), -1).mean(1).sum(), torch.full((), math.nan, device=found.device)


def check_pairs(losses: Tensor, outputs: Tensor, targets: Tensor, loss: Any) -> None:
    """Raise InputError for more losses than there are outputs and targets: then examples were set beside others'."""
    if losses.numel() > max(outputs.numel(), targets.numel()):
        raise InputError(
            f"{name_of(loss)} gives losses {tuple(losses.shape)} of outputs {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)}, so examples were compared with one another's. Outputs are (examples, tokens, "
            f"classes); bring both to one shape, as outputs.flatten(1) and targets.flatten(1)."
        )


def counted(targets: Tensor, loss: Any = None) -> int:
    """Over how many `summed` is a sum."""
    return targets.numel() if loss is None else len(targets)


def _one_tensor(optimizer: Any, group: Group) -> Callable[..., Any]:
    def step(param: Tensor, grad: Tensor, state: Tree, hp: Tree) -> tuple[Tensor, Tree]:
        move, new = optimizer.update(grad, state, param, hp, group.site)
        return param + move, new

    return step


def _of_tensor(optimizer: Any, name: str, group: Group) -> Callable[..., Any]:
    def single(param: Tensor, grad: Tensor, state: Tree, hp: Tree) -> Tree:
        return getattr(optimizer, name)(grad, state, param, hp, group.site)

    return single


def _shifted(optimizer: Any, group: Group) -> Callable[..., Any]:
    def ahead(param: Tensor, grad: Tensor, state: Tree, hp: Tree) -> Tensor:
        return param + optimizer.look_ahead(grad, state, param, hp, group.site)

    return ahead


def named_params(groups: Sequence[Group], params: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Stacked parameters as a dict by name for each row."""
    return [_named(groups, [p[row] for p in params]) for row in range(len(params[0]))]


def _named(groups: Sequence[Group], params: Sequence[Tensor]) -> dict[str, Tensor]:
    # unbind, not indexing: its backward is one stack instead of a zero-filled copy for each tensor
    pairs = zip(groups, params, strict=True)
    return {name: t for group, stack in pairs for name, t in zip(group.names, stack.unbind(0), strict=True)}


def _plain(tree: Any) -> Any:
    """With every tensor laid out row after row, as one from a checkpoint is, or a row that was copied: in which order a
    product is summed depends on that."""
    return _map(tree, Tensor.contiguous)


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
