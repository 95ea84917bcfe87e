"""What is expected before the surrogate: for each size a level, and a slope on the prior mean, with their doubt.

log loss = a + b m(x), b near 1: settings differ at one size about as they do at another. A newcomer would subtract the
mean and forget a and b; then a handful of runs near the best setting make the process sure of all the others too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Settings (points, dimensions) to their expected log loss, up to a constant, and the standard deviation of its doubt.
Mean = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

SLOPE = 0.2  # standard deviation of b about 1 before any run (guess)
LEVEL = 10.0  # of a: nothing is known
UNSEEN = 0.1  # of the level of a size without runs, about the line through its neighbours (guess)
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
    centre = float(raw.mean())
    columns = _columns(mean, settings, centre)
    most = int(np.argmax(np.bincount(at)))  # what one run may be off its line is known best where there are most runs
    least = max(float(np.std((logs - columns[:, 1])[at == most])), LEAST)
    fitted = [
        _line(columns[at == f], logs[at == f], least) if (at == f).any() else None for f in range(len(fidelities))
    ]
    levels = [None if line is None else float(line[0][0]) for line in fitted]
    lines = [line or _unseen(fidelities, levels, f) for f, line in enumerate(fitted)]
    return Trend(mean, tuple(fidelities), centre, np.array([c for c, _ in lines]), np.array([v for _, v in lines]))


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


def _line(columns: np.ndarray, logs: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Bayesian least squares with b near 1 and the residuals' own spread as noise; coefficients and covariance."""
    precision, prior = np.diag([LEVEL**-2.0, SLOPE**-2.0]), np.array([0.0, 1.0])
    noise = max(float(np.std(logs - columns[:, 1])), least)
    found, covariance = prior, np.eye(2)
    for _ in range(3):
        covariance = np.linalg.inv(columns.T @ columns / noise**2 + precision)
        found = covariance @ (columns.T @ logs / noise**2 + precision @ prior)
        noise = max(float(np.sqrt(np.mean((logs - columns @ found) ** 2))), least)
    return found, covariance


def _unseen(fidelities: Sequence[float], levels: Sequence[float | None], place: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([level_at(fidelities, levels, place), 1.0]), np.diag([UNSEEN**2, SLOPE**2])
