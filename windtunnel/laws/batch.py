"""Batch size: what a token is worth when many are averaged into one step.

Below the critical batch a token counts in full, far above it only the number of steps counts. A newcomer would read the
loss of a run at a huge batch as the loss of its token count; at 200 times the critical batch it is that of 1/200 of it.
Learning rates are taken as tuned at every batch, as in any comparison of batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import column, evaluate, power, side_by_side
from windtunnel.laws.power import TYPICAL

EXPONENT = (0.03, 1.5)  # as in the two-variable law


@dataclass(frozen=True)
class CriticalBatch:
    """L = E + A N^-alpha + B D'^-beta with D' = D / (1 + batch / critical); batch and critical in tokens.

    That is Kaplan's L(N, S_min), S_min = steps / (1 + critical / batch), in tokens; a batch far below the critical one
    gives the two-variable law. With `interacting`, B grows as N^gamma: larger models need more steps to get going. In
    backtests inside the NQS runs (hiding the most costly) that lowers the error 2.5 to 2.2 % over isoFLOP and 5.5 to
    4.1 % over equal-token runs; a critical batch that grows with data, parameters or steps did not help there.
    """

    interacting: bool = False
    linear = 3
    columns = ("params", "tokens", "batch_tokens")
    belief = 1.0
    source = "McCandlish et al. 1812.06162 (critical batch); Kaplan et al. 2001.08361 (section 5)"
    applies = "batch size varies, with the learning rate tuned at each"

    @property
    def name(self) -> str:
        """Form."""
        return "law with critical batch" + (" and interaction" if self.interacting else "")

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names; `critical` is in tokens."""
        return ("E", "A", "B", "alpha", "beta", "critical", *(("gamma",) if self.interacting else ()))

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Non-negative linear parameters; the critical batch anywhere between one sequence and a billion tokens."""
        shape = (EXPONENT, EXPONENT, (1e2, 1e9), (0.005, 0.5))
        return ((0.0, np.inf),) * 3 + shape[: 4 if self.interacting else 3]

    @property
    def typical(self) -> tuple[tuple[float, float] | None, ...]:
        """Weak beliefs; the interaction is believed small (guess)."""
        return (TYPICAL["params"], TYPICAL["tokens"], None, *(((0.05, 1.0),) if self.interacting else ()))

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1, N^-alpha and D'^-beta (times N^gamma)."""
        params = column(sizes, "params")
        tokens = column(sizes, "tokens") / (1.0 + column(sizes, "batch_tokens") / shape[..., 2, None])
        by_params, by_tokens = power(params, shape[..., 0]), power(tokens, shape[..., 1])
        if self.interacting:
            by_tokens = by_tokens * power(params, -shape[..., 3])
        return side_by_side(1.0, by_params, by_tokens)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta named by `names`."""
        return evaluate(self, theta, observations)


@dataclass(frozen=True)
class BatchTerms:
    """L = E + A N^-alpha + B steps^-beta + C batch^-gamma: what is lost to few parameters, few steps, noisy steps.

    Those are the three leading terms of a noisy quadratic; the noise left by a finite batch does not shrink with steps.
    """

    linear = 4
    columns = ("params", "tokens", "batch_tokens")
    belief = 1.0
    name = "law in parameters, steps and batch"
    names = ("E", "A", "B", "C", "alpha", "beta", "gamma")
    bounds = (*((0.0, np.inf),) * 4, EXPONENT, EXPONENT, EXPONENT)
    typical = (
        TYPICAL["params"],
        TYPICAL["tokens"],
        (0.5, 0.55),
    )  # gamma: a guess; 1 for a noisy quadratic, less for many
    source = "noisy quadratic: Zhang et al. 1907.04164; as power terms: baseline measured on the NQS runs"
    applies = "batch size varies, with the learning rate tuned at each"

    def terms(self, shape: np.ndarray, sizes: Any) -> np.ndarray:
        """1, N^-alpha, steps^-beta and batch^-gamma."""
        batch = column(sizes, "batch_tokens")
        steps = column(sizes, "tokens") / batch
        falling = [power(each, shape[..., i]) for i, each in enumerate((column(sizes, "params"), steps, batch))]
        return side_by_side(1.0, *falling)

    def __call__(self, theta: np.ndarray, observations: Any) -> np.ndarray:
        """Loss for theta = (E, A, B, C, alpha, beta, gamma)."""
        return evaluate(self, theta, observations)
