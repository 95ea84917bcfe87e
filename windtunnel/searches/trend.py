"""What is expected before the surrogate: for each size a level, and a slope on the prior mean, with their doubt.

log loss = a + b m(x), b near 1 at the smallest size, and drifting along sizes: settings differ at one size about as
they do at the next. A newcomer would subtract the mean and forget a and b; then a handful of runs near the best setting
make the process sure of all the others too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Settings (points, dimensions) to their expected log loss, up to a constant, and the standard deviation of its doubt.
Mean = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# Standard deviations of b: its drift over a factor e in size, the same way all along, and what each size has of its
# own. Of mixtures, where a larger model forgives a wrong one less, b rose by 0.9 and by 0.3 over such a factor on two
# ladders (measured, benchmarks/mixtures.py: 1.7 at the largest size of both).
DRIFT, OWN = 0.6, 0.15
LEVEL = 10.0  # of a: nothing is known
UNSEEN = 0.1  # of the level of a size without runs, about the line through its neighbours (guess)
ROUNDS = 5  # of fitting lines and their noise in turns
LEAST = 1e-3  # noise of one log loss at least: repeated seeds of small models differ by more (guess)


@dataclass(frozen=True, eq=False)
class Trend:
    """Of each fidelity (a, b) and their covariance; `centre` is taken from m, so that a and b hardly depend."""

    mean: Mean | None
    fidelities: tuple[float, ...]
    centre: float
    coefficients: np.ndarray  # (fidelities, 2)
    covariances: np.ndarray  # (fidelities, 2, 2)

    def __call__(self, settings: np.ndarray, fidelity: np.ndarray) -> np.ndarray:
        """Expected log loss of settings (points, dimensions) at fidelities (points,), their numbers up to 1."""
        return np.sum(self.columns(settings) * self.coefficients[self._places(fidelity)], axis=1)

    def variance(self, settings: np.ndarray, fidelity: np.ndarray) -> np.ndarray:
        """Doubt of that expectation (points,), the prior mean's own included."""
        columns, places = self.columns(settings), self._places(fidelity)
        own = 0.0 if self.mean is None else np.square(self.mean(settings)[1])
        return np.einsum("ni,nij,nj->n", columns, self.covariances[places], columns) + own

    def columns(self, settings: np.ndarray) -> np.ndarray:
        """1 and m(x), less its centre: (points, 2)."""
        return _columns(self.mean, settings, self.centre)

    def _places(self, fidelity: np.ndarray) -> np.ndarray:
        return np.argmin(np.abs(np.asarray(self.fidelities)[None, :] - np.asarray(fidelity)[:, None]), axis=1)


def fit_trend(
    settings: np.ndarray, at: np.ndarray, logs: np.ndarray, fidelities: Sequence[float], mean: Mean | None
) -> Trend:
    """Level and slope of each fidelity from its runs: `at` are the places of their fidelities, `logs` their losses."""
    raw = np.zeros(len(settings)) if mean is None else mean(settings)[0]
    centre, count = float(raw.mean()), len(fidelities)
    columns = _columns(mean, settings, centre)
    there = [bool((at == f).any()) for f in range(count)]
    found, covariance = _lines(columns, at, logs, _prior(fidelities))
    levels = [float(found[f]) if known else None for f, known in enumerate(there)]
    coefficients, covariances = [], []
    for f, known in enumerate(there):
        pair = np.ix_((f, count + f), (f, count + f))
        coefficients.append((found[f] if known else level_at(fidelities, levels, f), found[count + f]))
        own = covariance[pair] if known else np.diag([UNSEEN**2, covariance[count + f, count + f]])
        covariances.append(own)
    return Trend(mean, tuple(fidelities), centre, np.array(coefficients), np.array(covariances))


def level_at(fidelities: Sequence[float], levels: Sequence[float | None], place: int) -> float:
    """A fidelity's level; where no run was told, on the line through the two nearest that were."""
    known = [(abs(s - fidelities[place]), s, level) for s, level in zip(fidelities, levels, strict=True)
             if level is not None]  # fmt: skip
    (_, s, level), *others = sorted(known)
    if s == fidelities[place] or not others:
        return level
    _, s2, level2 = others[0]
    return level + (level2 - level) * (fidelities[place] - s) / (s2 - s)


def _columns(mean: Mean | None, settings: np.ndarray, centre: float) -> np.ndarray:
    raw = np.full(len(settings), centre) if mean is None else np.asarray(mean(settings)[0], float)
    return np.column_stack([np.ones(len(settings)), raw - centre])


def _prior(fidelities: Sequence[float]) -> np.ndarray:
    """Covariance of all levels, then all slopes, before any run; the smallest size's slope does not drift."""
    count, far = len(fidelities), np.log(np.asarray(fidelities) / min(fidelities))
    prior = np.zeros((2 * count, 2 * count))
    prior[:count, :count] = LEVEL**2 * np.eye(count)
    prior[count:, count:] = DRIFT**2 * np.outer(far, far) + OWN**2 * np.eye(count)
    return prior


def _lines(columns: np.ndarray, at: np.ndarray, logs: np.ndarray, prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bayesian least squares of all levels and slopes.

    The noise of a size is its residuals' spread, less the line's two freedoms, and at least that where there are most
    runs: there it is known best.
    """
    count = len(prior) // 2
    runs = np.bincount(at, minlength=count)
    design = np.zeros((len(logs), 2 * count))
    design[np.arange(len(logs)), at], design[np.arange(len(logs)), count + at] = columns.T
    expected = np.repeat([0.0, 1.0], count)
    off = logs - columns[:, 1]  # from slopes of 1, with any level
    off = off - (np.bincount(at, off, count) / np.maximum(runs, 1))[at]
    precision, found, covariance = np.linalg.inv(prior), expected, prior
    for _ in range(ROUNDS):
        spread = np.sqrt(np.bincount(at, off**2, count) / np.maximum(runs - 2, 1))
        noise = np.maximum(spread, max(float(spread[np.argmax(runs)]), LEAST))[at, None]
        covariance = np.linalg.inv((design / noise**2).T @ design + precision)
        found = covariance @ ((design / noise**2).T @ logs + precision @ expected)
        off = logs - design @ found
    return found, covariance
