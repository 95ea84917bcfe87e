"""Two-variable law of Chinchilla: L = E + A N^-alpha + B D^-beta, optionally with alpha = beta or without the floor E.

Needs parameters and tokens that vary independently. Tying the exponents is a strong belief that often pays: it takes
the error on Gadre's held-out runs (2403.08540) from 2.5 to 1.0 %. The form without a floor falls too fast, the one with
it too slowly more often than not; all are offered, and their backtests say how to combine them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power, side_by_side
from windtunnel.laws.power import TYPICAL


@dataclass(frozen=True)
class Chinchilla:
    """L = E + A N^-alpha + B D^-beta; with `tied`, beta = alpha; without `floor`, E = 0."""

    tied: bool = False
    floor: bool = True
    columns = ("params", "tokens")
    source = "Hoffmann et al. 2203.15556; tied exponents: Gadre et al. 2403.08540"
    applies = "parameters and tokens vary independently, without repeating data more than about 4 times"

    @property
    def name(self) -> str:
        """Form."""
        return f"two-variable law{', tied exponents' if self.tied else ''}{'' if self.floor else ', no floor'}"

    @property
    def belief(self) -> float:
        """Long ladders show a floor."""
        return 1.0 if self.floor else 0.25

    @property
    def linear(self) -> int:
        """E, A, B; or A, B."""
        return 3 if self.floor else 2

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names."""
        return (*(("E",) if self.floor else ()), "A", "B", "alpha", *(() if self.tied else ("beta",)))

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Non-negative linear parameters; exponents wide around every published one."""
        low = 0.03 if self.floor else 0.005
        return ((0.0, np.inf),) * self.linear + ((low, 1.5),) * (1 if self.tied else 2)

    @property
    def typical(self) -> tuple[tuple[float, float] | None, ...]:
        """Weak beliefs about the exponents; without a floor they are smaller, and the data settle them."""
        if not self.floor:
            return (None,) * (1 if self.tied else 2)
        return (TYPICAL["params"],) if self.tied else (TYPICAL["params"], TYPICAL["tokens"])

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 (where there is a floor), N^-alpha and D^-beta."""
        by_params = power(column(sizes, "params"), shape[..., 0])
        by_tokens = power(column(sizes, "tokens"), shape[..., -1])
        return side_by_side(1.0, by_params, by_tokens) if self.floor else side_by_side(by_params, by_tokens)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, B, alpha) or (E, A, B, alpha, beta)."""
        return evaluate(self, theta, observations)
