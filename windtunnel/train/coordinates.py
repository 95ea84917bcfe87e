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
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import RunSpec
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.sites import reading_modules
from windtunnel.scaling.slopes import Slope, slope_of
from windtunnel.train.data import pack_batch
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack, build_model, table_of
from windtunnel.train.steps import named_params

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
    """Names of the modules that read the network out, or choose experts."""
    return reading_modules(on_meta(lambda: build_model(recipe, base)), table_of(recipe, base, base).sites)


def activations(recipe: Recipe, rung: Rung, base: Rung, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Module name to mean |output| in the forward pass after `steps` steps at the full learning rate."""
    pack = _pack(recipe, rung, base, seed, steps)
    engine = Engine(pack, torch.device("cpu"), packed=False, compile=False)
    state = engine.start()
    for _ in range(steps):
        engine.advance(state)
    seen = _record_outputs(engine.model)
    with torch.no_grad():
        (weights,) = named_params(engine.groups, state.params)
        inputs, _ = pack_batch(recipe.data, [seed], steps, pack.rung.batch or 1, engine.device)
        functional_call(engine.model, weights, (inputs[0],))
    return {name: values[-1] for name, values in seen.items()}


@dataclass(frozen=True)
class _Full:
    """The peak learning rate throughout."""

    def __call__(self, tokens: float, horizon: float) -> float:
        return 1.0


def _pack(recipe: Recipe, rung: Rung, base: Rung, seed: int, steps: int) -> Pack:
    """One run that is longer than the steps, its numbers as they are: not carried to another batch or horizon."""
    a_step = (rung.batch or 1) * recipe.data.shape().tokens_per_example
    rung = rung.but(tokens=(steps + 1) * a_step, batch=rung.batch or 1, unique_tokens=None)
    judge = Judge(data=recipe.data, tokens=1, evaluations=1)
    spec = RunSpec(
        recipe={}, rung=rung, hyperparameters={}, seed=seed, judge={},
        base_rung=rung.but(width=base.width, depth=base.depth, heads=base.heads),
    )  # fmt: skip
    return Pack(recipe=recipe.but(schedule=_Full(), phases=None), specs=(spec,), judge=judge)


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
