"""Compute allocation: the params and tokens that a budget is best spent on, with intervals, and the cost of being off.

The budget holds inference too where it is asked for (Sardana 2401.00448), and tokens beyond the unique ones count less
(2305.16264). What a newcomer would get wrong: the optimum is flat. A factor of two in params costs little, so the
interval of the optimum may be wide while its loss is sharp; `off` and `within` say what being off costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.budgets import READS, Best, Curves, frontier_laws, near_frontier, ties
from windtunnel.forecasts.interval import Interval, digits
from windtunnel.forecasts.place import past_repeats, runs_of
from windtunnel.forecasts.price import ROUGH, SIX, Price, price_of
from windtunnel.ladder import compact
from windtunnel.laws.repeated import repeating
from windtunnel.notebook import marked, printed

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

OFF = (0.25, 0.5, 2.0, 4.0)  # params as multiples of the optimum whose cost is told
WITHIN = (0.001, 0.01)  # shares of the loss within which a region of params is told
MOST_WASTE = 64.0  # compute multiples are told up to this
UNSETTLED = 0.5  # share of draws without an optimum from which none is told
FAR = 30.0  # times the largest run, or a share of the smallest, from which a budget is called far (guess)
ABSURD = (1e-6, 1e12)  # of the smallest and times the largest run: beyond, a budget is in another unit (guesses)
_NAMES = ("params", "tokens", "tokens_per_param", "loss", "exponent")


@dataclass(frozen=True, kw_only=True)
class Off:
    """Params at `params_factor` times the optimum for the same budget (tokens give way).

    `excess` is the loss above the optimum's as a share of it; `compute_multiple` how many times too much was spent.
    """

    params_factor: float
    excess: Interval
    compute_multiple: Interval

    _repr_pretty_ = printed

    def __str__(self) -> str:
        times = f"{self.params_factor:g}" if self.params_factor > 1 else f"1/{1 / self.params_factor:g}"
        waste = digits(self.compute_multiple.median)
        return f"{times} x the best params: loss {100 * self.excess.median:+.2f} %, as if {waste}x too much was spent"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        stated = {"params_factor": self.params_factor, "excess": self.excess.to_json()}
        return stated | {"compute_multiple": self.compute_multiple.to_json()}


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """How to spend `flops` (training, and serving where `inference_tokens` are asked for).

    `price` is what a run was taken to cost, `loss` the expected loss at the median split. `exponent` is the power of
    the budget with which the best params grow there. `within` maps a share of the loss to the range of params whose
    expected loss is at most that share above the least.
    """

    flops: float
    price: Price
    params: Interval
    tokens: Interval
    tokens_per_param: Interval
    loss: Interval
    exponent: Interval
    off: tuple[Off, ...]
    within: Mapping[float, tuple[float, float]]
    inference_tokens: float
    unique_tokens: float | None
    caveats: tuple[str, ...]

    _repr_pretty_ = printed

    def __str__(self) -> str:
        lines = marked(self.caveats)
        lines += [] if str(self.price) == str(SIX) else [f"a run costs {self.price}"]
        for name in _NAMES[:3]:
            median, *ends = (compact(getattr(getattr(self, name), end)) for end in ("median", "low", "high"))
            lines.append(f"best {name.replace('_', ' ')}: {median} [{', '.join(ends)}] at {100 * self.params.level:g}%")
        e = self.exponent
        lines.append(f"best params grow as budget ** {e.median:.2f} [{e.low:.2f}, {e.high:.2f}] there")
        lines += [f"loss there: {self.loss}", *(str(off) for off in self.off)]
        regions = ((100 * share, *map(compact, ends)) for share, ends in self.within.items())
        return "\n".join([*lines, *(f"within {s:g} % of the least loss: {a} to {b} params" for s, a, b in regions)])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        stated = {name: getattr(self, name) for name in ("flops", "inference_tokens", "unique_tokens")}
        stated |= {"flops_per_param_token": self.price.per_param, "flops_per_token": self.price.per_token}
        stated |= {name: getattr(self, name).to_json() for name in _NAMES}
        stated |= {"off": [each.to_json() for each in self.off], "caveats": list(self.caveats)}
        return stated | {"within": {f"{share:g}": list(ends) for share, ends in self.within.items()}}


def allocate(
    fit: Fit,
    flops: float,
    *,
    inference_tokens: float = 0.0,
    unique_tokens: float | None = None,
    flops_per_param_token: float | None = None,
    level: float = 0.9,
) -> Allocation:
    """The params and tokens with the least expected loss for `flops`, from runs that vary both.

    Training costs `flops_per_param_token` x params x tokens, or where that is None what the runs' own FLOPs say (6 x
    params x tokens where they have none); serving `inference_tokens` a third of the params' part per token.
    `unique_tokens` is how many distinct ones there are. Raises InputError where no law tells params from tokens, where
    most draws have no optimum, and for a budget a millionth of the smallest run or 1e12 times the largest.
    """
    _check(flops=flops, inference_tokens=inference_tokens, unique_tokens=unique_tokens, level=level)
    curves = _curves(fit, flops_per_param_token, inference_tokens, unique_tokens)
    low, high = _prices(fit, curves.price)
    if not ABSURD[0] * low < flops < ABSURD[1] * high:
        raise InputError(
            f"flops is {flops:.3g}, and these runs cost {low:.3g} to {high:.3g} ({curves.price}); "
            f"are both in FLOPs? Write plain numbers, as 1e21."
        )
    best, near, spread = curves.optimum(flops), curves.optimum(flops * 1.1), _Spread(curves.weights, level)
    if curves.weights @ best.edge > UNSETTLED:
        raise InputError(
            f"These runs do not tell how to split {flops:.3g} FLOPs: by most of what fits them, more params, or more "
            f"tokens, always help, and what is best lies at the end of what is searched. Are params, tokens and FLOPs "
            f"plain numbers? Else train more sizes, and several horizons (tokens per parameter) at each."
        )
    split = spread.of(best.params)
    return Allocation(
        flops=float(flops),
        price=curves.price,
        params=split,
        tokens=spread.of(best.tokens),
        tokens_per_param=spread.of(best.tokens / best.params),
        loss=_loss(fit, curves, split.median, flops, level),
        exponent=spread.of(np.log(near.params / best.params) / np.log(1.1)),
        off=_off(curves, best, flops, spread),
        within=_within(curves, flops),
        inference_tokens=float(inference_tokens),
        unique_tokens=unique_tokens,
        caveats=tuple(_caveats(fit, curves, best, spread, flops)),
    )


def _prices(fit: Fit, price: Price) -> tuple[float, float]:
    """FLOPs of the smallest run and of the largest."""
    o = fit.observations
    assert o.params is not None and o.tokens is not None
    prices = price.flops(o.params, o.tokens)
    return float(np.min(prices)), float(np.max(prices))


def flops_for(
    fit: Fit,
    loss: float,
    *,
    inference_tokens: float = 0.0,
    unique_tokens: float | None = None,
    flops_per_param_token: float | None = None,
    level: float = 0.9,
) -> Interval:
    """The least total FLOPs (training and serving) that reach `loss`; infinite where the floor lies above it.

    `allocate` at the median says how to spend them: together they answer Sardana's question (2401.00448).
    """
    _check(loss=loss, inference_tokens=inference_tokens, unique_tokens=unique_tokens, level=level)
    curves = _curves(fit, flops_per_param_token, inference_tokens, unique_tokens)
    budgets = np.exp(curves.middle) * np.geomspace(1e-13, 1e13, 157)
    rows = curves.frontier(budgets)
    reached = [np.interp(-loss, -row, np.log(budgets), left=-np.inf, right=np.inf) for row in rows]
    return _Spread(curves.weights, level).of(np.exp(np.array(reached)))


def _curves(fit: Fit, cost: float | None, inference_tokens: float, unique_tokens: float | None) -> Curves:
    _check(flops_per_param_token=cost)
    runs = runs_of(fit)
    laws = frontier_laws(fit)
    o = near_frontier(runs)
    assert o.params is not None and o.tokens is not None
    told = price_of(runs.params, runs) if cost is None else Price(float(cost))
    price = told or SIX
    middle = float(np.mean(np.log(price.flops(o.params, o.tokens))))
    return Curves(laws, price, inference_tokens, unique_tokens, middle)


@dataclass(frozen=True)
class _Spread:
    """Weighted quantiles of draws as Intervals."""

    weights: np.ndarray
    level: float

    def of(self, values: np.ndarray) -> Interval:
        order = np.argsort(values)
        share = np.cumsum(self.weights[order]) - 0.5 * self.weights[order]
        wanted = np.array([0.5, 0.5 - self.level / 2, 0.5 + self.level / 2])
        picked = np.searchsorted(share, wanted).clip(max=len(order) - 1)
        median, low, high = values[order[picked]].tolist()
        return Interval(median, low, high, self.level)


def _loss(fit: Fit, curves: Curves, params: float, flops: float, level: float) -> Interval:
    """What the fit, with all its doubts, says of the expected loss at one split."""
    kept = [(law, w) for law, w in zip(fit.laws, fit.weights, strict=True) if set(law.law.columns) <= READS | {"flops"}]
    total = sum(w for _, w in kept)
    some = replace(fit, laws=tuple(law for law, _ in kept), weights=tuple(w / total for _, w in kept))
    split = np.array([params])
    sizes = curves.sizes(curves.laws[0][0], split, curves.tokens(split, flops))
    assert sizes.params is not None and sizes.tokens is not None
    at = replace(sizes, flops=curves.price.flops(sizes.params, sizes.tokens))
    return some.predict(at, noise=False).interval(level, exponential=True)


def _off(curves: Curves, best: Best, flops: float, spread: _Spread) -> tuple[Off, ...]:
    budgets = np.geomspace(flops / MOST_WASTE, flops, 25)
    frontier = curves.frontier(budgets)
    frontier = frontier - frontier[:, -1:] + best.loss[:, None]  # takes out the coarser grid's own error
    grid, curve = curves.curve(flops)
    found = []
    for factor in OFF:
        logs = np.log(best.params * factor)
        loss = np.array([np.interp(at, np.log(grid), row, right=np.inf) for at, row in zip(logs, curve, strict=True)])
        if np.all(np.isfinite(loss)):  # else the budget leaves nothing to train on
            pairs = zip(loss, frontier, strict=True)
            equal = np.exp([np.interp(-at, -row, np.log(budgets)) for at, row in pairs])
            excess, waste = spread.of(loss / best.loss - 1), spread.of(flops / equal)
            found.append(Off(params_factor=factor, excess=excess, compute_multiple=waste))
    return tuple(found)


def _within(curves: Curves, flops: float) -> dict[float, tuple[float, float]]:
    params, loss = curves.curve(flops)
    expected = curves.weights @ np.log(loss)
    inside = {share: np.flatnonzero(expected <= expected.min() + np.log1p(share)) for share in WITHIN}
    return {share: (float(params[rows[0]]), float(params[rows[-1]])) for share, rows in inside.items()}


def _caveats(fit: Fit, curves: Curves, best: Best, spread: _Spread, flops: float) -> list[str]:
    found, o = list(fit.caveats), fit.observations
    low, high = _prices(fit, curves.price)
    if o.active_params is not None and o.params is not None:
        waiting = compact(float(np.exp(np.mean(np.log(o.params / o.active_params)))))
        found.append(f"Params are all params, {waiting} for each active one, as in these runs.")
    if curves.price.off > ROUGH:
        found.append(
            f"These runs' FLOPs are no sum of a part for params and one for tokens; the largest run's {curves.price} "
            f"are taken, which others are up to {np.exp(curves.price.off):.2g} times off. Give flops_per_param_token."
        )
    for times, run in ((flops / high, "larger than the largest"), (low / flops, "smaller than the smallest")):
        if times > FAR:
            said = f"The budget is {times:.3g} times {run} run"
            found.append(f"{said}; take the intervals as a lower bound of the doubt.")
    if curves.weights @ best.edge > 0.05:
        found.append("For some draws more params, or more tokens, always help: these runs do not settle the split.")
    if all(ties(law.law) for law, _ in curves.laws):
        found.append("Only a law with tied exponents was fitted, which takes params and tokens to grow alike.")
    unique = curves.unique_tokens
    known = any("unique_tokens" in law.law.columns for law, _ in curves.laws)
    epochs = 0.0 if unique is None else spread.of(best.tokens / unique).median
    if unique is None and repeating(o):
        found.append("All tokens are taken as new ones, though these runs repeat theirs; state unique_tokens.")
    if (past := past_repeats(epochs, o)) and known:
        found.append(f"At the best split: {past}")
    if epochs > 1 and not known:
        found.append(f"Unique tokens repeat {epochs:.3g} times; their worth is taken from 2305.16264, not these runs.")
    return found


def _check(**given: float | None) -> None:
    meanings: dict[str, tuple[Callable[[float], bool], str]] = {
        "flops": (lambda x: x > 0, "the budget as a positive number of FLOPs"),
        "loss": (lambda x: x > 0, "the expected loss to reach, in the runs' unit"),
        "inference_tokens": (lambda x: x >= 0, "the tokens to be served, or 0"),
        "unique_tokens": (lambda x: x > 0, "how many distinct training tokens there are, or None"),
        "flops_per_param_token": (lambda x: x > 0, "training FLOPs per parameter and token, usually 6"),
        "level": (lambda x: 0 < x < 1, "the probability that an interval holds the truth, as in 0.9"),
    }
    for name, value in given.items():
        good, meaning = meanings[name]
        if value is not None and not (isinstance(value, Real) and np.isfinite(value) and good(value)):
            raise InputError(f"{name} is {value!r}; give {meaning}.")
