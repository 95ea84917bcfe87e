"""Scale: what a rule says of one tensor. ScaleTable: name to Scale for a model, plain data outside the model.

A newcomer would tag the Parameter objects; tags are lost under deepcopy, sharding and functional calls. Here a table is
applied by name. Forward multipliers belong to modules (a tied tensor is multiplied as readout, not as embedding) and
act through hooks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.recipe import Parametrization, Site
from windtunnel.runs import canonical
from windtunnel.scaling.sites import on_meta, readout_modules, sites


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Initial mean and standard deviation, and factors on lr, eps, weight decay and the layer's output.

    `lr`, `eps` and `decay` multiply the optimizer's own values; `forward` multiplies the input of the layer that uses
    the tensor as a readout.
    """

    init_std: float
    init_mean: float = 0.0
    lr: float = 1.0
    eps: float = 1.0
    decay: float = 1.0
    forward: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ScaleTable:
    """Scales by parameter name, forward multipliers by module name, sites by parameter name."""

    scales: Mapping[str, Scale]
    forward: Mapping[str, float]
    sites: Mapping[str, Site]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with a hash of the scales."""
        data = {"scales": {n: asdict(s) for n, s in self.scales.items()}, "forward": dict(self.forward)}
        sites_data = {name: asdict(site) for name, site in self.sites.items()}
        return data | {"sites": sites_data, "hash": hashlib.sha256(canonical(data).encode()).hexdigest()[:16]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScaleTable:
        """The table that `to_json` wrote; raises InputError where its hash does not fit its content."""
        sites = {name: Site(**{**site, "shape": tuple(site["shape"])}) for name, site in data["sites"].items()}
        scales = {name: Scale(**scale) for name, scale in data["scales"].items()}
        table = cls(scales=scales, forward=dict(data["forward"]), sites=sites)
        if table.to_json()["hash"] != data.get("hash"):
            raise InputError(
                "The scale table was changed after it was written: its hash differs. Adopt the model anew."
            )
        return table

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Hook the forward multipliers onto a model; the handles remove them."""
        modules = dict(model.named_modules())
        missing = sorted(set(self.forward) - set(modules))
        if missing:
            raise InputError(f"The scale table multiplies the input of {missing}, which this model does not have.")
        return [modules[name].register_forward_pre_hook(_multiply(value)) for name, value in self.forward.items()]


def scale_table(
    build: Callable[[Rung], nn.Module], rung: Rung, base: Rung, rule: Parametrization, geometry: Callable[[Site], str]
) -> ScaleTable:
    """The table of a model at `rung`, relative to `base`.

    `build` makes the model of a rung; only shapes are looked at, on the meta device.
    """
    return table_from(sites(build, rung, base), rule, geometry, on_meta(lambda: build(rung)))


def table_from(
    found: Mapping[str, tuple[Site, Site]], rule: Parametrization, geometry: Callable[[Site], str], model: nn.Module
) -> ScaleTable:
    """The table of sites beside their base's, forward multipliers at the modules of `model` that use the tensors."""
    scales = {name: rule.scale(here, there, geometry(here)) for name, (here, there) in found.items()}
    modules = readout_modules(model)
    forward = {modules[name]: scale.forward for name, scale in scales.items() if scale.forward != 1.0}
    return ScaleTable(scales=scales, forward=forward, sites={name: here for name, (here, _) in found.items()})


def geometry_of(optimizer: Any) -> Callable[[Any], Any]:
    """An optimizer's geometry as a function of the site."""
    declared = getattr(optimizer, "geometry", None)
    if declared is None:
        raise InputError(
            f"{type(optimizer).__name__} does not say how its updates grow; add a line to the class: geometry = "
            f'"entrywise" (Adam), "gradient" (SGD), "spectral" (Muon), or another of windtunnel.scaling.rules.reach.'
        )
    return declared if callable(declared) else lambda site: str(declared)


def _multiply(value: float) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    # the input, not the output: a readout's bias has no multiplier
    return lambda module, inputs: (inputs[0] * value, *inputs[1:])
