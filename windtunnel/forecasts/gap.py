"""The difference law: how an idea's gap (log ratio of losses) changes with size, and what is left at the target.

First form: a constant, or a line in log size, averaged by how much evidence the pairs give for a slope. With few pairs
the slope is drawn to zero; what it might still be stays in the interval and grows with distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.forecasts.interval import Mixture
from windtunnel.forecasts.pairs import Pairs

TYPICAL_PAIR_NOISE, TYPICAL_DF = 0.001, 1  # guess: seeds shared, gaps of 0.002-0.018 nats are told apart at 130M-1.2B
PRIOR_SLOPE = 0.5  # belief that there is a slope at all: several ideas cross zero between 130M and 1.2B
DRIFT = 0.1  # share of the gap that a size-e-fold beyond the ladder may change unseen, one standard deviation. Guess.


@dataclass(frozen=True, eq=False)
class GapLaw:
    """Gap = level + slope (x - middle): posterior means and variances under a constant and under a line."""

    middle: float
    top: float
    level: float
    level_variance: float
    slope: float
    slope_variance: float
    slope_probability: float
    magnitude: float
    df: float

    def at(self, log_size: float) -> Mixture:
        """Distribution of the expected gap at a size."""
        away = log_size - self.middle
        drift = (DRIFT * self.magnitude * max(0.0, log_size - self.top)) ** 2
        variances = np.array([self.level_variance, self.level_variance + away**2 * self.slope_variance]) + drift
        centres = np.array([self.level, self.level + away * self.slope])
        weights = np.array([1 - self.slope_probability, self.slope_probability])
        return Mixture(centres, weights, np.sqrt(variances), self.df)


def fit_gap(pairs: Pairs) -> GapLaw:
    """The difference law of paired runs at two rungs or more."""
    x, y, counts = pairs.means()
    weight = counts / counts.sum()
    middle = float(weight @ x)
    level = float(weight @ y)
    spread = float(counts @ (x - middle) ** 2)
    slope = float(counts @ ((x - middle) * (y - level)) / spread)
    noise, df = _noise(pairs, y - level - slope * (x - middle), counts)
    magnitude = float(np.sqrt(weight @ y**2))
    variance = noise**2 / spread
    believed = (magnitude / max(np.ptp(x), 1e-9)) ** 2  # a slope that makes or unmakes the gap over the ladder
    shrink = believed / (believed + variance)
    evidence = 0.5 * (np.log(variance / (variance + believed)) + slope**2 / variance * shrink)
    odds = PRIOR_SLOPE / (1 - PRIOR_SLOPE) * np.exp(np.clip(evidence, -50, 50))
    return GapLaw(
        middle=middle,
        top=float(x.max()),
        level=level,
        level_variance=noise**2 / len(pairs),
        slope=slope * shrink,
        slope_variance=variance * shrink,
        slope_probability=float(odds / (1 + odds)),
        magnitude=magnitude,
        df=df,
    )


def _noise(pairs: Pairs, residual: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Standard deviation of one pair, from seeds and from the line's residuals, and its degrees of freedom."""
    within, within_df = pairs.within()
    lacking_df = max(len(residual) - 2, 0)
    squares = TYPICAL_DF * TYPICAL_PAIR_NOISE**2 + within_df * within**2
    squares += float(counts @ residual**2) if lacking_df else 0.0
    df = TYPICAL_DF + within_df + lacking_df
    return float(np.sqrt(squares / df)), float(max(df, 2))
