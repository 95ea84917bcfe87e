"""Run-to-run noise and the grouping of runs into rungs.

Noise is relative: the standard deviation of log loss between runs that differ only in their seed, pooled over sizes.
With one run a size it cannot be known; the residuals of a law stand in, and a caveat says so. It shrinks with size; how
fast, the seeds tell, drawn to what published repeats show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from windtunnel.laws.observations import ALL_SIZES, Observations
from windtunnel.laws.repeated import repeating
from windtunnel.notebook import printed

# Relative run-to-run noise believed before any is seen, worth one degree of freedom. Guess: repeated runs differ by
# 0.02-0.1 % at 190M-1B (OLMo ladder) and about 1 % at 14-96k parameters (measured, 3 seeds).
TYPICAL_NOISE, TYPICAL_DF = 0.003, 1
# Noise goes as size ** -SHRINKS, per e-fold of the ladder's axis: 1 % at 3e11 FLOPs (probe of 3 seeds) and 0.02-0.1 %
# at 1e19-1e20 (OLMo ladder) are 0.15 to 0.2 per e-fold of compute; the spread of the belief is a guess.
SHRINKS, SHRINKS_SPREAD = 0.15, 0.1
FALSE_ALARMS = 0.001  # share of columns that do nothing of which it may be said that the loss goes with them
HYPERPARAMETERS = ("lr", "batch_tokens")
SEARCHED = (*HYPERPARAMETERS, "steps")  # what differs between the runs of one search
SAME = 0.01  # values of a hyperparameter so near each other in the logarithm are one (guess; sweeps step by 5 %)
MOST_RUNGS = 12  # more distinct sizes than this are merged into LEVELS steps of equal width in log size
LEVELS = 8


@dataclass(frozen=True)
class Noise:
    """Relative standard deviation of one run, its degrees of freedom, and whether seeds (repeats, where none are
    stated), residuals or both told it."""

    relative: float
    df: int
    source: str

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"{100 * self.relative:.2f} % ({self.source}, {self.df} degrees of freedom)"


def rungs(observations: Observations) -> np.ndarray:
    """The rung of each run, 0 the smallest: by distinct size, or by steps in log size where sizes are many.

    Where data repeat, size is params: by compute the upper rungs would be the runs with the most data, and a backtest
    that hides those never shows what the forecast is asked for, larger models that memorise. Not where all have one.
    """
    logs = _log_sizes(observations)
    distinct, label = np.unique(logs, return_inverse=True)
    if len(distinct) <= MOST_RUNGS:
        return label
    edges = np.linspace(logs.min(), logs.max(), LEVELS + 1)[1:-1]
    return np.unique(np.digitize(logs, edges), return_inverse=True)[1]


def _log_sizes(o: Observations) -> np.ndarray:
    if o.params is not None and repeating(o) and np.ptp(by_params := np.round(np.log(o.params), 2)) > 0:
        return by_params
    return np.round(np.log(o.size), 2)


def repeats(observations: Observations) -> np.ndarray:
    """A label of each run that is equal for runs that differ at most in their seed."""
    columns = {name: column for name in ALL_SIZES if (column := getattr(observations, name)) is not None}
    if not columns:
        return np.zeros(len(observations), int)
    table = np.nan_to_num(np.stack([value_labels(*column) for column in columns.items()], axis=1), nan=-1.0)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def searched(o: Observations) -> tuple[str, ...]:
    """What runs of one size may be searched over: steps are their size where nothing else is."""
    return tuple(name for name in SEARCHED if name != o.axis)


def value_labels(name: str, column: np.ndarray) -> np.ndarray:
    """A label of each value; a beta of 0.999 is another than one of 0.99, a rate of 6.01e-4 none but 6e-4."""
    return settings(column) if name in HYPERPARAMETERS else np.round(np.log(column), 3)


def settings(column: np.ndarray) -> np.ndarray:
    """A label of each value of a hyperparameter: values apart by less than others are, as a logger rounds, are one."""
    logs = np.nan_to_num(np.log(column), nan=-1e9)
    values, label = np.unique(logs, return_inverse=True)
    group = np.cumsum(np.diff(values, prepend=values[0]) > SAME)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    if np.any(np.append(values[starts[1:] - 1], values[-1]) - values[starts] > SAME):  # drawn at random, close together
        return np.unique(np.round(logs, 3), return_inverse=True)[1]
    return group[label]


def seed_noise(observations: Observations) -> tuple[float, int]:
    """Pooled standard deviation of log loss between repeats, and its degrees of freedom (0: no repeats)."""
    label = repeats(observations)
    logs = np.log(observations.loss)
    counts = np.bincount(label)
    means = np.bincount(label, logs) / counts
    df = int(np.sum(counts - 1))
    return (float(np.sqrt(np.sum((logs - means[label]) ** 2) / df)), df) if df else (0.0, 0)


def shrinkage(observations: Observations) -> float:
    """How fast the noise shrinks: the exponent of size, from the spread of repeats at each size and SHRINKS.

    Each size's log variance has the error of a chi-square; one size alone tells nothing, and the belief is returned.
    """
    label, logs = repeats(observations), np.log(observations.loss)
    counts = np.bincount(label)
    means = np.bincount(label, logs) / counts
    squares = np.bincount(label, (logs - means[label]) ** 2)
    known = (counts > 1) & (squares > 0)
    if known.sum() < 2:
        return SHRINKS
    df = counts[known] - 1
    size = (np.bincount(label, np.log(observations.size)) / counts)[known]
    seen = 0.5 * (np.log(squares[known] / df) - special.digamma(df / 2) + np.log(df / 2))  # log standard deviation
    weight = 4 / special.polygamma(1, df / 2)
    away = size - weight @ size / weight.sum()
    precision = weight @ away**2
    return float((SHRINKS / SHRINKS_SPREAD**2 - weight @ (away * seen)) / (1 / SHRINKS_SPREAD**2 + precision))


def shrunk(spread: Any, log_size: np.ndarray, from_size: float, shrink: float) -> np.ndarray:
    """A spread of runs of log size `from_size` at other log sizes."""
    return spread * np.exp(-shrink * (log_size - from_size))


def pooled(*parts: tuple[float, int]) -> float:
    """Standard deviations pooled by their degrees of freedom, with the typical noise as one more."""
    squares = TYPICAL_DF * TYPICAL_NOISE**2 + sum(df * sd**2 for sd, df in parts)
    return float(np.sqrt(squares / (TYPICAL_DF + sum(df for _, df in parts))))


def run_noise(observations: Observations, residual: float, residual_df: int) -> Noise:
    """The noise of one new run: from seeds where they say most, else from seeds and residuals together.

    A lone repeat among many sizes must not speak for all of them. The residuals are those about a parabola in log-log
    where there is one size axis, because a law that misfits would call its own error noise; else those of a law. Over
    merged sizes the parabola misfits too, and the lesser of both counts.
    """
    between, df = seed_noise(observations)
    told = "repeats" if observations.seed is None else "seeds"
    if not two_ways(observations) and rungs(observations).max() >= 3:
        bend = parabola(observations)
        if bend.scatter < residual or len(np.unique(_log_sizes(observations))) <= MOST_RUNGS:
            residual, residual_df = bend.scatter, bend.df
    if df >= max(residual_df, 1):
        return Noise(pooled((between, df)), df, told)
    source = f"{told} and residuals" if df else "residuals"
    return Noise(pooled((between, df), (residual, residual_df)), df + residual_df, source)


def explains(gain: float, parameters: int, variance: float, df: int, alarms: float = FALSE_ALARMS) -> bool:
    """An F test: whether so many more parameters lower a sum of squares by more than noise of such a variance would."""
    return bool(special.fdtrc(parameters, df, gain / parameters / variance) < alarms)


def rung_means(o: Observations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean log size, mean log loss and number of runs of each rung."""
    label = rungs(o)
    runs = np.bincount(label)
    return np.bincount(label, np.log(o.size)) / runs, np.bincount(label, np.log(o.loss)) / runs, runs


