"""The arithmetic of `answer.py`: two ways of buying an answer, replayed on losses that were measured.

A purchase is what was spent so far and the value believed best after it. Our tuning asks only for values of the
measured grid; Optuna asks for any, so losses are interpolated between the grid's. That spares it the noise between two
values of one seed, which is in its favour. Pruned runs are paid for up to where they stopped; judging is free for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from windtunnel.recipe import Tuned
from windtunnel.tune import Tried, Tuning, basin, coarse_values, fine_values

Purchases = list[tuple[float, float]]  # FLOPs so far, value believed best


@dataclass(frozen=True)
class Landscape:
    """Judged losses (values, evaluations) of one seed at one width over learning rates; `flops` of a whole run."""

    rates: tuple[float, ...]
    losses: Any
    flops: float

    def __call__(self, rate: float) -> Any:
        """The judged losses at any rate within the grid: a smooth interpolation in the logarithm."""
        x = self._curve.x
        return self._curve(np.clip(math.log2(rate), x[0], x[-1]))

    @cached_property
    def _curve(self) -> Any:
        return Akima1DInterpolator(np.log2(self.rates), self.losses, method="makima")

    def at(self, rate: float) -> float:
        """The final loss as measured; KeyError for a rate that was not trained."""
        found = [i for i, r in enumerate(self.rates) if math.isclose(r, rate, rel_tol=1e-3)]
        if not found:
            raise KeyError(rate)
        return float(self.losses[found[0], -1])


def mean_of(landscapes: Sequence[Landscape]) -> Landscape:
    """The mean over seeds."""
    first = landscapes[0]
    return Landscape(first.rates, np.mean([each.losses for each in landscapes], axis=0), first.flops)


def regret_over(truth: Landscape) -> Callable[[float], float]:
    """A function from a rate to the share of the loss that it gives away against the curve's lowest point."""
    steps = np.linspace(math.log2(truth.rates[0]), math.log2(truth.rates[-1]), 1201)
    lowest = min(float(truth(2.0**x)[-1]) for x in steps)
    return lambda rate: float(truth(rate)[-1]) / lowest - 1


def reached(purchases: Purchases, regret: Callable[[float], float], bar: float) -> float | None:
    """FLOPs from which on the value's regret is at most `bar`; None if it is not at the end."""
    good = None
    for spent, value in purchases:
        if regret(value) > bar:
            good = None
        elif good is None:
            good = spent
    return good


def ours(grid: Mapping[int, Landscape], range_: Tuned, seeds: Sequence[int], tuning: Tuning) -> Purchases:
    """windtunnel's tuning at the base: a coarse sweep with one seed, a fine one with all, the parabola's bottom."""
    flops = next(iter(grid.values())).flops

    def tried(values: Sequence[float], asked: Sequence[int]) -> list[Tried]:
        return [Tried(v, s, grid[s].at(v)) for v in values for s in asked]

    coarse = tried(coarse_values(range_, tuning.points), seeds[:1])
    fine = tried(fine_values(range_, tuning.points, coarse), seeds[: tuning.seeds])
    runs = {(t.value, t.seed) for t in coarse + fine}
    best = min(coarse, key=lambda t: t.loss or math.inf).value
    found = basin("lr", coarse + fine).optimum.median
    return [(flops * len(coarse), best), (flops * len(runs), float(f"{found:.3g}"))]


def searched(landscape: Landscape, range_: Tuned, *, trials: int, seed: int) -> Purchases:
    """Optuna's: TPE and the median pruner as they come, one run after the other."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner())
    spent, found = 0.0, []
    for _ in range(trials):
        asked = study.ask()
        losses = landscape(asked.suggest_float("lr", range_.low, range_.high, log=True))
        spent += landscape.flops * _tell(study, asked, losses, optuna.trial.TrialState.PRUNED) / len(losses)
        found.append((spent, float(study.best_params["lr"])))
    return found


def _tell(study: Any, asked: Any, losses: Any, pruned: Any) -> int:
    """Report loss after loss until the pruner ends it; how many were reported."""
    for step, loss in enumerate(losses):
        asked.report(float(loss), step)
        if asked.should_prune() and step + 1 < len(losses):
            study.tell(asked, state=pruned)
            return step + 1
    study.tell(asked, float(losses[-1]))
    return len(losses)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values)), "n": len(values)}
