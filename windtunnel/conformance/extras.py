"""What an optimizer may have besides `init` and `update`: each method keeps its promise on a tensor of every role."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from windtunnel.conformance.finding import Trouble
from windtunnel.conformance.places import place_of, watching_returns
from windtunnel.recipe import Site
from windtunnel.train.extras import OF_OPTIMIZERS

NUMBERS = "numbers(tensors, seed, stretch) returns {name: {number: value}} with the same numbers for every tensor."
TOTALS = (
    'totals returns a dict of numbers without axes, to be summed over the network: {"square": grad.square().sum()}.'
)
MAXIMA = 'maxima returns a dict of tensors, the same shapes for every tensor: {"largest": grad.abs().max()}.'
SHIFT = "It has the shape and type of the parameter, for the engine adds it: begin with grad or zeros_like(param)."
READ = "It takes the place of the parameter when a run is judged, so it has its shape and type."


def misspelt(optimizer: Any) -> Trouble | None:
    """A method that the engine never calls, for it is spelt almost as one that it does."""
    for name, method in inspect.getmembers(type(optimizer), callable):
        near = get_close_matches(name, OF_OPTIMIZERS, cutoff=0.75)
        if near and name not in OF_OPTIMIZERS and not name.startswith("_"):
            return f"the engine never calls {name}; it calls {near[0]}", place_of(method), f"Call it {near[0]}."
    return None


def numbers_trouble(optimizer: Any, sites: Mapping[str, Site]) -> Trouble | None:
    """What is wrong with `numbers`, if anything."""
    if not hasattr(optimizer, "numbers"):
        return None
    found = optimizer.numbers(sites, 0, 0)
    where = place_of(optimizer.numbers)
    if not isinstance(found, Mapping) or set(found) != set(sites):
        return "numbers does not give each tensor its own", where, NUMBERS
    called = [frozenset(own) if isinstance(own, Mapping) else None for own in found.values()]
    if None in called or len(set(called)) > 1:
        return "numbers gives one tensor other numbers than another", where, NUMBERS
    if optimizer.numbers(sites, 0, 0) != found:
        return "numbers says something else when it is asked again", where, "It is a function of names, seed, stretch."
    return None


def tensor_trouble(
    optimizer: Any, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: dict[str, Tensor], site: Site
) -> tuple[Trouble | None, dict[str, Tensor]]:
    """What is wrong with `totals`, `maxima`, `look_ahead` or `readout` at one tensor, and hp with what is joined."""
    if hasattr(optimizer, "totals"):
        with watching_returns(optimizer.totals) as seen:
            found = optimizer.totals(grad, dict(state), param, hp, site)
        if not isinstance(found, dict) or not all(isinstance(t, Tensor) and not t.dim() for t in found.values()):
            return ("totals returned what is no dict of numbers without axes", seen.get("return"), TOTALS), hp
        hp = hp | {name: value.double() for name, value in found.items()}
    if hasattr(optimizer, "maxima"):
        with watching_returns(optimizer.maxima) as seen:
            found = optimizer.maxima(grad, dict(state), param, hp, site)
        if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
            return ("maxima returned what is no dict of tensors", seen.get("return"), MAXIMA), hp
        hp = hp | {name: value.double() for name, value in found.items()}
    for name, arguments, remedy in (
        ("look_ahead", (grad, dict(state), param, hp, site), SHIFT),
        ("readout", (param, dict(state), site), READ),
    ):
        if not hasattr(optimizer, name):
            continue
        method = getattr(optimizer, name)
        with watching_returns(method) as seen:
            found = method(*arguments)
        if not isinstance(found, Tensor) or found.shape != param.shape or found.dtype != param.dtype:
            kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            what = f"{name} of the {site.role} tensor {param.dtype} {tuple(param.shape)} returned {kind}"
            return (what.replace("torch.", ""), seen.get("return") or place_of(method), remedy), hp
        if not torch.isfinite(found).all():
            return (f"{name} of the {site.role} tensor is not finite", place_of(method), "Guard the division."), hp
    return None, hp
