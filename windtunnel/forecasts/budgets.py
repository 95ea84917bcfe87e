"""Loss against params at a fixed budget, for every draw of every law that tells params from tokens.

The laws are fitted anew to the runs near the compute frontier, because runs far off it bend a law's optimum: with all
runs the optimum of the hidden top budgets of 23 isoFLOP series (Porian 15, Open-Athena 8; 2026-11) was missed by a
factor of 3.0 (root mean square of the logarithm 1.11), with those near the frontier by a factor of 1.2 (0.18). A law
with tied exponents is left out: it says that params and tokens grow alike whatever the runs say (0.74 instead of 0.18).
That of effective tokens gets a second exponent instead: without it a budget for repeated data was judged by overfitting
alone, and in runs whose repeats only fade its best params were missed by a factor of 4.9 (made-up runs, 24 each of four
pairs of exponents; 1.07 with it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.forecasts.design import by_law
from windtunnel.forecasts.price import Price
from windtunnel.laws.fitting import LawFit, fit_law
from windtunnel.laws.law import Law, Sizes
from windtunnel.laws.observations import Observations
from windtunnel.laws.repeated import EffectiveTokens

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

READS = {"params", "tokens", "unique_tokens"}  # a law that reads anything else is not settled by params and tokens
NEAR = (0.1, 0.2, 0.4, np.inf)  # a run's loss above the best of its budget, as a share; the first that leaves enough
DRAWS = 200  # of each law
ENOUGH = 8  # runs near the frontier, and three more than the law has parameters (guess)
# Standard deviation of the law's own error in the log of the best params, per unit of log compute beyond the middle of
# the runs: 0.05 on Open-Athena's 8 series, 0.01 on Porian's 15 (hidden top budgets, 2026-11). The larger one is taken.
OPTIMUM_ERROR = 0.05
# Tokens and params beyond what the unique tokens carry decay with these numbers of epochs (2305.16264).
REPEATED_TOKENS, REPEATED_PARAMS = 15.387756, 5.309743
REACH, POINTS = 7.0, 281  # log params searched to either side of the root of the budget, and at how many points


def near_frontier(o: Observations, enough: int = ENOUGH) -> Observations:
    """The runs whose loss is little above the best of any run that cost no more and had no more unique tokens."""
    assert o.params is not None and o.tokens is not None
    cost = np.log(o.params * o.tokens if o.flops is None else o.flops)
    unique = np.zeros(len(o)) if o.unique_tokens is None else np.log(o.unique_tokens)
    best = np.array(
        [o.loss[(cost <= c + 0.02) & (unique <= u + 0.02)].min() for c, u in zip(cost, unique, strict=True)]
    )
    kept = next(near for share in NEAR if (near := o.loss <= best * (1 + share)).sum() >= min(enough, len(o)))
    return o.where(kept)


def frontier_laws(fit: Fit) -> tuple[tuple[LawFit, float], ...]:
    """Laws in params and tokens refitted near the frontier, with their weights. Raises InputError where none is.

    Weighted by how well they fit there (BIC), not by the backtests of the loss, which hardly feel where an optimum is.
    """
    both = [law for law, _ in by_law(fit) if {"params", "tokens"} <= set(law.columns) <= READS]
    if not both:
        names = ", ".join(law.name for law, _ in by_law(fit))
        others = {column for law, _ in by_law(fit) for column in law.columns} - {"params", "tokens", "flops"}
        if any({"params", "tokens"} <= set(law.columns) for law, _ in by_law(fit)):
            raise InputError(
                f"The fitted laws ({names}) read {', '.join(sorted(others))} beside params and tokens, so a budget is "
                f"not settled by how these two share it. Compare next runs, or forecasts of the targets you consider."
            )
        raise InputError(
            f"The fitted laws ({names}) do not tell params from tokens, so no budget can be split between them. Train "
            f"two or more horizons (tokens per parameter, at least a factor 2 apart) at two or more sizes."
        )
    freed = [replace(law, tied=False) if isinstance(law, EffectiveTokens) else law for law in both]
    free = [law for law in freed if not ties(law)] or both
    near = near_frontier(fit.observations, max(ENOUGH, 3 + max(len(law.names) for law in free)))
    fits = [fit_law(law, near, draws=DRAWS, seed=0) for law in free]
    evidence = np.array([np.log(law.law.belief) - 0.5 * _criterion(law) for law in fits])
    weights = np.exp(evidence - evidence.max())
    kept = weights > 0.01 * weights.sum()
    share = weights[kept].sum()
    return tuple((law, float(w / share)) for law, w, k in zip(fits, weights, kept, strict=True) if k)


def ties(law: Law) -> bool:
    """Whether params and tokens share one exponent, so that the best of both grow alike by decree."""
    return "alpha" in law.names and "beta" not in law.names


def _criterion(law: LawFit) -> float:
    """Bayesian information criterion; a run far off the law counts as three standard deviations."""
    residuals = np.minimum(np.abs(law.residuals), 3 * law.spread)
    return len(residuals) * np.log(np.mean(residuals**2) + 1e-8) + len(law.theta) * np.log(len(residuals))


@dataclass(frozen=True, eq=False)
class Best:
    """Each draw's optimum for one budget: (draws,) each; `edge` where it lies at the end of the search."""

    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    edge: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """Loss against params at a budget. `price` is that of training; serving a token costs a third of its params' part.

    `unique_tokens` None means that no token repeats. `middle` is the mean log FLOPs of the runs that were fitted.
    """

    laws: tuple[tuple[LawFit, float], ...]
    price: Price
    inference_tokens: float = 0.0
    unique_tokens: float | None = None
    middle: float = 0.0

    @property
    def weights(self) -> np.ndarray:
        """Of the draws, summing to 1."""
        return np.concatenate([np.full(len(law.draws), weight / len(law.draws)) for law, weight in self.laws])

    def params(self, flops: float, points: int = POINTS) -> np.ndarray:
        """The searched params, evenly spaced in the logarithm, up to those that leave no tokens to train on."""
        root = np.sqrt(flops / self.price.per_param)
        served = self.price.per_param * self.inference_tokens / 3
        most = flops / served if served > 0 else np.inf
        return np.geomspace(min(root, most) * np.exp(-REACH), min(root * np.exp(REACH), 0.999 * most), points)

    def tokens(self, params: np.ndarray, flops: float) -> np.ndarray:
        """Training tokens that the budget leaves at these params; negative where it leaves none."""
        left = flops - self.price.per_param * params * self.inference_tokens / 3
        return left / self.price.flops(params, 1.0)

    def losses(self, params: np.ndarray, flops: float) -> np.ndarray:
        """(draws, n): every draw's optimum moved by the law's own error, repeats of the unique tokens discounted."""
        tokens, found = self.tokens(params, flops), []
        for law, _ in self.laws:
            tilt = np.exp(OPTIMUM_ERROR * (np.log(flops) - self.middle) * _normals(len(law.draws)))[:, None]
            sizes = self.sizes(law, params, tokens)
            assert sizes.params is not None and sizes.tokens is not None
            unique = None if sizes.unique_tokens is None else sizes.unique_tokens * tilt
            moved = Sizes(params=sizes.params / tilt, tokens=sizes.tokens * tilt, unique_tokens=unique)
            found.append(law.law(law.draws, moved))
        return np.concatenate(found)

    def curve(self, flops: float, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
        """Params (n,) and losses (draws, n) at a budget."""
        params = self.params(flops, points)
        return params, self.losses(params, flops)

    def optimum(self, flops: float) -> Best:
        """The least of each draw's curve, by a parabola through its lowest point and the two beside it."""
        params, loss = self.curve(flops)
        lowest = np.argmin(loss, axis=1)
        inner, rows = lowest.clip(1, len(params) - 2), np.arange(len(loss))
        left, middle, right = (loss[rows, inner + step] for step in (-1, 0, 1))
        shift = (0.5 * (left - right) / np.maximum(left - 2 * middle + right, 1e-300)).clip(-1, 1)
        best = params[inner] * (params[1] / params[0]) ** shift
        return Best(best, self.tokens(best, flops), loss[rows, lowest], lowest != inner)

    def frontier(self, budgets: np.ndarray) -> np.ndarray:
        """Least loss of every draw at every budget: (draws, budgets), on a coarser grid."""
        return np.stack([self.curve(flops, POINTS // 2)[1].min(axis=1) for flops in budgets], axis=1)

    def sizes(self, law: LawFit, params: np.ndarray, tokens: np.ndarray) -> Sizes:
        """What a law is given: effective params and tokens where it does not know repeats itself."""
        unique = self.unique_tokens
        if unique is None or "unique_tokens" in law.law.columns:
            return Sizes(params=params, tokens=tokens, unique_tokens=np.minimum(tokens, unique or np.inf))
        return _effective(law, params, tokens, unique)


def _normals(count: int) -> np.ndarray:
    """Evenly spread normal numbers in an order that has nothing to do with the draws'."""
    return special.ndtri((np.random.default_rng(0).permutation(count) + 0.5) / count)


def _effective(law: LawFit, params: np.ndarray, tokens: np.ndarray, unique: float) -> Sizes:
    """Effective params and tokens of 2305.16264 (section 3.1): beyond what the unique tokens carry, both count less."""
    carried = np.minimum(params, _carried(law, unique))
    beyond, repeats = params / carried - 1, np.maximum(tokens / unique - 1, 0)
    return Sizes(
        params=carried * (1 - REPEATED_PARAMS * np.expm1(-beyond / REPEATED_PARAMS)),
        tokens=np.minimum(tokens, unique) * (1 - REPEATED_TOKENS * np.expm1(-repeats / REPEATED_TOKENS)),
    )


def _carried(law: LawFit, unique: float) -> float:
    """Params for which the unique tokens are the best horizon, by the law's best parameters."""
    params = np.geomspace(unique * 1e-4, unique * 1e3, 400)
    moved = [Sizes(params=params * np.exp(s), tokens=np.full(400, unique * np.exp(-s))) for s in (0.01, -0.01)]
    larger, longer = (law.law(law.theta, sizes) for sizes in moved)  # along constant compute through (params, unique)
    return float(params[np.argmin(np.abs(larger - longer) / (larger + longer))])
