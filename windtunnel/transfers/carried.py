"""What became of a hyperparameter that was carried up a ladder: drift of its optimum, gap of its value, verdict.

A basin a rung, from losses alone: nothing is trained here. A newcomer would judge a rule by how far the optimum moved;
basins are flat, and what counts is the loss that the carried value gives away, with the interval of the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from windtunnel.errors import InputError
from windtunnel.forecasts import Interval
from windtunnel.ladder import Rung
from windtunnel.notebook import printed
from windtunnel.scaling.slopes import student
from windtunnel.tune import COST_BAR, LEVEL, Basin, Tried, basin, interval_of, squared


@dataclass(frozen=True, kw_only=True)
class Carried:
    """One rule on one ladder: a basin a rung, and what the base's optimum is worth at each.

    `drift` is the move of the optimum (log2) from the base to each rung, `gap` the loss at the base's optimum over the
    lowest loss of the rung, minus one, `per_doubling` the drift per doubling of the growth that `growths` counts,
    `penalty` the gap that such a drift would cost at `at_growth` (last rung's curvature). `there` holds, by seed, the
    last rung's loss at the base's optimum.
    """

    name: str
    field: str
    sizes: tuple[str, ...]
    rungs: tuple[Rung, ...]
    growths: tuple[float, ...]
    basins: tuple[Basin, ...]
    drift: tuple[Interval, ...]
    gap: tuple[Interval, ...]
    per_doubling: Interval
    at_growth: float
    penalty: Interval
    there: Mapping[int, float]

    @property
    def verdict(self) -> str:
        """By the gap at the last rung against the bar of a good transfer, 0.3 % of the loss."""
        last = self.gap[-1]
        if last.low > COST_BAR and not self.basins[0].at_edge:
            return "does not transfer"
        if self.basins[0].at_edge or self.basins[-1].at_edge:  # nothing can be carried of what was not tried
            return "cannot tell: optimum at the edge of the values"
        return "transfers" if last.high <= COST_BAR else "cannot tell"

    def to_json(self) -> dict[str, Any]:
        """Plain data, with every loss."""
        logs = [[math.log2(v) for v in (b.optimum.median, b.optimum.low, b.optimum.high)] for b in self.basins]
        return {
            "rule": self.name, "field": self.field, "verdict": self.verdict,
            "rungs": [{"width": r.width, "depth": r.depth, "tokens": r.tokens, "batch": r.batch} for r in self.rungs],
            "log2_optimum": logs, "own_loss": [b.parabola[0] for b in self.basins],
            "at_edge": [b.at_edge for b in self.basins],
            "drift_log2": [d.to_json() for d in self.drift], "gap": [g.to_json() for g in self.gap],
            "drift_per_doubling": self.per_doubling.to_json(), "at_growth": self.at_growth,
            "penalty": self.penalty.to_json(), "loss_at_base_optimum": {str(s): v for s, v in self.there.items()},
            "tried": [[[t.value, t.seed, t.loss] for t in b.tried] for b in self.basins],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rules side by side on one ladder, best at the transferred value first."""

    rules: tuple[Carried, ...]
    missing: Mapping[str, str]  # rules that could not be judged, and why

    def against_best(self, rule: Carried) -> Interval | None:
        """Loss at the transferred value at the last rung over the best rule's, minus one, paired by seed.

        None for the best rule itself, and for fewer than 2 common seeds.
        """
        best = self.rules[0]
        seeds = sorted(set(rule.there) & set(best.there))
        if rule is best or len(seeds) < 2:
            return None
        return mean_interval([rule.there[s] / best.there[s] - 1 for s in seeds])

    _repr_pretty_ = printed

    def __str__(self) -> str:
        if not self.rules:
            return "\n".join(f"{name}: {why}" for name, why in self.missing.items())
        first = self.rules[0]
        seeds = len({t.seed for t in first.basins[-1].tried})
        where = f"from {first.sizes[0]} to {first.sizes[-1]}, {seeds} seed{'s' if seeds > 1 else ''}, {LEVEL:.0%}"
        lines = [f"{first.field} {where}"]
        lines += [self._line(rule) for rule in self.rules]
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in self.missing.items())])

    def _line(self, rule: Carried) -> str:
        optima = " / ".join(f"{math.log2(b.optimum.median):+.2f}" for b in rule.basins)
        drift, gap, loss = rule.drift[-1], rule.gap[-1], float(np.mean(list(rule.there.values())))
        worse = self.against_best(rule)
        beside = "" if worse is None else f", {100 * worse.median:+.2f} % against {self.rules[0].name}"
        beside += "" if worse is None else f" [{100 * worse.low:+.2f}, {100 * worse.high:+.2f}]"
        return (
            f"  {rule.name:<16} {rule.verdict}: log2 optimum {optima}; drift {drift.median:+.2f} [{drift.low:+.2f}, "
            f"{drift.high:+.2f}]; gap {100 * gap.median:.2f} % [{100 * gap.low:.2f}, {100 * gap.high:.2f}]; at growth "
            f"{rule.at_growth:g} it would be {100 * rule.penalty.median:.2f} % [{100 * rule.penalty.low:.2f}, "
            f"{100 * rule.penalty.high:.2f}]; loss there {loss:.4f}{beside}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, with every loss."""
        beside = {r.name: (i.to_json() if (i := self.against_best(r)) else None) for r in self.rules}
        return {"rules": [r.to_json() for r in self.rules], "against_best": beside, "missing": dict(self.missing)}


def judged(
    name: str,
    field: str,
    rungs: Sequence[Rung],
    tried: Sequence[Sequence[Tried]],
    *,
    at_growth: float | None = None,
    called: Sequence[str] | None = None,
) -> Carried:
    """A rule judged by losses, yours or ours: for every rung what was tried, the base's first.

    `at_growth` is how far the penalty is carried, None twice the last rung's growth; `called` how texts call the rungs.
    Raises InputError where fewer than 3 values of a rung finished, and for rungs that do not grow.
    """
    basins = [basin(field, at, seed=number) for number, at in enumerate(tried)]  # draws of rungs are independent
    draws = np.array([b.draws for b in basins])
    optima = np.array([math.log2(b.optimum.median) for b in basins])
    growths = [_growth(rung, rungs) for rung in rungs]
    at_growth = at_growth or 2 * growths[-1]
    doublings = np.log2(growths)
    slopes = doublings @ (draws - draws[0]) / (doublings @ doublings)
    slope = float(doublings @ (optima - optima[0]) / (doublings @ doublings))
    used = basins[0].optimum.median
    there = _at(_curves(tried[-1]), used)
    _, b, _ = basins[-1].parabola
    far = max(b, 0.0) / float(np.mean([*there.values()] or [math.inf])) * math.log2(at_growth) ** 2
    return Carried(
        name=name, field=field, sizes=tuple(called or map(str, rungs)), rungs=tuple(rungs),
        growths=tuple(growths), basins=tuple(basins),
        drift=tuple(interval_of(d - draws[0], o - optima[0]) for d, o in zip(draws, optima, strict=True)),
        gap=tuple(_gap(at, used) for at in tried),
        per_doubling=interval_of(slopes, slope), at_growth=at_growth,
        penalty=squared(slopes, slope, far), there=there,
    )  # fmt: skip


def compared(
    field: str,
    rungs: Sequence[Rung],
    tried: Mapping[str, Sequence[Sequence[Tried]]],
    at_growth: float | None,
    called: Sequence[str] | None = None,
) -> Comparison:
    """Rules side by side; one of which too little finished is missing, with the reason."""
    found, missing = [], {}
    for name, each in tried.items():
        try:
            found.append(judged(name, field, rungs, each, at_growth=at_growth, called=called))
        except InputError as error:
            missing[name] = str(error)
    found.sort(key=lambda rule: np.mean(list(rule.there.values())) if rule.there else math.inf)
    return Comparison(rules=tuple(found), missing=missing)


def _growth(rung: Rung, rungs: Sequence[Rung]) -> float:
    """Growth over the base of width times depth; of tokens where neither grows, of the batch where all stay."""
    measures = ([r.width * r.depth for r in rungs], [r.tokens for r in rungs], [r.batch or 1 for r in rungs])
    found = next((sizes for sizes in measures if len(set(sizes)) > 1), None)
    if found is None:
        raise InputError(f"The rungs do not grow: all are {rungs[0]}. Give a base and larger ones.")
    return found[list(rungs).index(rung)] / found[0]


def _gap(tried: Sequence[Tried], used: float) -> Interval:
    """Loss at `used` over the loss at the rung's own best value, minus one, by seed.

    The best value is that of the lowest curve over all seeds, so the gap is never too small by design. The interval is
    Student's over the seeds; it is open with one seed, and infinite where a seed diverged at `used`.
    """
    curves = _curves(tried)
    there = _at(curves, used)
    if len(there) < len({t.seed for t in tried}):
        return Interval(math.inf, math.inf, math.inf, LEVEL)
    low, high = (math.log2(end(t.value for t in tried)) for end in (min, max))
    logs = np.linspace(low, high, 401)
    means = np.mean([curve(logs) for curve in curves.values()], axis=0)  # NaN outside of what finished
    best = _at(curves, 2.0 ** float(logs[np.nanargmin(means)]))
    return mean_interval([there[seed] / best[seed] - 1 for seed in there])


def _curves(tried: Sequence[Tried]) -> dict[int, Callable[[Any], Any]]:
    """By seed one smooth curve of the loss over log2 value, through all that finished.

    Through the logarithms of positive losses, for gaps are shares of the loss.
    """
    found: dict[int, Callable[[Any], Any]] = {}
    for seed in sorted({t.seed for t in tried}):
        finished = sorted((math.log2(t.value), t.loss) for t in tried if t.seed == seed and t.loss is not None)
        if len(finished) >= 3:
            logs, losses = np.array(finished).T
            positive = losses.min() > 0
            curve = Akima1DInterpolator(logs, np.log(losses) if positive else losses, method="makima")
            found[seed] = partial(_raised, curve) if positive else curve
    return found


def _raised(curve: Callable[[Any], Any], logs: Any) -> Any:
    return np.exp(curve(logs))


def _at(curves: Mapping[int, Callable[[Any], Any]], value: float) -> dict[int, float]:
    """By seed, the loss at a value; none outside of what finished."""
    read = {seed: float(curve(math.log2(value))) for seed, curve in curves.items()}
    return {seed: loss for seed, loss in read.items() if math.isfinite(loss)}


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval of a mean, at LEVEL; one value has none."""
    mean, _, half = student(values)
    return Interval(mean, mean - half, mean + half, LEVEL)
