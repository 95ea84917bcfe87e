"""compare_parametrizations(): which rule carries a hyperparameter up this ladder, by training, with evidence.

Every rule is tuned over the same values at every rung, with the same seeds and data, so that what the base's optimum
costs further up is measured and not assumed. At the base's size all rules are one and the same. A newcomer would stop
at a flat coordinate check; that catches a wrong exponent, while a transfer can also fail through decay, epsilon, gains
or the horizon. Too few seeds or a coarse grid end in "cannot tell", which is an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from windtunnel.errors import InputError
from windtunnel.forecasts import Interval
from windtunnel.ladder import Rung
from windtunnel.launch.here import Here
from windtunnel.recipe import Judge, Parametrization, Recipe
from windtunnel.runs import RunSpec
from windtunnel.store import Store
from windtunnel.train.pack import Pack
from windtunnel.tune import COST_BAR, LEVEL, Basin, Tried, basin


@dataclass(frozen=True, kw_only=True)
class Carried:
    """One rule on one ladder: a basin a rung, and what the base's optimum is worth at each.

    `drift` is the move of the optimum (log2) from the base to each rung, `gap` the loss at the base's optimum over the
    loss at the rung's own, minus one, `per_doubling` the drift per doubling of the growth that `growths` counts,
    `penalty` the gap that such a drift would cost at `at_growth` (last rung's curvature). `there` holds, by seed, the
    last rung's loss at the base's optimum.
    """

    name: str
    field: str
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
        if last.low > COST_BAR or self.basins[-1].at_edge:
            return "does not transfer" if last.low > COST_BAR else "cannot tell: optimum at the edge of the values"
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

    def __str__(self) -> str:
        if not self.rules:
            return "\n".join(f"{name}: {why}" for name, why in self.missing.items())
        first = self.rules[0]
        seeds = len({t.seed for t in first.basins[-1].tried})
        where = f"from {first.rungs[0]} to {first.rungs[-1]}, {seeds} seed{'s' if seeds > 1 else ''}, {LEVEL:.0%}"
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


def compare_parametrizations(
    recipe: Recipe,
    rules: Mapping[str, Parametrization],
    *,
    rungs: Sequence[Rung],
    store: Store,
    judge: Judge | None = None,
    values: Sequence[float] | None = None,
    seeds: int = 3,
    at_growth: float | None = None,
    launcher: Any = None,
    watch: Any = None,
) -> Comparison:
    """Train every rule at every rung over the tuned field's values, and say which one transfers.

    `recipe` leaves one field open, `tuned(low, high)`; `values` None are powers of 2 over its range. `rungs[0]` is the
    base; batch and horizon may grow too (then the batch part's `carry` acts). `at_growth` is how far the penalty is
    carried (None: twice the last rung's growth); growth is that of width times depth, of tokens where neither grows.
    Runs that the store holds are not trained again; `watch` follows as in `study.job`. Raises InputError for a recipe
    without exactly one open field, for fewer than two rungs, and for fewer than 3 values.
    """
    field, values = _asked(recipe, rungs, values)
    judge = judge or Judge(data=recipe.data, evaluations=1)
    settled = [_settled(recipe, rung) for rung in rungs]
    packs = {name: _packs(recipe.but(parametrization=r), settled, judge, field, values, seeds, name)
             for name, r in rules.items()}  # fmt: skip
    _train([pack for each in packs.values() for at in each for pack in at], store, launcher, watch)
    found, missing = [], {}
    for name, each in packs.items():
        try:
            found.append(_carried(name, field, settled, [_tried(store, at, field) for at in each], at_growth))
        except InputError as error:
            missing[name] = str(error)
    found.sort(key=lambda rule: np.mean(list(rule.there.values())))
    return Comparison(rules=tuple(found), missing=missing)


def judged(
    name: str,
    field: str,
    rungs: Sequence[Rung],
    tried: Sequence[Sequence[Tried]],
    *,
    at_growth: float | None = None,
) -> Carried:
    """The same from losses of your own: for every rung what was tried. Raises InputError where too little finished."""
    return _carried(name, field, list(rungs), [tuple(t) for t in tried], at_growth)


def _asked(recipe: Recipe, rungs: Sequence[Rung], values: Sequence[float] | None) -> tuple[str, list[float]]:
    ranges = recipe.tuned_fields()
    if len(ranges) != 1:
        raise InputError(
            f"compare_parametrizations varies one field; the recipe leaves {sorted(ranges) or 'none'} open. Fix the "
            f"others at the values tuned at the base, as in but(optimizer=AdamW(lr=tuned(1e-4, 1e-1)))."
        )
    if len(rungs) < 2:
        raise InputError(f"{len(rungs)} rung(s) given; a transfer needs the base and at least one larger rung.")
    (field, range_), *_ = ranges.items()
    chosen = values or 2.0 ** np.arange(math.ceil(math.log2(range_.low)), math.floor(math.log2(range_.high)) + 1)
    if len(chosen) < 3:
        raise InputError(f"{len(chosen)} values of {field} to try; a basin needs 3. Widen tuned({range_.low:g}, ...).")
    return field, [float(v) for v in chosen]


def _settled(recipe: Recipe, rung: Rung) -> Rung:
    return rung if rung.batch else rung.but(batch=recipe.batch(rung, recipe.data.shape()))


def _packs(
    recipe: Recipe, rungs: Sequence[Rung], judge: Judge, field: str, values: Sequence[float], seeds: int, name: str
) -> list[list[Pack]]:
    """For every rung a pack a seed, with all values."""
    described, judged_by = recipe.describe(), judge.describe()

    def pack(rung: Rung, seed: int) -> Pack:
        asked = {"recipe": described, "rung": rung, "seed": seed, "judge": judged_by, "base_rung": rungs[0]}
        specs = tuple(RunSpec(hyperparameters={field: value}, **asked) for value in values)
        label = {"study": "parametrizations", "idea": name, "stage": "transfer"}
        return Pack(recipe=recipe, judge=judge, specs=specs, labels=tuple(label for _ in specs))

    return [[pack(rung, seed) for seed in range(seeds)] for rung in rungs]


def _train(packs: Sequence[Pack], store: Store, launcher: Any, watch: Any) -> None:
    left = [pack for pack in packs if any(spec.key not in store for spec in pack.specs)]
    left.sort(key=lambda pack: -pack.size().training_flops(pack.rung.tokens))
    if left and watch is not None:
        watch.stage("transfer", left)
    follow: tuple[Callable[..., None], ...] = () if watch is None else (watch.progress, watch.finished)
    if left:
        (launcher or Here())(left, store, *follow)


def _tried(store: Store, packs: Sequence[Pack], field: str) -> tuple[Tried, ...]:
    runs = [store.get(spec.key) for pack in packs for spec in pack.specs]
    return tuple(Tried(r.spec.hyperparameters[field], r.spec.seed, r.loss, r.message) for r in runs)


def _carried(
    name: str, field: str, rungs: Sequence[Rung], tried: Sequence[tuple[Tried, ...]], at_growth: float | None
) -> Carried:
    basins = [basin(field, at) for at in tried]
    draws = np.array([b.draws for b in basins])
    optima = np.array([math.log2(b.optimum.median) for b in basins])
    growths = [_growth(rung, rungs) for rung in rungs]
    at_growth = at_growth or 2 * growths[-1]
    doublings = np.log2(growths)
    slopes = doublings @ (draws - draws[0]) / (doublings @ doublings)
    slope = float(doublings @ (optima - optima[0]) / (doublings @ doublings))
    a, b, _ = basins[-1].parabola
    far = max(b, 0.0) / a * math.log2(at_growth) ** 2
    used = basins[0].optimum.median
    return Carried(
        name=name, field=field, rungs=tuple(rungs), growths=tuple(growths), basins=tuple(basins),
        drift=tuple(_interval(d - draws[0], o - optima[0]) for d, o in zip(draws, optima, strict=True)),
        gap=tuple(_gap(b, at, used) for b, at in zip(basins, tried, strict=True)),
        per_doubling=_interval(slopes, slope), at_growth=at_growth,
        penalty=_interval(far * slopes**2, far * slope**2), there=_losses_at(tried[-1], used),
    )  # fmt: skip


def _growth(rung: Rung, rungs: Sequence[Rung]) -> float:
    """Growth over the base of width times depth; of tokens where neither grows anywhere."""
    base = rungs[0]
    if all((r.width, r.depth) == (base.width, base.depth) for r in rungs):
        return rung.tokens / base.tokens
    return rung.width * rung.depth / (base.width * base.depth)


def _gap(found: Basin, tried: Sequence[Tried], used: float) -> Interval:
    """Loss at `used` over the loss at the optimum, by seed: both read between the values that were tried.

    The interval is Student's over the seeds; with one seed, or where a used value's neighbour diverged, it is open.
    """
    there, best = _losses_at(tried, used), _losses_at(tried, found.optimum.median)
    ratios = [there[seed] / best[seed] - 1 for seed in there if seed in best]
    if len(ratios) < len({t.seed for t in tried}):
        return Interval(math.inf, math.inf, math.inf, LEVEL)
    return mean_interval(ratios)


def _losses_at(tried: Sequence[Tried], value: float) -> dict[int, float]:
    """By seed, the loss at `value`, read off a curve through the tried ones (a parabola through the three nearest)."""
    found = {}
    for seed in sorted({t.seed for t in tried}):
        of_seed = sorted((t for t in tried if t.seed == seed), key=lambda t: abs(math.log2(t.value / value)))[:3]
        if len(of_seed) == 3 and all(t.loss is not None for t in of_seed):
            x = [math.log2(t.value / value) for t in of_seed]
            found[seed] = float(np.polyval(np.polyfit(x, [t.loss or 0.0 for t in of_seed], 2), 0.0))
    return found


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval of a mean, at LEVEL; one value has none."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf, LEVEL)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half, LEVEL)


def _interval(draws: Any, centre: float) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(centre), float(min(low, centre)), float(max(high, centre)), LEVEL)
