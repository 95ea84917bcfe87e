"""Power law with a floor in one variable: L = E + A x^-alpha, where x is params, tokens or flops.

The floor is indispensable (without it the ten Mu-scaling points are missed by 10 %, with it by 0.3 %) and, on a short
ladder, barely identified: many pairs (E, alpha) draw the same points. So the exponent carries a weak belief.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power, side_by_side

# Median and log-spread of published exponents. In N or D: 0.34 / 0.28 (Chinchilla, 2203.15556), 0.42 (Mu-scaling,
# refitted), 0.35 / 0.37 (Besiroglu, 2404.10102), 0.23 to 0.25 (Gadre, marin, fitted here). In C, where N and D grow
# together as sqrt(C): half of that. The spread is a guess, checked on synthetic worlds.
TYPICAL = {"params": (0.30, 0.55), "tokens": (0.30, 0.55), "flops": (0.15, 0.55)}
# In one variable alone: exponents of learning curves over data reach 1 and more (2209.06640).
ALONE = {**TYPICAL, "tokens": (0.30, 1.0), "flops": (0.15, 0.7)}
_OTHER = (0.30, 1.0)  # width, steps, active parameters


def alone(variable: str) -> tuple[float, float]:
    """Median and spread of the logarithm of the exponent of a law in this variable only."""
    return ALONE.get(variable, _OTHER)


@dataclass(frozen=True)
class PowerLaw:
    """L = E + A x^-alpha; applies where only `variable` grows, or (in flops) where all grow along one path."""

    variable: str = "params"
    names = ("E", "A", "alpha")
    bounds = ((0.0, np.inf), (0.0, np.inf), (0.02, 3.0))
    linear = 2
    belief = 1.0
    source = "Hestness et al. 1712.00409; Henighan et al. 2010.14701"

    @property
    def columns(self) -> tuple[str, ...]:
        """The variable."""
        return (self.variable,)

    @property
    def name(self) -> str:
        """Form and variable."""
        return f"power law with floor in {self.variable}"

    @property
    def applies(self) -> str:
        """When the form can be true."""
        return f"loss falls towards a floor as {self.variable} grows and nothing else limits it"

    @property
    def typical(self) -> tuple[tuple[float, float] | None, ...]:
        """Weak belief about alpha."""
        return (alone(self.variable),)

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and x^-alpha."""
        falling = power(column(sizes, self.variable), shape[..., 0])
        return side_by_side(1.0, falling)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, alpha)."""
        return evaluate(self, theta, observations)
