"""Annealing area: loss falls with the area under the learning rate, and again by every fall of the rate.

L = L0 + A (S + S0)^-alpha - B sum_k fall_k (1 - exp(-steps since fall k / tau)). Fewest parameters of the forms that
follow a schedule. Newcomers would write the second sum as an area S2 of momentum lambda: with lambda = 1 - 1/tau it is
the same sum up to the factor tau, which B absorbs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.laws.curves import Rows, relaxed

FALLING = ((0.05, 3.0), (0.1, 30.0))  # bounds of alpha and of the shift, in starts
# Beliefs (median, spread of the logarithm). alpha: 0.42 to 0.51 in published fits (2503.12811), 0.41 to 0.53 on the
# OLMo ladder (fitted here, 2026-11). Shift: 1 is none; it carries what warm-up and the first steps did (a guess).
FALLING_TYPICAL = ((0.5, 0.2), (1.0, 0.5))


@dataclass(frozen=True)
class AnnealingArea:
    """Loss under any schedule; applies behind the warm-up, peaks within a factor of two of those fitted."""

    name = "annealing area"
    names = ("L0", "A", "B", "alpha", "shift", "tau")
    bounds = ((0.0, np.inf),) * 3 + FALLING + ((1.0, 1e6),)
    linear = 3
    columns = ("steps", "lr")
    typical = (*FALLING_TYPICAL, (1000.0, 1.5))  # lambda = 0.999 in 2408.11029
    belief = 1.0
    source = "Tissue et al. 2408.11029 (momentum form of the annealing area)"
    applies = "loss curves behind the warm-up, one model and batch size, any schedule"

    def terms(self, shape: np.ndarray, at: Rows) -> np.ndarray:
        """1, the power of progress, and minus what the falls have brought: shape (3,) to (rows, 3)."""
        alpha, shift, tau = shape
        gained = relaxed(at, lambda steps, progress, lr: 1 - np.exp(-steps / tau))
        return stacked(falling(at, alpha, shift), gained)


def falling(at: Rows, alpha: float, shift: float) -> np.ndarray:
    """(S + S0)^-alpha with S0 = (shift - 1) starts and S in starts: (rows,)."""
    return np.maximum(at.progress / at.start + shift - 1, 1e-3) ** -alpha


def stacked(fallen: np.ndarray, gained: np.ndarray) -> np.ndarray:
    """The three linear terms: (rows, 3)."""
    return np.stack([np.ones_like(fallen), fallen, -gained], axis=-1)
