"""What to run next: which sizes, horizons and seeds shrink a target's interval most for a budget of FLOPs.

Greedy over candidate runs with the best of many first picks, scored by the expected variance (`design.py`). A newcomer
would take the gain per FLOP alone: that spends the budget on crumbs and leaves none for the one large run that matters,
so the candidates that do most alone are each tried as the first purchase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.design import Design, design, places, priced, row
from windtunnel.forecasts.place import located, runs_of
from windtunnel.ladder import Size, Target, compact
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import at_work
from windtunnel.notebook import printed

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

SEEDS = 3  # runs of one place at most
MOST_RUNS = 12  # that one piece of advice holds
WORTH = 0.02  # a run must narrow the interval by this share of its width, else the money is kept (guess)
FIRSTS = 12  # candidates tried as the first purchase: those that do most alone
LEVEL = 0.9
ABSURD = 1e6  # times the dearest run or target: no budget is so large, so its unit is another (guess)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Train `seeds` runs at `sizes`, for `flops` in all; the target's 90 % interval should narrow as said.

    Widths are high minus low in the loss's unit: before this purchase (earlier ones made) and after it.
    """

    sizes: Mapping[str, float]
    seeds: int
    flops: float
    share_of_budget: float
    share_of_target: float | None
    width_before: float
    width_after: float

    @property
    def place(self) -> str:
        """The sizes in words."""
        order = ("params", "active_params", "tokens", "unique_tokens")
        named = [name for name in order if name in self.sizes] or ["flops"]
        return ", ".join(f"{compact(self.sizes[name])} {name}" for name in named)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        many = f"{self.seeds} runs" if self.seeds > 1 else "one run"
        target = "" if self.share_of_target is None else f", {_percent(self.share_of_target)} of the target's price"
        return (
            f"train {many} at {self.place} ({compact(self.flops)} FLOPs, {_percent(self.share_of_budget)} of the "
            f"budget{target}): 90% interval {self.width_before:.3g} wide becomes {self.width_after:.3g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"sizes": dict(self.sizes)}


def next_runs(
    fit: Fit, target: Target, budget_flops: float, *, candidates: Sizes | None = None, size: Size | None = None
) -> tuple[Advice, ...]:
    """The runs that are expected to narrow the target's interval most for `budget_flops`, best first.

    Nothing is advised that narrows it by less than a fiftieth, so an empty answer means: more of such runs do not help.
    `candidates` are the sizes to choose from (with flops); None takes a grid from the ladder's smallest run to what the
    budget buys, never above half the target's price. Raises InputError where runs have no price or the budget none,
    and for a budget without candidates that is a million times the dearest run.
    """
    runs = runs_of(fit)
    if not isinstance(budget_flops, Real) or not (np.isfinite(budget_flops) and budget_flops > 0):
        raise InputError(f"budget_flops is {budget_flops!r}; give the FLOPs you can spend as a positive number.")
    o = priced(runs)
    goal = located(o, target, size).sizes
    dearest = max(float(np.nanmax(each.flops)) for each in (o, goal) if each.flops is not None)
    if candidates is None and budget_flops > ABSURD * dearest:
        raise InputError(
            f"budget_flops is {budget_flops:.3g}, {compact(budget_flops / dearest)} times the price of the dearest run "
            f"and of the target; are all in FLOPs? Write plain numbers, as 1e21."
        )
    at = places(o, goal, budget_flops) if candidates is None else _affordable(candidates, budget_flops)
    found = design(fit, at, goal)
    return _advice(fit, found, at, goal, bought(found, budget_flops), budget_flops)


def bought(found: Design, budget: float) -> np.ndarray:
    """Runs of each candidate that a greedy purchase ends with, over all first picks: (C,) counts."""
    empty = np.zeros(len(found.price), int)
    plans = [_filled(found, empty, budget)]
    alone = np.array([found.variance(one) for one in np.eye(len(empty), dtype=int)])
    for first in np.argsort(np.where(found.price <= budget, alone, np.inf))[:FIRSTS]:
        start = empty.copy()
        start[first] = 1
        plans.append(_filled(found, start, budget))
    plans = [_pruned(found, plan) for plan in plans]
    lowest = min(found.variance(plan) for plan in plans)
    close = [plan for plan in plans if found.variance(plan) <= lowest * (1 + 2 * WORTH)]
    return min(close, key=lambda plan: float(plan @ found.price))


def _filled(found: Design, runs: np.ndarray, budget: float) -> np.ndarray:
    """The plan with the best further run per FLOP added until none is worth it or the money is spent."""
    runs, now = runs.copy(), found.variance(runs)
    while runs.sum() < MOST_RUNS:
        left = budget - runs @ found.price
        options = np.flatnonzero((found.price <= left) & (runs < SEEDS))
        after = np.array([found.variance(runs + (np.arange(len(runs)) == index)) for index in options])
        worth = np.flatnonzero(after < now * (1 - 2 * WORTH))  # a width's share is half its variance's
        if not len(worth):
            break
        best = worth[np.argmax((now - after[worth]) / found.price[options[worth]])]
        runs[options[best]] += 1
        now = after[best]
    return runs


def _pruned(found: Design, runs: np.ndarray) -> np.ndarray:
    """The plan without runs that were worth their place only until others joined, dearest first."""
    for index in sorted(np.flatnonzero(runs), key=lambda index: -found.price[index]):
        while runs[index]:
            fewer = runs - (np.arange(len(runs)) == index)
            if found.variance(fewer) * (1 - 2 * WORTH) > found.variance(runs):
                break
            runs = fewer
    return runs


def _advice(fit: Fit, found: Design, at: Sizes, goal: Sizes, runs: np.ndarray, budget: float) -> tuple[Advice, ...]:
    interval = fit.predict(goal).interval(LEVEL)
    whole = found.variance(np.zeros_like(runs))
    advice, trained, before = [], np.zeros_like(runs), whole
    for index in _best_first(found, runs):
        trained[index] = runs[index]
        after = found.variance(trained)
        low, high = (_width(interval, np.sqrt(each / whole)) for each in (before, after))
        spent = float(found.price[index] * runs[index])
        advice.append(
            Advice(
                sizes=_stated(row(at, index)),
                seeds=int(runs[index]),
                flops=spent,
                share_of_budget=spent / budget,
                share_of_target=None if goal.flops is None else spent / float(goal.flops[0]),
                width_before=low,
                width_after=high,
            )
        )
        before = after
    return tuple(advice)


def _best_first(found: Design, runs: np.ndarray) -> list[int]:
    """Chosen candidates in the order in which each narrows the interval most."""
    left, order, trained = set(np.flatnonzero(runs).tolist()), [], np.zeros_like(runs)
    while left:
        best = min(left, key=lambda index: found.variance(np.where(np.arange(len(runs)) == index, runs, trained)))
        trained[best] = runs[best]
        order.append(best)
        left.remove(best)
    return order


def _width(interval: Any, share: float) -> float:
    """Width in loss of a log interval drawn in to `share` about its median."""
    ends = interval.median + share * (np.array([interval.low, interval.high]) - interval.median)
    return float(np.diff(np.exp(ends))[0])


def _stated(sizes: Sizes) -> dict[str, float]:
    found = {f.name: getattr(sizes, f.name) for f in fields(Sizes)}
    return {name: float(value[0]) for name, value in found.items() if value is not None}


def _affordable(candidates: Sizes, budget: float) -> Sizes:
    flops = candidates.flops
    if flops is None and (params := at_work(candidates)) is not None and candidates.tokens is not None:
        flops = 6 * params * candidates.tokens
    if flops is None:
        raise InputError("The candidates have no price: state their flops, or their params and tokens.")
    if not np.any(flops <= budget):
        raise InputError(f"The cheapest candidate costs {np.min(flops):.3g} FLOPs; the budget is {budget:.3g}.")
    columns = {f.name: getattr(candidates, f.name) for f in fields(Sizes)} | {"flops": flops}
    return Sizes.of(Sizes(**columns), flops <= budget)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
