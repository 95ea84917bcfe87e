"""The members' forecasts as one distribution of the log loss, with every doubt in its width.

Five doubts add up as variances: the noise of a single new run, the law's own error (a share of the loss that is still
to be gained, more so far away), the parameters, and the members' disagreement; what the ladder's own backtests showed
then widens or narrows the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from windtunnel.forecasts.constants import FARTHEST, LEARNED, Constants
from windtunnel.forecasts.interval import Mixture
from windtunnel.laws.fitting import LawFit
from windtunnel.laws.law import Sizes

_LEAST = 1e-6  # a standard deviation is never 0
_MOST = 5.0  # of log loss: a factor of 150 rules nothing out, and parameters that no run tells have no end


def pieces(noise: Any, fall: Any, distance: Any, doubt: Any, disagreement: Any) -> np.ndarray:
    """Squares of what each width constant multiplies, in the order of `Constants.widths`: (5, runs).

    `noise`, `doubt` and `disagreement` are standard deviations, `fall` the fall in log loss from the top rung;
    `distance` is the logarithm of how many times larger than the top rung the run is.
    """
    far = np.clip(distance, 0.0, FARTHEST)
    return np.stack(np.broadcast_arrays(noise, fall, np.sqrt(far) * fall, doubt, disagreement)) ** 2


def variance(squares: np.ndarray, c: Constants = LEARNED) -> np.ndarray:
    """Variance of the log loss of one run, before what backtests say: (runs,)."""
    return np.square(c.widths()) @ squares + _LEAST**2


def mixed(centre: np.ndarray, doubt: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, doubt and disagreement of members (members, runs) by their weights: (runs,) each."""
    mean = weights @ centre
    return mean, weights @ doubt, np.sqrt(weights @ (centre - mean) ** 2)


def combined(
    laws: Sequence[LawFit], weights: Sequence[float], at: Sizes, highest: float, noise: float, distance: float
) -> Mixture:
    """The distribution at one place; `highest` is the members' mean log loss at the top rung. Not yet stretched."""
    centre = np.stack([law.centre(at) for law in laws])
    known = [
        np.minimum(law.deviation(at), _MOST) if weight else np.zeros(1)
        for law, weight in zip(laws, weights, strict=True)
    ]
    mean, own, apart = mixed(centre, np.stack(known), np.asarray(weights))
    fall = np.abs(centre.mean(axis=0) - highest)
    scale = np.sqrt(variance(pieces(noise, fall, distance, own, apart)))
    return Mixture(mean[:1], np.ones(1), scale[:1], LEARNED.df)
