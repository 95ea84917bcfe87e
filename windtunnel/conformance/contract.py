"""The contract: the parts give what they promise, and init and update are pure functions of one tensor.

Called here as the engine would call them, one tensor of every kind in the bench's model, with float64 hyperparameters
without axes; but outside vmap, where errors name the user's own line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from windtunnel.conformance.extras import misspelt, numbers_trouble, tensor_trouble
from windtunnel.conformance.finding import Finding, Place, failed, passed
from windtunnel.conformance.places import place_of, user_line, watching_returns
from windtunnel.conformance.shapes import drawn_trouble, network_trouble
from windtunnel.conformance.subject import CPU, Subject, at, rung_of
from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.sites import RoleUntold
from windtunnel.train.extras import OF_OPTIMIZERS, followed, needs_of, told_to
from windtunnel.train.pack import groups_of, stacked_hyperparameters, table_of

UPDATES = 3  # the first may differ from the rest (a first step often divides by zero); a third for good measure
PURE = (
    "Return new tensors, leave the arguments as they are: mean = beta * mean + (1 - beta) * grad, not mean.mul_(beta)."
)
SHAPES = (
    "The step has the shape and type of the parameter, for it is added to it: begin with zeros_like(param) or grad."
)
STATE = (
    "The state is a dict of tensors with the same names, shapes and types at every step: "
    "a count is param.new_zeros(()), and what meets hp is turned back with .to(state[name].dtype)."
)


class Broken(Exception):
    """The contract is broken; carries the finding."""

    def __init__(self, found: str, place: Place | None, remedy: str) -> None:
        super().__init__(found)
        self.finding = failed(found, place, remedy)


ROLES_REMEDY = (
    "On the class of the model part or the transform, without an annotation: the roles above; where it adds tensors "
    "or FLOPs, size(size, rung, data) -> Size, with their number in non_embedding and their cost in flops_per_token."
)


def contract(subject: Subject) -> Finding:
    """The parts give what they promise, init and update on a tensor of every kind in the model."""
    optimizer, objective = subject.recipe.optimizer, subject.recipe.objective
    for part, asks in (
        (objective, lambda: needs_of(objective)),
        (optimizer, lambda: told_to(optimizer)),
        (subject.idea, lambda: followed(subject.recipe)),
    ):
        try:
            asks()
        except InputError as error:
            return failed(str(error), place_of(part), "Need only what there is; windtunnel/recipe.py says what.")
    if trouble := drawn_trouble(subject):
        return failed(*trouble)
    try:
        table = table_of(subject.recipe, rung_of(subject.recipe, 1), rung_of(subject.recipe, 1))
    except RoleUntold as error:
        return failed(str(error), subject.network, ROLES_REMEDY)
    except InputError as error:
        return failed(str(error), place_of(optimizer), _geometry_remedy(optimizer))
    groups = groups_of(table)
    if trouble := misspelt(optimizer) or numbers_trouble(optimizer, table.sites) or network_trouble(subject):
        return failed(*trouble)
    hps = stacked_hyperparameters(groups, [subject.recipe.fill(at(subject.recipe, 0.5)).optimizer], CPU, [0])
    try:
        for group, hp in zip(groups, hps, strict=True):
            _keeps(optimizer, group.site, {name: values[0] for name, values in hp.items()} | _told(optimizer))
    except Broken as broken:
        return broken.finding
    roles = dict.fromkeys(group.site.role for group in groups)
    further = [name for name in OF_OPTIMIZERS if hasattr(optimizer, name)]
    further += [f"needs {n}" for n in (*told_to(optimizer), *needs_of(objective))]
    further += [f"network needs {name}" for name in followed(subject.recipe)]
    told = f"; further: {', '.join(further)}" if further else ""
    return passed(f"{UPDATES} updates of one tensor of each role: {', '.join(roles)}{told}")


def _told(optimizer: Any) -> dict[str, Tensor]:
    """Samples of what the engine tells an optimizer that needs it."""
    samples = {"loss": 2.0, "horizon": 100.0}
    return {name: torch.tensor(samples[name], dtype=torch.float64) for name in told_to(optimizer)}


def _geometry_remedy(optimizer: Any) -> str:
    name = type(optimizer).__name__
    return f'In the class {name}, without an annotation: geometry = "entrywise", or a method geometry(self, site).'


def _keeps(optimizer: Any, site: Site, hp: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(site.shape, generator=generator) * site.fan_in**-0.5
    with watching_returns(optimizer.init) as seen, _Untouched({"param": param}, optimizer.init):
        state = optimizer.init(param, site)
    _check_state(state, seen.get("return") or place_of(optimizer.init), f"init of a {site.role} tensor")
    for _ in range(UPDATES):
        grad = torch.randn(site.shape, generator=generator) * 0.1
        trouble, hp = tensor_trouble(optimizer, grad, state, param, hp, site)
        if trouble is not None:
            raise Broken(*trouble)
        watched = {"grad": grad, "param": param} | _named("state", state) | _named("hp", hp)
        with watching_returns(optimizer.update) as seen, _Untouched(watched, optimizer.update):
            returned = optimizer.update(grad, dict(state), param, hp, site)
        where = seen.get("return") or place_of(optimizer.update)
        param, state = _checked(returned, param, state, where, site)


def _checked(returned: Any, param: Tensor, state: Any, where: Place | None, site: Site) -> tuple[Tensor, Any]:
    """The next parameter and state, if what update returned is as promised."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise Broken(
            f"update returned a {_kind(returned)}", where, "Return two things: return step, {...the state...}."
        )
    step, new = returned
    if not isinstance(step, Tensor) or step.shape != param.shape or step.dtype != param.dtype:
        what = f"update returned a step that is {_kind(step)}; the {site.role} parameter is {_kind(param)}"
        raise Broken(what, where, SHAPES)
    _check_state(new, where, f"update of a {site.role} tensor")
    if (before := {n: _kind(t) for n, t in state.items()}) != (after := {n: _kind(t) for n, t in new.items()}):
        raise Broken(f"update turned the state {_shown(before)} into {_shown(after)}", where, STATE)
    return param + step, new


