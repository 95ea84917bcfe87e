"""What a run costs by its params and tokens, and an idea beside its base, as the runs themselves tell.

A table's FLOPs are seldom 6 a param and token: embeddings, a vocabulary or a teacher cost every model alike. What a
newcomer would get wrong: to carry the ratio of the largest run on, which holds only where all runs have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from windtunnel.laws.observations import Observations, at_work
from windtunnel.laws.prepare import VARIES
from windtunnel.notebook import printed

ROUGH = 0.1  # runs further than this, in log, from what is said of their price are a caveat (guess)
ALIKE = 0.01  # shares of a bill below this are none


@dataclass(frozen=True)
class Price:
    """FLOPs of a token: `per_param` for every param, and `per_token` whatever the model. `off` is how far the FLOPs of
    a run lie from that, at most, in log."""

    per_param: float
    per_token: float = 0.0
    off: float = 0.0

    _repr_pretty_ = printed

    def flops(self, params: Any, tokens: Any) -> Any:
        """Of training runs: numbers, or arrays of one shape."""
        return (self.per_param * params + self.per_token) * tokens

    def params(self, flops: float, tokens: float) -> float:
        """That FLOPs pay for; not above 0 where they pay for none, or where params cost nothing."""
        return (flops / tokens - self.per_token) / self.per_param if self.per_param else 0.0

    def params_along(self, flops: np.ndarray, tokens_per_param: np.ndarray) -> np.ndarray:
        """Of a run of so many tokens a param that costs these FLOPs."""
        product = flops / tokens_per_param
        return 2 * product / (self.per_token + np.sqrt(self.per_token**2 + 4 * self.per_param * product))

    @property
    def sure(self) -> bool:
        """Whether it is that of every run."""
        return self.off < VARIES

    def __str__(self) -> str:
        more = f" + {self.per_token:.3g}" if self.per_token else ""
        return f"{self.per_param:.3g} x params{more} FLOPs a token"


SIX = Price(6.0)


def price_of(params: np.ndarray | None, o: Observations) -> Price | None:
    """The price of runs of so many params, one entry a run: one rate where all have the same, else the best of both
    parts. None where params, tokens or FLOPs are not stated."""
    if o.flops is None or params is None or o.tokens is None:
        return None
    rates = np.log(o.flops / (params * o.tokens))
    if np.ptp(rates) < VARIES:
        return Price(float(np.exp(rates.mean())))
    a_token = o.flops / o.tokens
    unit = float(np.exp(np.mean(np.log(params))))
    (per_unit, fixed), _ = nnls(np.stack([params / unit / a_token, 1 / a_token], axis=1), np.ones(len(o)))
    found = Price(float(per_unit / unit), float(fixed))
    off = np.max(np.abs(np.log(found.flops(params, o.tokens) / o.flops)))
    return replace(found, off=float(off))


@dataclass(frozen=True, eq=False)
class Bill:
    """FLOPs of an idea over the base's at each rung that both have, cheapest first: (rungs,). `sizes` are the base's
    there, (rungs, columns), as `columns_of` gives them."""

    ratio: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, base: Mapping[Any, float], idea: Mapping[Any, float], sizes: Mapping[Any, np.ndarray]) -> Bill | None:
        """From mean FLOPs by rung, and the base's sizes; None where no rung has both."""
        both = sorted(set(base) & set(idea), key=lambda rung: base[rung])
        ratio = np.array([idea[rung] / base[rung] for rung in both])
        return cls(ratio, np.stack([sizes[rung] for rung in both])) if both else None

    @property
    def changes(self) -> bool:
        """Whether it is another ratio at another size."""
        return bool(np.ptp(np.log(self.ratio)) > ALIKE)

    def at(self, sizes: np.ndarray) -> float | None:
        """The ratio at sizes (columns,); None where the rungs do not tell.

        What an idea adds to a bill grows or shrinks as a power of the sizes, where it does so from rung to rung.
        """
        more = self.ratio - 1
        if not self.changes:
            return float(self.ratio[-1])
        if len(more) < 3 or not (np.all(more > 0) or np.all(more < 0)):
            return None
        x, y = np.log(self.sizes), np.log(np.abs(more))
        away = x - x.mean(axis=0)
        powers, *_ = np.linalg.lstsq(away, y - y.mean(), rcond=1e-3)
        added = float(np.sign(more[0]) * np.exp(y.mean() + (np.log(sizes) - x.mean(axis=0)) @ powers))
        told = np.max(np.abs(y - y.mean() - away @ powers)) < ROUGH and added > -1
        return 1 + added if told else None


def columns_of(sizes: Any) -> np.ndarray:
    """Params at work and tokens where they are stated, else FLOPs: (entries, columns)."""
    known = [column for column in (at_work(sizes), sizes.tokens) if column is not None]
    return np.stack(known or [sizes.flops], axis=1)
