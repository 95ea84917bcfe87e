"""Coordinate check: does the size of activations stay the same as the model grows, over the first steps of training?

Under a sound width rule the mean |activation| of every module is flat in width after each step; in the standard
parametrization it grows. A flat check does not prove that a learning rate transfers (facts: it did not in several
reports); it catches a wrong rule in seconds. For a training loop of your own there is windtunnel.checks.coordinates;
slopes and intervals are made in one place for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from windtunnel.ladder import Rung
from windtunnel.recipe import Recipe
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.sites import readout_modules
from windtunnel.scaling.slopes import Slope, slope_of
from windtunnel.train.data import pack_batch
from windtunnel.train.extras import Visits, drawn, first_memory, given_of, needs_of, remembered
from windtunnel.train.pack import build_model, groups_of, initial_params, stacked_hyperparameters, table_of
from windtunnel.train.steps import first_states, gradient, look_ahead, named_params, update

STEPS = 4
# A module passes when doubling the width changes its mean |activation| by less than about 13 % (guess: twice the slope
# that published ladders show for sound rules at these small widths).
SLOPE_BAR = 0.18


@dataclass(frozen=True)
class Module:
    """Mean |activation| of one module's output by width, after the last step, and its log-log slope."""

    name: str
    values: tuple[float, ...]
    fitted: Slope
    readout: bool

    @property
    def slope(self) -> float:
        """The slope alone; NaN where the module outputs zeros."""
        return self.fitted.value

    @property
    def excess(self) -> float:
        """How far the slope is from flat; a readout may shrink, for muP's random logits start as 1/sqrt(width)."""
        return max(self.slope, 0.0) if self.readout else abs(self.slope)

    @property
    def ok(self) -> bool:
        """Whether the slope is small."""
        return math.isfinite(self.slope) and self.excess <= SLOPE_BAR


@dataclass(frozen=True)
class Coordinates:
    """A coordinate check over widths."""

    widths: tuple[int, ...]
    modules: tuple[Module, ...]

    def __str__(self) -> str:
        worst = max(self.modules, key=lambda m: m.excess)
        return (
            f"coordinate check over widths {', '.join(map(str, self.widths))}: steepest module {worst.name} with slope "
            f"{worst.fitted} ({'flat' if worst.ok else 'not flat'}, bar {SLOPE_BAR})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for the store and the report."""
        modules = [{"name": m.name, "step": STEPS, "values": list(m.values), "slope": m.slope, "ok": m.ok,
                    "interval": m.fitted.to_json()}
                   for m in self.modules]  # fmt: skip
        return {"widths": list(self.widths), "modules": modules}


def coordinate_check(
    recipe: Recipe, *, base: Rung, widths: Sequence[int] = (1, 2, 4), seed: int = 0, seeds: int = 2
) -> Coordinates:
    """Train a filled recipe for a few steps at multiples of the base width and measure every module's output."""
    rungs = [base.but(width=base.width * w, heads=base.heads * w) for w in widths]
    found = [[activations(recipe, rung, base, seed + i) for i in range(seeds)] for rung in rungs]
    names = list(found[0][0])
    values = {name: [[run[name] for run in at] for at in found] for name in names}
    grown, readouts = [rung.width for rung in rungs], _readouts(recipe, base)
    modules = [
        Module(name, tuple(float(np.mean(at)) for at in rows), slope_of(grown, rows), name in readouts)
        for name, rows in values.items()
    ]
    return Coordinates(tuple(grown), tuple(modules))


def _readouts(recipe: Recipe, base: Rung) -> set[str]:
    """Names of the modules that read the network out."""
    users = readout_modules(on_meta(lambda: build_model(recipe, base)))
    found = table_of(recipe, base, base).sites
    return {users[name] for name, site in found.items() if site.role in ("readout", "tied") and name in users}


def activations(recipe: Recipe, rung: Rung, base: Rung, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Module name to mean |output| in the forward pass after `steps` steps at the full learning rate."""
    device = torch.device("cpu")
    model = build_model(recipe, rung)
    table = table_of(recipe, rung, base)
    table.attach(model)
    groups = groups_of(table)
    params = initial_params(groups, [seed], device)
    states = first_states(groups, recipe.optimizer, params, packed=False)
    grads_of = gradient(model, groups, recipe.objective, packed=False)
    ahead = look_ahead(groups, recipe.optimizer, packed=False)
    stepped = update(groups, recipe.optimizer, packed=False)
    hps = stacked_hyperparameters(groups, [recipe.optimizer], device, [seed])
    start, size, needs, memory = params, rung.batch or 1, needs_of(recipe.objective), {}
    visits = Visits(recipe, recipe.data, 0, steps, size) if "memory" in needs else None
    if visits is not None:
        memory = first_memory(recipe, visits, [seed], device)
    for step in range(steps):
        batch = pack_batch(recipe.data, [seed], step, size, device)
        indices = visits.places([seed], step, device) if visits is not None else None
        given = given_of(needs, start, memory, indices, torch.tensor([step / steps]))
        given |= drawn(recipe, [seed], step, size, device)
        grads, _, new = grads_of(params, *batch, given)
        if ahead is not None:
            grads = grads_of(ahead(params, grads, states, hps), *batch, given)[0]
        memory = remembered(memory, indices, new) if indices is not None else memory
        params, states = stepped(params, grads, states, hps)
    seen = _record_outputs(model)
    with torch.no_grad():
        (weights,) = named_params(groups, params)
        functional_call(model, weights, (pack_batch(recipe.data, [seed], steps, size, device)[0][0],))
    return {name: values[-1] for name, values in seen.items()}


def _record_outputs(model: nn.Module) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {}

    def listen(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.setdefault(name, []).append(float(output.detach().abs().mean()))

        return hook

    for name, module in model.named_modules():
        if name and not isinstance(module, nn.ModuleList):
            module.register_forward_hook(listen(name))
    return seen
