"""Multi-power law: like the annealing area, but a fall's gain grows as a power law of the progress made since.

L = L0 + A (S + S0)^-alpha - B sum_k fall_k G(C S_k lr_k^-gamma), G(x) = 1 - (1 + x)^-beta, S_k the progress since fall
k and lr_k the rate after it. Three schedules hardly identify beta, gamma and C apart, and left free they run to their
bounds (a misfit a quarter as large, forecasts worse): so they carry beliefs. The published fits leave them free and
stop short of the minimum instead, where that is decided by the start (`benchmarks/multipower.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.laws.annealing import FALLING, FALLING_TYPICAL, falling, stacked
from windtunnel.laws.curves import Rows, relaxed


@dataclass(frozen=True)
class MultiPower:
    """Loss under any schedule; applies behind the warm-up, peaks within a factor of two of those fitted."""

    name = "multi-power law"
    names = ("L0", "A", "B", "alpha", "shift", "C", "beta", "gamma")
    bounds = ((0.0, np.inf),) * 3 + FALLING + ((1e-6, 1.0), (0.05, 8.0), (0.05, 2.0))
    linear = 3
    columns = ("steps", "lr")
    # C per step at the peak; medians chosen by hiding one of three schedules, or all tails, of the MultiPowerLaw
    # table's fit split (2026-11), never by its unseen schedules. Spreads are guesses.
    typical = (*FALLING_TYPICAL, (3e-3, 1.0), (1.0, 0.4), (0.8, 0.25))
    belief = 1.0
    source = "Luo et al. 2503.12811; S0 is free here, the warm-up's area there"
    applies = "loss curves behind the warm-up, one model and batch size, any schedule"

    def terms(self, shape: np.ndarray, at: Rows) -> np.ndarray:
        """1, the power of progress, and minus what the falls have brought: shape (5,) to (rows, 3)."""
        alpha, shift, rate, beta, gamma = shape

        def gain(steps: np.ndarray, progress: np.ndarray, lr: np.ndarray) -> np.ndarray:
            return 1 - np.exp(-beta * np.log1p(rate * progress * lr**-gamma))

        return stacked(falling(at, alpha, shift), relaxed(at, gain))
