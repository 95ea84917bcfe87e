"""Several fitted laws as one predictive distribution of the log loss at a place beyond the ladder.

Four doubts add up: parameter draws, disagreement between laws (weighted by backtest), the noise of a single new run,
and the law's own error, which grows with distance: a share of the loss that is still to be gained between the top rung
and the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from windtunnel.forecasts.interval import Mixture
from windtunnel.laws.fitting import LawFit
from windtunnel.laws.law import Sizes

# One standard deviation of a law's error, as a share of the fall in log loss it foretells from the top rung to the
# target. Measured roughly on public tables (9 to 20 % of the fall: Porian, marin, Chinchilla; their sign is shared
# within a table); synthetic ladders need 6 %. Then corrected by each ladder's own backtest.
LAW_ERROR = 0.08
PRIOR_DF = 5  # how many backtests the guess is worth; also the t-distribution's degrees of freedom before any


def law_mixture(law: LawFit, at: Sizes, top: Sizes, noise: float, df: float) -> Mixture:
    """One law's predictive log loss of a single new run at `at` (one entry); `noise` is that run's relative noise."""
    centres = law.log_loss(at)[:, 0]
    fall = abs(float(np.median(law.log_loss(top)[:, 0] - centres)))
    scale = np.full(len(centres), np.hypot(noise, LAW_ERROR * fall))
    return Mixture(centres, np.full(len(centres), 1 / len(centres)), np.maximum(scale, 1e-6), df)


def combined(mixtures: Sequence[Mixture], weights: Sequence[float]) -> Mixture:
    """The laws' mixtures as one, each counting by its weight."""
    pairs = list(zip(mixtures, weights, strict=True))
    return Mixture(
        np.concatenate([m.centres for m, _ in pairs]),
        np.concatenate([w * m.weights for m, w in pairs]),
        np.concatenate([m.scale for m, _ in pairs]),
        mixtures[0].df,
    )


def size_at(sizes: Any, index: int | np.ndarray) -> Sizes:
    """One run's sizes, or the mean in log of several runs', as Sizes of one entry."""
    picked = {n: getattr(sizes, n) for n in ("params", "tokens", "flops")}
    return Sizes(
        **{
            n: None if v is None else np.exp(np.mean(np.log(np.atleast_1d(v[index])), keepdims=True))
            for n, v in picked.items()
        }
    )