def two_ways(o: Observations) -> bool:
    """Whether runs of about equal size differ in shape, so that a single curve over size means nothing."""
    if o.params is None or o.tokens is None:
        return False
    ratio, size = np.log(o.tokens / o.params), np.log(o.size)
    return bool(np.std(ratio - np.polyval(np.polyfit(size, ratio, 1), size)) > 0.15)


@dataclass(frozen=True)
class Parabola:
    """Log loss over log size: slope in the middle, its change over the ladder, and the scatter of one run about it.

    `unit` times a run's noise is the standard error of `change`.
    """

    slope: float
    change: float
    unit: float
    scatter: float
    df: int


def parabola(o: Observations) -> Parabola:
    """Least squares over rung means, each counting by its runs; needs 4 rungs."""
    x, y, runs = rung_means(o)
    root = np.sqrt(runs)
    design = np.stack([np.ones_like(x), x - x.mean(), (x - x.mean()) ** 2], axis=1) * root[:, None]
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ (y * root)
    df = len(x) - 3
    scatter = float(np.sqrt(np.sum((y * root - design @ coefficients) ** 2) / df))
    span = 2 * (x[-1] - x[0])
    return Parabola(
        slope=float(coefficients[1]),
        change=float(span * coefficients[2]),
        unit=float(span * np.sqrt(inverse[2, 2])),
        scatter=scatter,
        df=df,
    )
