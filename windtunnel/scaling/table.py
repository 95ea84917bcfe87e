"""Scale: what a rule says of one tensor. ScaleTable: name to Scale for a model, plain data outside the model.

A newcomer would tag the Parameter objects; tags are lost under deepcopy, sharding and functional calls. Here a table is
applied by name. Multipliers belong to modules and act through hooks: a forward multiplier on the input of a layer (a
tied tensor is multiplied as readout, not as embedding), a residual one on the output of the last module of a branch.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from windtunnel.errors import InputError
from windtunnel.files import misfit, shape_of
from windtunnel.recipe import Parametrization, Site
from windtunnel.runs import canonical
from windtunnel.scaling.sites import readout_modules
from windtunnel.scaling.wrapped import bare, modules

OF_MATRICES = ("embedding", "tied", "input", "hidden", "router", "expert_up", "expert_down", "readout")
SAME = 1e-6  # relative: rates that differ by less are one
_FACTORS = {str: (int, float)}
_SITE = {"role": str, "shape": [int], "fan_in": int, "fan_out": int}
_SHAPE = {"scales": {str: _FACTORS}, "forward": _FACTORS, "sites": {str: _SITE}, "caveats": [str]}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Initial mean and standard deviation, and factors on lr, eps, weight decay and the layer's output.

    `lr`, `eps` and `decay` multiply the optimizer's own values; `forward` multiplies the input of the layer that uses
    the tensor (not a lookup), `residual` the output of the residual branch that the tensor stands in. `decay` is of
    PyTorch's decoupled meaning (a step shrinks a weight by lr x decay), `coupled` of an L2 penalty in the gradient.
    """

    init_std: float
    init_mean: float = 0.0
    lr: float = 1.0
    eps: float = 1.0
    decay: float = 1.0
    coupled: float = 1.0
    forward: float = 1.0
    residual: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ScaleTable:
    """Scales and sites by parameter name, forward and residual multipliers by module name, and what is doubtful."""

    scales: Mapping[str, Scale]
    forward: Mapping[str, float]
    sites: Mapping[str, Site]
    residual: Mapping[str, float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, with a hash of the scales."""
        data: dict[str, Any] = {"scales": {n: asdict(s) for n, s in self.scales.items()}}
        data |= {"forward": dict(self.forward), "residual": dict(self.residual)}
        sites_data = {name: asdict(site) for name, site in self.sites.items()}
        return data | {
            "sites": sites_data,
            "caveats": list(self.caveats),
            "hash": hashlib.sha256(canonical(data).encode()).hexdigest()[:16],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScaleTable:
        """The table that `to_json` wrote; raises InputError for anything else, and where its hash does not fit."""
        wrong = misfit(data, _SHAPE, "it")
        if wrong:
            raise InputError(f"This is not a scale table: {wrong}. Give what ScaleTable.to_json returned.")
        with shape_of("This scale table", "give what ScaleTable.to_json returned."):
            return cls._of(data)

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> ScaleTable:
        sites = {name: Site(**{**site, "shape": tuple(site["shape"])}) for name, site in data["sites"].items()}
        scales = {name: Scale(**scale) for name, scale in data["scales"].items()}
        table = cls(
            scales=scales,
            forward=dict(data["forward"]),
            sites=sites,
            residual=dict(data.get("residual", {})),
            caveats=tuple(data["caveats"]),
        )
        if table.to_json()["hash"] != data.get("hash"):
            raise InputError(
                "The scale table was changed after it was written: its hash differs. Adopt the model anew."
            )
        return table

    def with_branches(self, ends: Sequence[str]) -> ScaleTable:
        """This table with the residual multipliers at the modules that end the branches."""
        factors = {end: self._residual_at(end) for end in ends}
        return replace(self, residual={end: factor for end, factor in factors.items() if factor != 1.0})

    def _residual_at(self, module: str) -> float:
        """Of a tensor of the module, or, where its tensors are shared and go by another name, of one beside it."""
        found = [scale.residual for name, scale in self.scales.items() if name.startswith(f"{module}.")]
        return found[0] if found else self._residual_at(module.rpartition(".")[0]) if module else 1.0

    def unwrapped(self) -> ScaleTable:
        """This table by the names that tensors and modules had before parts of the model were wrapped."""
        held = {part: getattr(self, part) for part in ("scales", "forward", "sites", "residual")}
        return replace(self, **{part: {bare(n): v for n, v in named.items()} for part, named in held.items()})

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Hook the multipliers onto a model; the handles remove them. A second time does nothing.

        Where torch.compile is loaded, it is made to take notice of hooks and to forget what it compiled: else a graph
        made without them would be used for the model with them, and nothing would be said (measured, torch 2.13).
        """
        held = modules(model)
        missing = sorted({*self.forward, *self.residual} - set(held))
        if missing:
            raise InputError(f"The scale table has multipliers at {missing}, which this model does not have.")
        before = {n: by for n, by in self.forward.items() if not _has(held[n]._forward_pre_hooks, _TimesInput, n, by)}
        after = {n: by for n, by in self.residual.items() if not _has(held[n]._forward_hooks, _TimesOutput, n, by)}
        if (before or after) and "torch._dynamo" in sys.modules:
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            torch.compiler.reset()
        handles = [held[name].register_forward_pre_hook(_TimesInput(by)) for name, by in before.items()]
        return handles + [held[name].register_forward_hook(_TimesOutput(by)) for name, by in after.items()]


def table_from(
    found: Mapping[str, tuple[Site, Site]], rule: Parametrization, geometry: Callable[[Site], str], model: nn.Module
) -> ScaleTable:
    """The table of sites beside their base's, forward multipliers at the modules of `model` that use the tensors."""
    scales = {name: rule.scale(here, there, geometry(here)) for name, (here, there) in found.items()}
    users, forward = readout_modules(model), {}
    for name, scale in scales.items():
        if scale.forward != 1.0:
            _check_alone(name, users[name], model)
            forward[users[name]] = scale.forward
    return ScaleTable(scales=scales, forward=forward, sites={name: here for name, (here, _) in found.items()})


def _check_alone(name: str, user: str, model: nn.Module) -> None:
    """A multiplier acts on a module's input, so the module must apply this weight to it, and no other."""
    weights = [p for p in model.get_submodule(user).parameters() if p.ndim > 1]
    if len(weights) > 1:
        raise InputError(
            f"The rule multiplies the input of {name}, but {user} (a {type(model.get_submodule(user)).__name__}) holds "
            f'{len(weights)} weights, so there is no one input. Take a rule without multipliers: MuP(form="initial"), '
            f"or Standard(per_layer=True)."
        )


def geometry_of(optimizer: Any) -> Callable[[Any], Any]:
    """An optimizer's geometry as a function of the site."""
    declared = getattr(optimizer, "geometry", None)
    if declared is None:
        raise InputError(
            f"{type(optimizer).__name__} does not say how its updates grow; add a line to the class: geometry = "
            f'"entrywise" (Adam), "gradient" (SGD), "spectral" (Muon), or another of windtunnel.scaling.rules.reach.'
        )
    return declared if callable(declared) else lambda site: str(declared)


def check_suits(optimizer: Any, rule: Parametrization) -> None:
    """InputError where an optimizer that was made under one rule (a learned one) is given another."""
    if hasattr(optimizer, "suits"):
        optimizer.suits(rule)


def check_rates(optimizer: Any, table: ScaleTable) -> None:
    """InputError where an optimizer that brings a rule is given a table with the rates of another one.

    A table does not say which rule made it; matrices' rates do, for a rule that is brought has its base width within.
    """
    rule: Any = getattr(optimizer, "parametrization", None)
    if rule is None:
        return
    geometry = geometry_of(optimizer)
    for name, site in table.sites.items():
        if site.role not in OF_MATRICES:
            continue
        wanted, found = rule.scale(site, site, geometry(site)).lr, table.scales[name].lr
        if abs(found - wanted) > SAME * wanted:
            raise InputError(
                f"{type(optimizer).__name__} was trained under {rule}, where {name} has {wanted:.3g} times the rate, "
                f"and the scale table gives it {found:.3g}: make the table for it, adopt(..., optimizer=part)."
            )


@dataclass(frozen=True)
class _TimesInput:
    """A hook: the input, not the output, for a readout's bias has no multiplier."""

    by: float

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not inputs:
            raise InputError(f"A {type(module).__name__} with a multiplier was called by keyword; call it as head(x).")
        return inputs[0] * self.by, *inputs[1:]


@dataclass(frozen=True)
class _TimesOutput:
    """A hook: the output, bias and all, for it is the branch that is scaled."""

    by: float

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)((output[0] * self.by, *output[1:]))
        return output * self.by


def _has(hooks: Mapping[int, Any], kind: type[_TimesInput | _TimesOutput], name: str, by: float) -> bool:
    """Whether the multiplier is attached already; InputError where another one is."""
    there = [hook.by for hook in hooks.values() if isinstance(hook, kind)]
    if there and there != [by]:
        raise InputError(
            f"{name} has a multiplier of {there[0]:.4g} already and would get {by:.4g} as well; attach one table to a "
            f"model, or remove the handles that ScaleTable.attach returned."
        )
    return bool(there)
