"""Coordinate check: do activations, and how far the first steps of training move them, keep their size in width?

Under a sound width rule the mean |activation| of every module is flat in width after each step; in the standard
parametrization it grows. Where updates vanish as the model grows sizes stay flat too, so moves are measured: the mean
|change| of outputs on examples that are not trained on. A flat check does not prove that a learning rate transfers
(facts: it did not in several reports); it catches a wrong rule in seconds. For a training loop of your own there is
windtunnel.checks.coordinates; slopes and intervals are made in one place for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from windtunnel.ladder import Rung
from windtunnel.notebook import printed
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import RunSpec
from windtunnel.scaling.checks.listen import mean_absolute, mean_change, outputs_of
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.sites import reading_modules
from windtunnel.scaling.slopes import Slope, slope_of
from windtunnel.train.data import pack_batch
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack, build_model, table_of
from windtunnel.train.state import State
from windtunnel.train.steps import named_params

STEPS = 4
PROBED_TOKENS = 2048  # outputs of all modules on these are held at once: bounds memory (guess)
# A module passes when doubling the width changes its mean |activation| by less than about 13 % (guess: twice the slope
# that published ladders show for sound rules at these small widths).
SLOPE_BAR = 0.18
# Moves: a rule that errs by a half shows 0.5 or more, right ones stay within 0.3 (measured, widths 16 to 64, 8 seeds:
# stock optimizers with their own and with others' geometries). With few seeds only an interval wholly beyond speaks.
MOVE_BAR = 0.4
FALL = 0.5  # of a readout's moves: the first go through its random values (measured: see windtunnel.checks.coordinates)


@dataclass(frozen=True)
class Module:
    """Mean |activation| of one module's output by width after the last step, mean |change| since the first, and their
    log-log slopes."""

    SIZE: ClassVar[str] = "size"
    MOVE: ClassVar[str] = "move"

    name: str
    values: tuple[float, ...]
    fitted: Slope
    moves: tuple[float, ...]
    moved: Slope
    readout: bool

    @property
    def slopes(self) -> tuple[tuple[str, Slope], ...]:
        """Both slopes, by what they are of."""
        return (self.SIZE, self.fitted), (self.MOVE, self.moved)

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
        """Whether the slope of its size is small, and that of its moves not clearly large."""
        return math.isfinite(self.slope) and self.excess <= SLOPE_BAR and not self.drifts

    @property
    def drifts(self) -> bool:
        """Whether its moves clearly grow or shrink with width."""
        return self.moved.low > MOVE_BAR or self.moved.high < -MOVE_BAR - FALL * self.readout


@dataclass(frozen=True)
class Coordinates:
    """A coordinate check over widths."""

    widths: tuple[int, ...]
    modules: tuple[Module, ...]

    _repr_pretty_ = printed

    def __str__(self) -> str:
        worst = max(self.modules, key=lambda m: m.excess)
        flat = worst.excess <= SLOPE_BAR
        said = (
            f"coordinate check over widths {', '.join(map(str, self.widths))}: steepest module {worst.name} with slope "
            f"{worst.fitted} ({'flat' if flat else 'not flat'}, bar {SLOPE_BAR})"
        )
        if drifting := [m for m in self.modules if m.drifts]:
            steepest = max(drifting, key=lambda m: abs(m.moved.value))
            said += (
                f"; what training changes is not flat in {len(drifting)} of {len(self.modules)} modules: "
                f"{steepest.name} moves with slope {steepest.moved} (bar {MOVE_BAR})"
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """Plain data for the store and the report."""
        modules = [{"name": m.name, "step": STEPS, "values": list(m.values), "slope": m.slope, "ok": m.ok,
                    "interval": m.fitted.to_json(),
                    "moves": list(m.moves), "move": m.moved.to_json()}
                   for m in self.modules]  # fmt: skip
        return {"widths": list(self.widths), "modules": modules}


def coordinate_check(
    recipe: Recipe, *, base: Rung, widths: Sequence[int] = (1, 2, 4), seed: int = 0, seeds: int = 2
) -> Coordinates:
    """Train a filled recipe for a few steps at multiples of the base width and measure every module's output."""
    rungs = [base.but(width=base.width * w, heads=base.heads * w) for w in widths]
    found = [[activations(recipe, rung, base, seed + i) for i in range(seeds)] for rung in rungs]
    grown, readouts = [rung.width for rung in rungs], _readouts(recipe, base, list(found[0][0]))

    def fitted(name: str, quantity: int) -> tuple[tuple[float, ...], Slope]:
        rows = [[run[name][quantity] for run in at] for at in found]
        return tuple(float(np.mean(at)) for at in rows), slope_of(grown, rows)

    modules = [Module(name, *fitted(name, 0), *fitted(name, 1), name in readouts) for name in found[0][0]]
    return Coordinates(tuple(grown), tuple(modules))


def _readouts(recipe: Recipe, base: Rung, names: Sequence[str]) -> set[str]:
    """Names of the modules that choose experts, that read the network out, and of all that end after these.

    `names` are in the order in which modules end: what ends after the last readout wraps it, or changes its output.
    """
    model, sites = on_meta(lambda: build_model(recipe, base)), table_of(recipe, base, base).sites
    logits = reading_modules(model, sites, ("readout",))
    last = max((place for place, name in enumerate(names) if name in logits), default=len(names))
    return reading_modules(model, sites) | set(names[last:])


def activations(
    recipe: Recipe, rung: Rung, base: Rung, seed: int, steps: int = STEPS
) -> dict[str, tuple[float, float]]:
    """Module name to mean |output| after `steps` steps at the full learning rate, and to its mean |change| since the
    start, on the examples of the step after them."""
    pack = _pack(recipe, rung, base, seed, steps)
    engine = Engine(pack, torch.device("cpu"), packed=False, compile=False)
    state = engine.start()
    examples = min(pack.rung.batch or 1, max(1, PROBED_TOKENS // recipe.data.shape().tokens_per_example))
    (inputs,), _ = pack_batch(recipe.data, [seed], steps, examples, engine.device)
    before = _outputs(engine, state, inputs)
    for _ in range(steps):
        engine.advance(state)
    after = _outputs(engine, state, inputs)
    moved = {n: mean_change([out], [before[n]]) if n in before else math.nan for n, out in after.items()}
    return {n: (mean_absolute([out]), moved[n]) for n, out in after.items()}


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


def _outputs(engine: Engine, state: State, inputs: Tensor) -> dict[str, Tensor]:
    """The last output of every module, by name."""
    (weights,) = named_params(engine.groups, state.params)
    with torch.no_grad(), outputs_of(engine.model) as seen:
        functional_call(engine.model, weights, (inputs,))
    return {name: outputs[-1] for name, outputs in seen.items()}
