"""Shifted power law: L = E + A (x + s u)^-alpha: flat at first, a power law later.

The shift is what a curve looks like before its power law begins: learning curves start at the loss of ignorance. The
shift is in units of `unit`, the smallest size of the data, so that the form knows no scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, side_by_side
from windtunnel.laws.power import alone


@dataclass(frozen=True)
class ShiftedPowerLaw:
    """L = E + A (x + shift unit)^-alpha; applies where the smallest sizes have hardly begun to learn."""

    variable: str = "params"
    unit: float = 1.0
    names = ("E", "A", "alpha", "shift")
    bounds = ((0.0, np.inf), (0.0, np.inf), (0.02, 3.0), (0.001, 1000.0))
    linear = 2
    belief = 0.5
    source = "M3 of Alabdulmohsin et al. 2209.06640; Bansal et al. 2202.01994"

    @property
    def columns(self) -> tuple[str, ...]:
        """The variable."""
        return (self.variable,)

    @property
    def name(self) -> str:
        """Form and variable."""
        return f"shifted power law in {self.variable}"

    @property
    def applies(self) -> str:
        """When the form can be true."""
        return f"the smallest {self.variable} lie before the power law begins"

    @property
    def typical(self) -> tuple[tuple[float, float] | None, ...]:
        """Weak beliefs: an ordinary exponent, a shift of the order of the smallest size."""
        return (alone(self.variable), (0.3, 2.0))

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and (x + s)^-alpha."""
        x = column(sizes, self.variable) / self.unit
        falling = np.exp(-shape[..., [0]] * np.log(x + shape[..., [1]]))
        return side_by_side(1.0, falling)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, alpha, shift)."""
        return evaluate(self, theta, observations)
