"""Two stages: a pre-trained model adapted to a task; `tokens` counts what it is adapted on (tokens or examples).

Pre-training is worth a head start in adaptation data: below it more examples hardly help, beyond it loss falls as a
power. A newcomer would fit a power law from the first examples on, and meet a bend that looks like a changed exponent;
or keep the run without any adaptation, whose loss mostly tells that the format was strange (up to 25 nats above the
next in the fine-tuning runs of 2402.02314): leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power

# How far a model's knowledge carries, in tokens or examples: from one example to more than anyone adapts on.
HEAD_START = (1.0, 1e10)


@dataclass(frozen=True)
class Adapted:
    """L = E + A / (1 + (D / head)^beta): one model, several amounts of adaptation data D > 0.

    E + A is the loss that the first examples reach and `head` the data that halve its distance to the floor.
    """

    linear = 2
    columns = ("tokens",)
    belief = 1.0
    name = "law of adaptation with a head start"
    names = ("E", "A", "head", "beta")
    bounds = ((0.0, np.inf), (0.0, np.inf), HEAD_START, (0.03, 1.5))
    typical = (None, (0.3, 0.7))  # guess
    source = "rectified law: Lin et al. 2402.02314; head start as effective data: Hernandez et al. 2102.01293"
    applies = "one pre-trained model adapted on growing amounts of data"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and the share of the way that is left."""
        left = 1.0 / (1.0 + grown(column(sizes, "tokens") / shape[..., 0, None], shape[..., 1, None]))
        return np.stack([np.ones_like(left), left], axis=-1)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, head, beta)."""
        return evaluate(self, theta, observations)


@dataclass(frozen=True)
class HeadStart:
    """L = A (1 + D / head)^-beta: adaptation data D added to what pre-training was worth; no floor in sight.

    In backtests on 90 series of fine-tuning runs (up to 1e5 examples to 4e5) it misses by 3.3 %, `Adapted` by
    3.5 %, this with a floor by 3.9 %, a power law with floor by 9.0 %.
    """

    linear = 1
    columns = ("tokens",)
    belief = 1.0
    name = "law of adaptation without floor"
    names = ("A", "head", "beta")
    bounds = ((0.0, np.inf), HEAD_START, (0.005, 1.5))
    typical = (None, (0.2, 1.0))  # guess, wide
    source = "effective data transferred: Hernandez et al. 2102.01293"
    applies = "one pre-trained model adapted on growing amounts of data, far above any floor"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """The one power."""
        data = 1.0 + column(sizes, "tokens") / shape[..., 0, None]
        return grown(data, -shape[..., 1, None])[..., None]

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (A, head, beta)."""
        return evaluate(self, theta, observations)


@dataclass(frozen=True)
class Transferred:
    """L = E + A X^-alpha (1 + D / head)^-beta: models of several sizes X, adapted on D.

    X is any size column that pre-training varied: params, or the pre-training tokens in a column of their own
    (`unique_tokens`, `flops`). Zhang et al. state it without a head start, which is its limit for D far above it.
    """

    variable: str = "params"
    linear = 2
    belief = 1.0
    names = ("E", "A", "alpha", "head", "beta")
    bounds = ((0.0, np.inf), (0.0, np.inf), (0.005, 1.5), HEAD_START, (0.005, 1.5))
    typical = ((0.1, 1.0), None, (0.1, 1.0))  # guesses, wide; the papers' exponents are small, a few hundredths up
    source = "multiplicative joint law: Zhang et al. 2402.17193; head start: Hernandez et al. 2102.01293"

    @property
    def columns(self) -> tuple[str, ...]:
        """The pre-training variable and the adaptation data."""
        return (self.variable, "tokens")

    @property
    def name(self) -> str:
        """Form and variable."""
        return f"law of adaptation in {self.variable} and tokens"

    @property
    def applies(self) -> str:
        """When the form can be true."""
        return f"one family of pre-trained models that differ in {self.variable}, adapted on growing amounts of data"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1 and the product of the two powers."""
        data = 1.0 + column(sizes, "tokens") / shape[..., 1, None]
        product = power(column(sizes, self.variable), shape[..., 0]) * grown(data, -shape[..., 2, None])
        return np.stack([np.ones_like(product), product], axis=-1)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, alpha, head, beta)."""
        return evaluate(self, theta, observations)


def grown(base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """base ** exponent, 0 to any positive exponent being 0."""
    return np.exp(exponent * np.log(np.maximum(base, 1e-300)))
