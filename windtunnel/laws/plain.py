"""Power law without a floor: L = A x^-alpha, a straight line in log-log.

Kaplan's form. It is kept as the alternative to the floor: where a short ladder cannot tell the two apart, their
disagreement at the target is part of the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power


@dataclass(frozen=True)
class PlainPowerLaw:
    """L = A x^-alpha; applies far above any floor."""

    variable: str = "params"
    names = ("A", "alpha")
    bounds = ((0.0, np.inf), (0.002, 1.0))
    linear = 1
    typical = (None,)
    belief = 0.25  # guess: long ladders show a floor; on synthetic worlds 0.2 gave half the median error of 1.0
    source = "Kaplan et al. 2001.08361"

    @property
    def columns(self) -> tuple[str, ...]:
        """The variable."""
        return (self.variable,)

    @property
    def name(self) -> str:
        """Form and variable."""
        return f"power law without floor in {self.variable}"

    @property
    def applies(self) -> str:
        """When the form can be true."""
        return f"loss is far above its floor over the whole range of {self.variable}"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """x^-alpha."""
        return power(column(sizes, self.variable), shape[..., 0])[..., None]

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (A, alpha)."""
        return evaluate(self, theta, observations)
