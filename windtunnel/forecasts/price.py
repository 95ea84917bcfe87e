"""What a run costs by its params and tokens, and an idea beside its base, as the runs themselves tell.

A table's FLOPs are seldom 6 a param and token: embeddings, a vocabulary or a teacher cost every model alike. What a
newcomer would get wrong: to carry the ratio of the largest run on, which holds only where all runs have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from windtunnel.laws.observations import Observations, at_work
from windtunnel.laws.prepare import VARIES
from windtunnel.notebook import printed

ROUGH = 0.1  # runs further than this, in log, from what is said of their price are a caveat (guess)
ALIKE = 0.01  # shares of a bill below this are none
MOST_GROWTH = 10.0  # times what an idea adds to any rung's bill: its power is carried no further (guess)


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
    """The price of runs of so many params, one entry a run: one rate where all have the same, else both parts where
    these tell the FLOPs of all, else the rate of the largest run. None where params, tokens or FLOPs are not stated."""
    if o.flops is None or params is None or o.tokens is None:
        return None
    rates = np.log(o.flops / (params * o.tokens))
    if np.ptp(rates) < VARIES:
        return Price(float(np.exp(rates.mean())))
    a_token, unit = o.flops / o.tokens, float(np.exp(np.mean(np.log(params))))
    (per_unit, fixed), _ = nnls(np.stack([params / unit / a_token, 1 / a_token], axis=1), np.ones(len(o)))
    found = Price(float(per_unit / unit), float(fixed))
    if found.per_param * np.max(params) > ALIKE * np.min(a_token):
        off = np.max(np.abs(np.log(found.flops(params, o.tokens) / o.flops)))
        if off < VARIES:
            return replace(found, off=float(off))
    top = rates[np.argmax(o.flops)]
    return Price(float(np.exp(top)), off=float(np.max(np.abs(rates - top))))


@dataclass(frozen=True, eq=False)
class Bill:
    """FLOPs of an idea over the base's at each rung that both have, cheapest first, and the base's params at work:
    (rungs,) each; no params where they are not stated."""

    ratio: np.ndarray
    params: np.ndarray | None

    @classmethod
    def of(
        cls, base: Mapping[Any, float], idea: Mapping[Any, float], params: Mapping[Any, float] | None
    ) -> Bill | None:
        """From mean FLOPs by rung, and the base's params; None where no rung has both."""
        both = sorted(set(base) & set(idea) & set(base if params is None else params), key=lambda rung: base[rung])
        both = [rung for rung in both if 0 < base[rung] < np.inf and 0 < idea[rung] < np.inf]
        if not both:
            return None
        ratio = np.array([idea[rung] / base[rung] for rung in both])
        return cls(ratio, None if params is None else np.array([params[rung] for rung in both]))

    @property
    def changes(self) -> bool:
        """Whether it is another ratio at another size, beyond what counting differs by."""
        return bool(np.ptp(np.log(self.ratio)) > VARIES)

    def at(self, params: float | None) -> float | None:
        """The ratio at so many params; None where the rungs do not tell.

        What an idea adds to a bill grows or shrinks as a power of the params, where it does so from rung to rung; it is
        carried on to at most so many times what was seen.
        """
        more = self.ratio - 1
        if not self.changes:
            return float(self.ratio[-1])
        if self.params is None or params is None or not np.all(np.isfinite(self.params) & (self.params > 0)):
            return None
        if len(np.unique(self.params)) < 4 or not (np.all(more > 0) or np.all(more < 0)):
            return None
        x, y = np.log(self.params), np.log(np.abs(more))
        power, start = np.polyfit(x, y, 1)
        added = float(np.sign(more[0]) * np.exp(start + power * np.log(params)))
        told = np.max(np.abs(y - start - power * x)) < ROUGH and added > -1
        return 1 + added if told and abs(added) < MOST_GROWTH * np.max(np.abs(more)) else None


def params_by_rung(o: Observations, rungs: Sequence[Any]) -> dict[Any, float] | None:
    """Params at work of the runs of each rung, where they are stated."""
    column = at_work(o)
    return None if column is None else dict(zip(rungs, column.tolist(), strict=True))