def _check_state(state: Any, where: Place | None, what: str) -> None:
    if not isinstance(state, dict):
        raise Broken(f"{what} returned a state that is {_kind(state)}", where, STATE)
    for name, leaf in state.items():
        if not isinstance(leaf, Tensor) or not isinstance(name, str):
            raise Broken(f"{what} returned a state whose {name!r} is {_kind(leaf)}", where, STATE)


class _Untouched(TorchFunctionMode):
    """Raises Broken at the end if a named tensor was changed, with the line that changed it first."""

    def __init__(self, tensors: Mapping[str, Tensor], during: Callable[..., Any]) -> None:
        super().__init__()
        self.tensors, self.during = tensors, during
        self.before = {name: (t._version, t.clone()) for name, t in tensors.items()}
        self.line: Place | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.line is None and any(t._version != self.before[name][0] for name, t in self.tensors.items()):
            self.line = user_line()
        return out

    def __exit__(self, kind: Any, *rest: Any) -> None:
        super().__exit__(kind, *rest)
        changed = [name for name, t in self.tensors.items() if _changed(t, *self.before[name])]
        if kind is None and changed:
            name = getattr(self.during, "__name__", "a call")
            where = self.line or place_of(self.during)
            raise Broken(f"{name} changes its argument {changed[0]} in place", where, PURE)


def _changed(tensor: Tensor, version: int, copy: Tensor) -> bool:
    """Written to since: its version was raised, or (through .data, which raises none) its numbers differ."""
    return tensor._version != version or not bool(((tensor == copy) | (copy != copy)).all())


def _named(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f'{what}["{name}"]': tensor for name, tensor in tensors.items()}


def _kind(thing: Any) -> str:
    if isinstance(thing, Tensor):
        return f"{str(thing.dtype).removeprefix('torch.')} {tuple(thing.shape)}"
    return f"{type(thing).__name__} of {len(thing)}" if isinstance(thing, tuple) else type(thing).__name__


def _shown(kinds: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {kind}" for name, kind in kinds.items()) + "}"
