"""The best lr and batch at each target of `windtunnel fit`, where the runs searched them, and the regret of using them.

Nobody has to ask for it: where the runs hold no search, there is no answer and no complaint. Regret needs a searched
truth: `predict` rows of one size that differ in lr or batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.hyperparameters import BestHyperparameters, best_hyperparameters
from windtunnel.ladder import Target
from windtunnel.laws.law import Sizes
from windtunnel.laws.noise import HYPERPARAMETERS, SEARCHED
from windtunnel.laws.observations import Observations
from windtunnel.laws.surface import Surface
from windtunnel.laws.surface_fit import fit_surface

Place = tuple[tuple[str, float], ...]
SEARCH = 5  # truth rows of one size that make a search, below which its best is no best (guess)


def surface_of(runs: Observations) -> Surface | None:
    """How loss depends on lr and batch around their best, from the runs to fit; None where they were not searched."""
    columns = [column for name in HYPERPARAMETERS if (column := getattr(runs, name)) is not None]
    known = np.all([np.isfinite(column) for column in columns], axis=0) if columns else np.zeros(len(runs), bool)
    if not known.any():
        return None
    try:
        return fit_surface(runs.where(known))
    except InputError:
        return None


def best_at(surface: Surface | None, sizes: Mapping[str, float], level: float) -> BestHyperparameters | None:
    """The best hyperparameters at a target's sizes; None where nothing can be said."""
    if surface is None:
        return None
    named: dict[str, Any] = {name: np.array([value]) for name, value in sizes.items() if name not in HYPERPARAMETERS}
    try:
        return best_hyperparameters(surface, Sizes(**named), level)
    except InputError:
        return None


def place_of(target: Target) -> Place:
    """The target's sizes without its hyperparameters: what the rows of one search have in common."""
    apart = {*SEARCHED} if target.tokens else {"lr"}
    return tuple((name, value) for name, value in target.stated().items() if name not in apart)


def regrets(
    targets: Sequence[tuple[Target, float]], best: Mapping[Place, BestHyperparameters | None]
) -> Iterator[float]:
    """Relative excess of the true loss nearest to the foretold hyperparameters over the best true loss, by size."""
    searches: dict[Place, list[tuple[Target, float]]] = {}
    for target, truth in targets:
        if np.isfinite(truth) and any(name in target.stated() for name in HYPERPARAMETERS):
            searches.setdefault(place_of(target), []).append((target, truth))
    for place, rows in searches.items():
        answer = best.get(place)
        if answer is not None and len(rows) >= SEARCH:
            yield _regret(rows, answer)


def _regret(rows: Sequence[tuple[Target, float]], answer: BestHyperparameters) -> float:
    losses = np.array([truth for _, truth in rows])
    away = np.zeros(len(rows))
    for name, interval in answer.values.items():
        tried = np.log([getattr(target, name) or np.nan for target, _ in rows])
        away += ((tried - np.log(interval.median)) / max(float(np.nanstd(tried)), 1e-9)) ** 2
    near = int(np.nanargmin(away)) if np.isfinite(away).any() else int(np.argmax(losses))
    return float(losses[near] / losses.min() - 1)
