"""Find the role of every tensor of an unmodified model by building it at two widths and comparing shapes.

What grows with width decides: both sides, hidden; the input side alone, readout; the output side alone, input. Models
are built on the meta device, so nothing is allocated. A newcomer would read roles off names; names lie. Depth has no
factor here: a rung is compared with the base's width at the rung's own depth.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.recipe import Site

_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}
Build = Callable[[Rung], nn.Module]


def sites(build: Build, rung: Rung, base: Rung) -> dict[str, tuple[Site, Site]]:
    """Parameter name to (site at `rung`, site at the base width)."""
    base = base.but(depth=rung.depth)
    here, there, wider = (
        _on_meta(build, r) for r in (rung, base, base.but(width=2 * base.width, heads=2 * base.heads))
    )
    shapes = {name: tuple(p.shape) for name, p in wider.named_parameters()}
    owners = _owners(there)
    found = {}
    at_base = dict(there.named_parameters())
    for name, param in here.named_parameters():
        if name not in at_base or at_base[name].ndim != param.ndim:
            raise InputError(
                f"Tensor {name} of shape {tuple(param.shape)} at {rung} has no counterpart at width {base.width}; a "
                f"model must have the same tensors at every width."
            )
        role = _role(name, tuple(at_base[name].shape), shapes[name], owners[name])
        found[name] = (_site(role, tuple(param.shape)), _site(role, tuple(at_base[name].shape)))
    return found


def readout_modules(build: Build, rung: Rung) -> dict[str, str]:
    """Parameter name to the module whose output a forward multiplier of that tensor scales: its non-lookup user."""
    model = _on_meta(build, rung)
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, str] = {}
    for module_name, module in model.named_modules():
        for param in module.parameters(recurse=False):
            if not isinstance(module, nn.Embedding):
                found[names[id(param)]] = module_name
    return found


def _on_meta(build: Build, rung: Rung) -> nn.Module:
    with torch.device("meta"), _Undrawn():
        return build(rung)


class _Undrawn(TorchFunctionMode):
    """Skips initial draws: on the meta device they draw nothing, and load a large part of torch to do it (1.4 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _owners(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Canonical parameter name to the modules that hold it; more than one when tied."""
    names = {id(p): name for name, p in model.named_parameters()}
    owners: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            owners.setdefault(names[id(param)], []).append(module)
    return owners


def _role(name: str, base: tuple[int, ...], wider: tuple[int, ...], owners: list[nn.Module]) -> str:
    if any(isinstance(module, nn.Embedding) for module in owners):
        return "tied" if len(owners) > 1 else "embedding"
    plain = isinstance(owners[0], nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if name.rpartition(".")[2] not in ("weight", "bias") or (len(base) > 1 and not plain):
        raise InputError(
            f"The role of tensor {name} (shape {base}, in a {type(owners[0]).__name__}) cannot be told from its shape, "
            f"and a wrong role would scale it wrongly. Use Linear, Conv, Embedding and norm layers, whose tensors are "
            f"called weight and bias."
        )
    if len(base) < 2:
        return "bias" if name.endswith("bias") else "gain"
    grows_out, grows_in = base[0] != wider[0], base[1] != wider[1]
    if grows_out and grows_in:
        return "hidden"
    return "input" if grows_out else "readout" if grows_in else "fixed"


def _site(role: str, shape: tuple[int, ...]) -> Site:
    if len(shape) < 2:
        count = shape[0] if shape else 1
        return Site(role=role, shape=shape, fan_in=1, fan_out=count)
    if role in ("embedding", "tied"):  # stored as (vocabulary, width): a lookup maps the first to the second
        return Site(role=role, shape=shape, fan_in=shape[0], fan_out=shape[1])
    return Site(role=role, shape=shape, fan_in=prod(shape[1:]), fan_out=shape[0])
