"""Interval, and the predictive distribution that intervals are read from.

The distribution of a log loss is a mixture: one Student-t around each parameter draw of each law. Its quantiles are
solved for, not sampled, so they are smooth and repeatable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from windtunnel.notebook import printed


@dataclass(frozen=True)
class Interval:
    """Median and bounds that are meant to hold the truth with probability `level`; units are the caller's."""

    median: float
    low: float
    high: float
    level: float = 0.9

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"{digits(self.median)} [{digits(self.low)}, {digits(self.high)}] at {100 * self.level:g}%"

    def signed(self) -> str:
        """Of a difference of losses: with signs, in digits that say something at the scale of the losses."""
        largest = max(abs(self.median), abs(self.low), abs(self.high))
        form = "+.4f" if 0.001 <= largest < 1000 else "+.4g"
        return f"{self.median:{form}} [{self.low:{form}}, {self.high:{form}}] at {100 * self.level:g}%"

    def holds(self, truth: float) -> bool:
        """Whether the truth lies inside."""
        return self.low <= truth <= self.high

    @property
    def half_width(self) -> float:
        """Half of it, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    def to_json(self) -> dict[str, float]:
        """Plain data that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interval:
        """The interval that `to_json` wrote."""
        return cls(**data)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Student-t kernels: `centres`, `weights` (summing to 1), `scale` (one or each), `df`."""

    centres: np.ndarray
    weights: np.ndarray
    scale: np.ndarray
    df: float

    def cdf(self, value: float | np.ndarray) -> np.ndarray:
        """Probability of a smaller value."""
        away = (np.asarray(value, float)[..., None] - self.centres) / self.scale
        return special.stdtr(self.df, away) @ self.weights

    def log_density(self, value: float) -> float:
        """Logarithm of the density, kept finite far away."""
        away = (value - self.centres) / self.scale
        constant = special.gammaln((self.df + 1) / 2) - special.gammaln(self.df / 2) - 0.5 * np.log(self.df * np.pi)
        logs = constant - np.log(self.scale) - (self.df + 1) / 2 * np.log1p(away**2 / self.df)
        return float(special.logsumexp(logs, b=self.weights))

    def quantile(self, probability: float | np.ndarray) -> np.ndarray:
        """Value below which the probability lies, by bisection where there is more than one kernel."""
        wanted = np.asarray(probability, float)
        if len(self.centres) == 1:
            return self.centres[0] + np.ravel(self.scale)[0] * special.stdtrit(self.df, wanted)
        reach = 60.0 * np.max(self.scale)
        low = np.full(wanted.shape, np.min(self.centres) - reach)
        high = np.full(wanted.shape, np.max(self.centres) + reach)
        for _ in range(42):  # 42 halvings: finer than 1e-10 of the range
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def samples(self, count: int) -> np.ndarray:
        """Values at evenly spaced probabilities, in order, by straight lines through the distribution: (count,)."""
        ends = self.quantile(np.array([0.25 / count, 0.5, 1 - 0.25 / count]))
        at = np.concatenate([np.linspace(ends[0], ends[1], 120), np.linspace(ends[1], ends[2], 120)[1:]])
        return np.interp((np.arange(count) + 0.5) / count, self.cdf(at), at)

    def stretched(self, factor: float) -> Mixture:
        """Wider by `factor` about the median."""
        median = float(self.quantile(0.5))
        return Mixture(median + factor * (self.centres - median), self.weights, factor * self.scale, self.df)

    def interval(self, level: float, *, exponential: bool = False) -> Interval:
        """Central interval; `exponential` turns log loss into loss."""
        low, median, high = self.quantile(np.array([0.5 - level / 2, 0.5, 0.5 + level / 2]))
        if exponential:
            low, median, high = np.exp([low, median, high])
        return Interval(float(median), float(low), float(high), level)


def digits(value: float) -> str:
    """Four significant digits, without an exponent where a person would not write one."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e7:
        return f"{value:.4g}"
    decimals = max(0, 3 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{decimals}f}" if decimals <= 7 else f"{value:.3e}"
