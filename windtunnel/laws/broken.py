"""Smoothly broken power law: L = E + A x^-alpha (1 + (x / (b u))^(1/f))^(-c f), one bend in log-log.

Where a curve passes from one slope to another inside the ladder (a warm-up regime, a change of what limits it), the
single power law misses both ends. The break's place is in units of `unit`, which the data give (their middle size), so
that the form knows no scale. A break beyond the ladder cannot be foreseen by any law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, log_sum, power, side_by_side


@dataclass(frozen=True)
class BrokenPowerLaw:
    """L = E + A x^-alpha (1 + (x / (place unit))^(1 / softness))^(-bend softness); applies to long, bent ladders."""

    variable: str = "params"
    unit: float = 1.0
    names = ("E", "A", "alpha", "bend", "place", "softness")
    bounds = ((0.0, np.inf), (0.0, np.inf), (0.005, 2.0), (0.01, 3.0), (0.02, 50.0), (0.05, 2.0))
    linear = 2
    typical = ((0.15, 0.8), (0.2, 0.9), (1.0, 1.5), (0.5, 0.7))
    source = "Caballero et al. 2210.14891"

    @property
    def columns(self) -> tuple[str, ...]:
        """The variable."""
        return (self.variable,)

    @property
    def belief(self) -> float:
        """More over data alone: of published learning curves it foretells 69 % (images) and 75 % (language) best."""
        return 1.5 if self.variable == "tokens" else 0.7

    @property
    def name(self) -> str:
        """Form and variable."""
        return f"smoothly broken power law in {self.variable}"

    @property
    def applies(self) -> str:
        """When the form can be true."""
        return f"the slope in log-log changes once within the range of {self.variable}, and many sizes show it"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and the broken power."""
        x = column(sizes, self.variable) / self.unit
        bend, place, softness = (shape[..., [i]] for i in (1, 2, 3))
        bent = log_sum(0.0, (np.log(x) - np.log(place)) / softness)
        falling = power(x, shape[..., 0]) * np.exp(-bend * softness * bent)
        return side_by_side(1.0, falling)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, alpha, bend, place, softness)."""
        return evaluate(self, theta, observations)
