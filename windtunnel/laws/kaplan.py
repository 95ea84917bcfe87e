"""Kaplan's law in parameters and tokens: L = E + ((A / N)^(alpha / beta) + B / D)^beta.

One bottleneck inside the bracket: where parameters are short, more tokens help less than Chinchilla's sum says. With
E = 0 it is the published form; the floor is fitted and may be 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, log_sum, side_by_side
from windtunnel.laws.power import TYPICAL


@dataclass(frozen=True)
class Kaplan:
    """L = E + A (x^(-alpha / beta) + b y^-1)^beta with x = N / unit params, y = D / unit tokens."""

    unit: tuple[float, float] = (1.0, 1.0)
    names = ("E", "A", "alpha", "beta", "b")
    bounds = ((0.0, np.inf), (0.0, np.inf), (0.03, 1.5), (0.03, 1.5), (1e-3, 1e3))
    linear = 2
    columns = ("params", "tokens")
    name = "bottleneck law"
    typical = (TYPICAL["params"], TYPICAL["tokens"], (1.0, 2.0))
    belief = 1.0
    source = "Kaplan et al. 2001.08361, equation 1.5, with a floor"
    applies = "parameters and tokens vary independently and one of the two is the bottleneck"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and the bracket."""
        alpha, beta, b = (shape[..., [i]] for i in range(3))
        by_params = -alpha / beta * np.log(column(sizes, "params") / self.unit[0])
        by_tokens = np.log(b) - np.log(column(sizes, "tokens") / self.unit[1])
        falling = np.exp(beta * log_sum(by_params, by_tokens))
        return side_by_side(1.0, falling)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, alpha, beta, b)."""
        return evaluate(self, theta, observations)
