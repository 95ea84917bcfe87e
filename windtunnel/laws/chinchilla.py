"""Two-variable law of Chinchilla: L = E + A N^-alpha + B D^-beta, optionally with alpha = beta.

Needs parameters and tokens that vary independently. Tying the exponents is a strong belief that often pays: it takes
the error on Gadre's held-out runs (2403.08540) from 2.5 to 1.0 %. Both forms are offered and weighted by backtest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power
from windtunnel.laws.power import TYPICAL


@dataclass(frozen=True)
class Chinchilla:
    """L = E + A N^-alpha + B D^-beta; with `tied`, beta = alpha."""

    tied: bool = False
    linear = 3
    belief = 1.0
    source = "Hoffmann et al. 2203.15556; tied exponents: Gadre et al. 2403.08540"
    applies = "parameters and tokens vary independently, without repeating data more than about 4 times"

    @property
    def name(self) -> str:
        """Form."""
        return "two-variable law, tied exponents" if self.tied else "two-variable law"

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names."""
        return ("E", "A", "B", "alpha") if self.tied else ("E", "A", "B", "alpha", "beta")

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Non-negative linear parameters; exponents wide around every published one."""
        return ((0.0, np.inf),) * 3 + ((0.03, 1.5),) * (1 if self.tied else 2)

    @property
    def typical(self) -> tuple[tuple[float, float] | None, ...]:
        """Weak beliefs about the exponents."""
        return (TYPICAL["params"],) if self.tied else (TYPICAL["params"], TYPICAL["tokens"])

    def terms(self, exponents: np.ndarray, sizes: Any) -> np.ndarray:
        """1, N^-alpha and D^-beta."""
        by_params = power(column(sizes, "params"), exponents[..., 0])
        by_tokens = power(column(sizes, "tokens"), exponents[..., -1])
        return np.stack([np.ones_like(by_params), by_params, by_tokens], axis=-1)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, B, alpha) or (E, A, B, alpha, beta)."""
        return evaluate(self, theta, observations)
