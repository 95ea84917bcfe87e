"""Mixtures of experts: loss from total parameters, the active ones that a token meets, and tokens.

Three published answers to "what is a sleeping parameter worth?", simplest first; each is the two-variable law when all
parameters are active. A newcomer would put the total into a dense law, and be far too hopeful: by the coefficients of
2502.05172, eight experts for one, at equal active parameters, are worth 1.7 to 1.9 times the active parameters. No
public table of runs was at hand to choose among them, so all three are offered and backtests decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power, side_by_side
from windtunnel.laws.power import TYPICAL

EXPONENT = (0.03, 1.5)  # as in the two-variable law
COLUMNS = ("params", "active_params", "tokens")
LINEAR = (0.0, np.inf)


def spread(sizes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total parameters, active ones, and their ratio, 1 where dense."""
    total, active = column(sizes, "params"), column(sizes, "active_params")
    return total, active, np.maximum(total / active, 1.0)


@dataclass(frozen=True)
class EffectiveExperts:
    """L = E + A (active^(1 - w) total^w)^-alpha + B D^-beta: a dense model between the two sizes does as well.

    One parameter more than a dense law: the least that a few runs can carry.
    """

    linear = 3
    columns = COLUMNS
    belief = 1.0
    name = "experts by effective parameters"
    names = ("E", "A", "B", "alpha", "beta", "w")
    bounds = (LINEAR,) * 3 + (EXPONENT, EXPONENT, (0.01, 1.0))
    typical = (
        TYPICAL["params"],
        TYPICAL["tokens"],
        (0.35, 0.5),
    )  # w: 0.5 by rule of thumb, 0.25 to 0.3 by 2502.05172; spread guess
    source = "effective parameter count: Clark et al. 2202.01169; as a geometric mean: a common rule of thumb"
    applies = "few mixture-of-experts runs, at one or two ratios of total to active parameters"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1, effective parameters^-alpha and D^-beta."""
        _, active, ratio = spread(sizes)
        effective = active * power(ratio, -shape[..., 2])
        by_params = power(effective, shape[..., 0])
        return side_by_side(1.0, by_params, power(column(sizes, "tokens"), shape[..., 1]))

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, B, alpha, beta, w)."""
        return evaluate(self, theta, observations)


@dataclass(frozen=True)
class SparseExperts:
    """L = E + A N^-alpha + B D^-beta + C s^lam + F s^-delta N^-gamma, with N total and s = active / total.

    Sparsity lowers the floor (C) and slows the gain from parameters (F). Dense runs alone cannot tell C from E.
    """

    linear = 5
    columns = COLUMNS
    belief = 1.0
    name = "experts by total parameters and sparsity"
    names = ("E", "A", "B", "C", "F", "alpha", "beta", "lam", "delta", "gamma")
    bounds = (LINEAR,) * 5 + (EXPONENT, EXPONENT, (0.01, 1.5), (0.01, 1.5), (0.01, 1.5))
    typical = (TYPICAL["params"], TYPICAL["tokens"], (0.17, 0.7), (0.16, 0.7), (0.16, 0.7))  # published, guessed spread
    source = "Abnar et al. 2501.12370, equation 6 (their lambda is -0.1666, their 1 - S is s)"
    applies = "mixture-of-experts runs that vary total parameters, active parameters and tokens independently"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1, N^-alpha, D^-beta, s^lam and s^-delta N^-gamma."""
        total, _, ratio = spread(sizes)
        by_params = power(total, shape[..., 0])
        by_tokens = power(column(sizes, "tokens"), shape[..., 1])
        sparse, slowed = power(ratio, shape[..., 2]), power(ratio, -shape[..., 3]) * power(total, shape[..., 4])
        return side_by_side(1.0, by_params, by_tokens, sparse, slowed)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta named by `names`."""
        return evaluate(self, theta, observations)


@dataclass(frozen=True)
class JointExperts:
    """L = E + A e^-delta n^-(alpha - gamma ln e) + B e^omega D^-(beta + zeta ln e), n active, e = total / active.

    More experts act like more parameters, less so the larger the model, and want more tokens. n and D enter the terms
    with ln e relative to `params_unit` and `tokens_unit`, so that delta and omega are what happens at those sizes. The
    paper counts experts and lets the count level off at about 290; here e stands for it and does not.
    """

    params_unit: float = 1e9
    tokens_unit: float = 1e10
    linear = 3
    columns = COLUMNS
    belief = 1.0
    name = "experts by active parameters and ratio"
    names = ("E", "A", "B", "alpha", "beta", "delta", "gamma", "omega", "zeta")
    bounds = (LINEAR,) * 3 + (EXPONENT, EXPONENT, (0.001, 1.0), (1e-4, 0.1), (1e-4, 1.0), (1e-4, 0.1))
    # Published, at 1e9 parameters and 1e10 tokens: delta 0.2285 - 0.0098 ln 1e9 = 0.025, omega 0.5529 - 0.0259 ln 1e10
    # is slightly negative: there experts cost nothing in data. Spreads are guesses.
    typical = (TYPICAL["params"], TYPICAL["tokens"], (0.05, 1.0), (0.01, 0.7), (0.01, 1.0), (0.02, 0.7))
    source = "Ludziejewski et al. 2502.05172; interaction of size and experts: Clark et al. 2202.01169"
    applies = "mixture-of-experts runs at several ratios of total to active parameters, several sizes and horizons"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and the two power terms."""
        _, active, ratio = spread(sizes)
        tokens = column(sizes, "tokens")
        log_e = np.log(ratio)
        delta, gamma, omega, zeta = (shape[..., i, None] for i in range(2, 6))
        of_params = np.exp(-log_e * (delta - gamma * np.log(active / self.params_unit)))
        of_tokens = np.exp(log_e * (omega - zeta * np.log(tokens / self.tokens_unit)))
        by_params, by_tokens = power(active, shape[..., 0]) * of_params, power(tokens, shape[..., 1]) * of_tokens
        return side_by_side(1.0, by_params, by_tokens)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta named by `names`."""
        return evaluate(self, theta, observations)
