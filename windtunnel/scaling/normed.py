"""weight_norm: a weight that is computed as magnitude x direction, W = g v / |v| for each row.

The table is made for W, as if the weight were plain, and then said of the two tensors that are trained. v is drawn as W
would be and g is set to the rows' sizes |v|, so W starts as the table says. v then steps as W does. g must move by a
share of its own size to move the layer's output: its rate grows as the size of W's rows, which for a hidden matrix of
muP is constant. A newcomer would take g for a norm's gain and give it rate 1 everywhere; a readout's rows grow as the
square root of width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import nn
from torch.nn.utils import parametrize

from windtunnel.errors import InputError
from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.table import ScaleTable

PARTS = MAGNITUDE, DIRECTION = "original0", "original1"  # torch.nn.utils.parametrizations.weight_norm
ROLE = "magnitude"


def plain(model: nn.Module) -> dict[str, str]:
    """Make weights that weight_norm computes by rows plain again, in place: their names, and the two tensors' prefix.

    Other computed weights stay, and are asked for by name.
    """
    found = {}
    for name, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module, "weight") or not _by_rows(module):
            continue
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        at = f"{name}." if name else ""
        found[f"{at}weight"] = f"{at}parametrizations.weight."
    return found


def split(
    table: ScaleTable,
    computed: Mapping[str, str],
    pairs: Mapping[str, tuple[Site, Site]],
    rule: Parametrization,
    geometry: Callable[[Site], str],
) -> ScaleTable:
    """The table with the scale of each computed weight said of its magnitude and its direction.

    `pairs` holds the sites here and at the base. Raises InputError for optimizers whose steps are not of one size in
    every entry: how far theirs move a magnitude depends on the gradient, which has no rule here.
    """
    scales, sites = dict(table.scales), dict(table.sites)
    for name, at in computed.items():
        (here, base), scale = pairs[name], scales.pop(name)
        del sites[name]
        if here.role == "tied" or geometry(here) != "entrywise":
            raise InputError(
                f"{name} is computed by weight_norm; its magnitude has a rule for optimizers like Adam and untied "
                f"weights only (this one is {here.role}, its steps are {geometry(here)}). Leave the weight plain."
            )
        start = rule.scale(base, base, geometry(base)).init_std
        size = scale.init_std / start * (_row(here) / _row(base)) ** 0.5
        lr = size * rule.scale(_as_gain(here), _as_gain(base), geometry(here)).lr
        # v keeps no decay: its size does not matter to W, only to how far a step turns it. g decays in W's place.
        scales[at + DIRECTION] = replace(scale, decay=0.0)
        scales[at + MAGNITUDE] = replace(scale, init_std=0.0, lr=lr, decay=scale.lr * scale.decay / lr)
        sites[at + DIRECTION] = here
        shape = (here.shape[0], *(1 for _ in here.shape[1:]))
        sites[at + MAGNITUDE] = replace(_as_gain(here), role=ROLE, shape=shape)
    return replace(table, scales=scales, sites=sites)


def set_magnitudes(params: Mapping[str, nn.Parameter], sites: Mapping[str, Site]) -> None:
    """Every magnitude as large as its direction's rows, so that the weight is its direction as drawn."""
    for name, site in sites.items():
        if site.role == ROLE:
            rows = params[name.removesuffix(MAGNITUDE) + DIRECTION]
            with torch.no_grad():
                params[name].copy_(torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.ndim)), keepdim=True))


def held_size(module: nn.Module) -> nn.Parameter:
    """The tensor to which a module's weight is proportional: the magnitude of a computed one, or the weight."""
    return module.get_parameter(
        f"parametrizations.weight.{MAGNITUDE}" if parametrize.is_parametrized(module, "weight") else "weight"
    )


def _by_rows(module: nn.Module) -> bool:
    """Whether the weight is made by weight_norm alone, one magnitude for each output."""
    steps = list(module.parametrizations["weight"])  # pyright: ignore[reportIndexIssue, reportArgumentType]
    rows = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return rows and len(steps) == 1 and type(steps[0]).__name__ == "_WeightNorm" and steps[0].dim == 0


def _as_gain(site: Site) -> Site:
    return replace(site, role="gain", fan_in=1, shape=site.shape[:1])


def _row(site: Site) -> int:
    return prod(site.shape[1:])
