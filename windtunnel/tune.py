"""Tune once at the base rung, then check one rung up that the optimum transfers.

A search is a pure function of the runs that exist: it returns the values still to be tried, or the basin. First a
coarse sweep over the declared range, then a fine one around its best over all seeds; a robust parabola in the logarithm
through the points near the best gives the optimum, and resampling gives its interval. A newcomer would trust a flat
coordinate check; only trying other values at a larger size shows that the optimum stayed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
from scipy import stats

from windtunnel.errors import InputError
from windtunnel.forecasts import Interval
from windtunnel.notebook import printed
from windtunnel.recipe import Tuned, is_rate

OF_ONE_SEED = 0.01  # share of the loss by which two runs of one seed may differ for nothing (guess)
WELL_AWAY = 0.5  # octaves from the optimum from which a rise that was seen is no noise (guess)
LEVEL = 0.9
DRAWS = 400
# A transfer is called good unless the evidence is against it: unless using the base rung's value surely (at LEVEL)
# costs more than this share of the loss (a published bar for a good transfer) where it is to be used, or the optimum
# surely moved by more than a factor of two (the grid of most published checks).
COST_BAR, MOVE_BAR = 0.003, 1.0
# A value that ends at more than this many times the best value's loss diverged or learned nothing, and tells nothing of
# where the bottom is (guess: losses near 0 reach it within an octave or two, those of language models hardly ever).
SAME_BASIN = 2.0
SHARE = 0.5  # a range that ends beyond it and below one is that of a share: a momentum, a part of the steps (guess)


@dataclass(frozen=True)
class Heard:
    """What a search hears of the values it asked for: their mean loss over seeds, None where a run diverged."""

    values: Mapping[str, float]
    loss: float | None


class Search(Protocol):
    """Chooses values of all tuned fields of a recipe at the base rung: a pure function of what it has heard.

    `ask` returns the values to train next, field to value, and nothing when it is done; `best` what is then used.
    """

    def ask(self, ranges: Mapping[str, Tuned], heard: Sequence[Heard]) -> Sequence[Mapping[str, float]]: ...
    def best(self, ranges: Mapping[str, Tuned], heard: Sequence[Heard]) -> Mapping[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How much is spent on tuning, for each recipe and tuned field.

    `points` values over the declared range with one seed, then `points` values around the best with `seeds` seeds.
    `recheck` values on either side, a factor `recheck_factor` apart, at rung `recheck_rung` (an index; None: the middle
    of the ladder) with `seeds` seeds; 0 skips the check, and the forecast says so. A `search` takes the place of both
    sweeps, with `seeds` seeds for every set of values that it asks for; `points` then counts nothing.
    """

    points: int = 5
    seeds: int = 2
    recheck: int = 1
    recheck_factor: float = 2.0
    recheck_rung: int | None = None
    search: Search | None = None

    def __post_init__(self) -> None:
        whole = [self.points, self.seeds, self.recheck, *([] if self.recheck_rung is None else [self.recheck_rung])]
        if not all(isinstance(n, Integral) for n in whole) or not isinstance(self.recheck_factor, Real):
            raise InputError(
                f"Tuning(points={self.points!r}, seeds={self.seeds!r}, recheck={self.recheck!r}, recheck_factor="
                f"{self.recheck_factor!r}, recheck_rung={self.recheck_rung!r}): give whole numbers, and a number as "
                f"recheck_factor."
            )
        lacks = [n for n in ("ask", "best") if not callable(getattr(self.search, n, None))]
        if self.search is not None and (lacks or isinstance(self.search, type)):
            raise InputError(
                f"Tuning search is {self.search!r}; give one with ask and best, as "
                f"windtunnel.searches.BayesTuning(runs=16), or leave it out for the sweeps."
            )
        if self.points < 3 or self.seeds < 1 or self.recheck < 0 or self.recheck_factor <= 1:
            raise InputError(
                f"Tuning(points={self.points}, seeds={self.seeds}, recheck={self.recheck}, recheck_factor="
                f"{self.recheck_factor}): a parabola needs at least 3 points, 1 seed, recheck >= 0 and a factor > 1."
            )


@dataclass(frozen=True)
class Scale:
    """On what a number is searched: its log2 or, for a share, which ends at one, the log2 of its odds."""

    odds: bool = False

    def of(self, value: float) -> float:
        """A value's place."""
        return math.log2(value / (1 - value)) if self.odds else math.log2(value)

    def back(self, x: float) -> float:
        """The value at a place."""
        return 1 / (1 + 2.0**-x) if self.odds else 2.0**x

    def rounded(self, value: float, digits: int = 4) -> float:
        """A value to so many digits, the same text on every machine; near one, of what is left to one."""
        if not self.odds or value <= 0.5:
            return float(f"{value:.{digits}g}")
        return float(f"{1 - float(f'{1 - value:.{digits}g}'):.12g}")

    def middle(self, range_: Tuned) -> float:
        """Of a range."""
        if not self.odds:
            return math.sqrt(range_.low * range_.high)
        return self.back((self.of(range_.low) + self.of(range_.high)) / 2)


LOG = Scale()


def scale_of(field: str, range_: Tuned) -> Scale:
    """Shares are taken to be the numbers, other than rates, that are searched below one and beyond a half."""
    return Scale(odds=SHARE < range_.high < 1 and not is_rate(field))


@dataclass(frozen=True)
class Tried:
    """One value that was tried; loss None when the run diverged or crashed."""

    value: float
    seed: int
    loss: float | None
    message: str = ""  # why it did not finish
    crashed: bool = False  # by an error in a part's code


@dataclass(frozen=True, kw_only=True)
class Basin:
    """Loss against one hyperparameter at one rung: what was tried, the parabola on its scale and the optimum."""

    field: str
    tried: tuple[Tried, ...]
    optimum: Interval
    parabola: tuple[float, float, float]  # loss = a + b (x - c)^2 with x on the scale, log2 of the value: a, b, c
    draws: tuple[float, ...] = dataclasses.field(repr=False)  # resampled optima on the scale
    at_edge: bool
    scale: Scale = LOG

    def curve(self, count: int = 41) -> list[tuple[float, float]]:
        """Points (value, loss) of the parabola over the values it was fitted to."""
        a, b, c = self.parabola
        near = [x for t in self.tried if abs((x := self.scale.of(t.value)) - c) <= 3]
        if not near or not math.isfinite(b):
            return []
        return [(self.scale.back(x), a + b * (x - c) ** 2) for x in np.linspace(min(near), max(near), count)]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How far an optimum moved between two rungs (log2, positive is up), and what the transferred value costs there.

    `carried` is its cost at `at_width`, the target's, if the optimum goes on moving as a power of width: a small drift
    between two small rungs grows with the square of the distance, and has cost a forecast here 3.5 % (first flight).
    """

    field: str
    from_width: int
    to_width: int
    moved: Interval
    cost: Interval  # loss at the transferred value over the loss at the rung's own optimum, minus one
    at_width: int
    carried: Interval
    odds: bool = False  # whether it moved in its odds, being a share
    axis: str = "width"  # what grows and is counted: depth where all widths are one

    @property
    def transfers(self) -> bool | None:
        """By the published bars, 0.3 % of loss as carried and a factor of two in the value: True if both intervals lie
        within, False if one lies beyond, None where these runs cannot tell."""
        if self.carried.low > COST_BAR or self.moved.low > MOVE_BAR or self.moved.high < -MOVE_BAR:
            return False
        within = self.carried.high <= COST_BAR and self.moved.low >= -MOVE_BAR and self.moved.high <= MOVE_BAR
        return True if within else None

    def to_json(self) -> dict[str, Any]:
        """Its numbers as plain data, and whether it transfers (null: these runs cannot tell)."""
        intervals = {name: getattr(self, name).to_json() for name in ("moved", "cost", "carried")}
        return dataclasses.asdict(self) | intervals | {"transfers": self.transfers}

    _repr_pretty_ = printed

    def __str__(self) -> str:
        steps = f"log2 steps{' of its odds' if self.odds else ''}"
        known = {True: "transfers", False: "does not transfer", None: "may or may not transfer"}[self.transfers]
        return (
            f"{self.field} {known} from {self.axis} {self.from_width} to {self.to_width}: its optimum moved by "
            f"{self.moved.median:+.2f} [{self.moved.low:+.2f}, {self.moved.high:+.2f}] {steps} and using the base "
            f"value costs {100 * self.cost.median:.2f} % of the loss [{100 * self.cost.low:.2f}, "
            f"{100 * self.cost.high:.2f}]; carried on to {self.axis} {self.at_width} that is "
            f"{100 * self.carried.median:.2f} % [{100 * self.carried.low:.2f}, {100 * self.carried.high:.2f}] "
            f"(at {self.moved.level:.0%})"
        )


def coarse_values(range_: Tuned, points: int, scale: Scale = LOG) -> list[float]:
    """`points` values evenly spaced on the scale over the declared range."""
    if not scale.odds:
        return [scale.rounded(v) for v in np.geomspace(range_.low, range_.high, points)]
    return [scale.rounded(scale.back(x)) for x in np.linspace(scale.of(range_.low), scale.of(range_.high), points)]


def fine_values(range_: Tuned, points: int, coarse: Sequence[Tried], scale: Scale = LOG) -> list[float]:
    """Values at half the coarse spacing around the best of a coarse sweep, within the range.

    Raises InputError if no coarse run finished.
    """
    best = _best(coarse, f"between {range_.low:g} and {range_.high:g}")
    grid = coarse_values(range_, 2 * points - 1, scale)  # every second value is the coarse sweep's own
    at = min(range(len(grid)), key=lambda i: abs(scale.of(grid[i]) - scale.of(best)))
    return grid[max(0, at - 2) : at + 3]


def recheck_values(optimum: float, tuning: Tuning, scale: Scale = LOG) -> list[float]:
    """The transferred value and `recheck` values on either side, by factors of the value or of its odds."""
    steps = range(-tuning.recheck, tuning.recheck + 1)
    if not scale.odds:
        return [scale.rounded(optimum * tuning.recheck_factor**k) for k in steps]
    return [scale.rounded(scale.back(scale.of(optimum) + k * math.log2(tuning.recheck_factor))) for k in steps]


def basin(field: str, tried: Sequence[Tried], *, reach: float = 2.2, seed: int = 0, scale: Scale = LOG) -> Basin:
    """Fit the parabola to the points within `reach` octaves of the best mean, and SAME_BASIN of it, and resample it.

    Runs are resampled seed by seed, so that what the values share is kept together; the residuals are resampled too.
    Raises InputError if fewer than 3 values finished.
    """
    return _basin(field, tuple(tried), reach, seed, scale)


@lru_cache(maxsize=256)  # a study asks for the same basin at every stage, and resampling takes most of a second
def _basin(field: str, tried: tuple[Tried, ...], reach: float, seed: int, scale: Scale) -> Basin:
    best = scale.of(_best(tried, "at this rung"))
    x, y, seeds = _near(tried, best, reach, scale)
    if len(set(x)) < 3:
        raise InputError(
            f"Only {len(set(x))} value(s) of {field} near the best finished; a basin needs 3. Widen the tuned "
            f"range, or lower it, so that fewer runs diverge."
        )
    fitted = _parabola(x, y, seeds)
    ends = [scale.of(end([t.value for t in tried])) for end in (min, max)]
    draws = _resampled(x, y, seeds, fitted, np.random.default_rng(seed))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    centre = min(max(fitted[2], min(x)), max(x))
    return Basin(
        field=field,
        tried=tried,
        optimum=Interval(scale.back(centre), scale.back(min(low, centre)), scale.back(max(high, centre)), LEVEL),
        parabola=fitted,
        draws=tuple(float(d) for d in draws),
        at_edge=bool(fitted[1] <= 0 or not min(x) < fitted[2] < max(x) or best in ends),
        scale=scale,
    )


def transfer(
    base: Basin, larger: Basin, *, from_width: int, to_width: int, at_width: int | None = None, axis: str = "width"
) -> Transfer:
    """Compare the basins of two rungs, and carry what is found to `at_width` (None: no further than `to_width`).

    Where `axis` is "depth" they differ in that, and depths stand in the place of widths.
    """
    at_width = at_width or to_width
    further = math.log(at_width / from_width) / math.log(to_width / from_width) if to_width != from_width else 1.0
    moved = np.array(larger.draws) - np.array(base.draws)
    used = base.scale.of(base.optimum.median)
    away, centre = np.array(larger.draws) - used, base.scale.of(larger.optimum.median) - used
    places, rise = _seen(larger, used)
    steep = _steep(larger, places, rise)
    cost, carried = squared(away, centre, steep), squared(away, centre, steep * further**2)
    if rise < OF_ONE_SEED and len({t.seed for t in larger.tried}) == 1:  # nothing tells it from noise
        cost, carried = replace(cost, low=0.0), replace(carried, low=0.0)
    return Transfer(
        field=base.field,
        from_width=from_width,
        to_width=to_width,
        moved=interval_of(moved, centre),
        cost=cost,
        at_width=at_width,
        carried=carried,
        odds=base.scale.odds,
        axis=axis,
    )


def _seen(basin: Basin, used: float) -> tuple[list[float], float]:
    """Where values were tried, and by what share of the lowest loss the one nearest to the value used lies above it."""
    means = {basin.scale.of(value): loss for value, loss in _means(basin.tried).items()}
    there = min(means, key=lambda x: abs(x - used))
    return [there, *(x for x in means if x != there)], means[there] / min(means.values()) - 1


def _steep(basin: Basin, places: Sequence[float], rise: float) -> float:
    """Loss over the lowest, minus one, an octave from the optimum: of the parabola, and where its bottom is not among
    the values tried no less than was seen between the value used and an optimum well away: a parabola through points
    that do not bend is flat, however they fall."""
    away = abs(places[0] - basin.scale.of(basin.optimum.median))
    _, bend, bottom = basin.parabola
    found = bend > 0 and min(places) < bottom < max(places)
    seen = rise / away**2 if away > WELL_AWAY and not found else 0.0
    return max(bend / _lowest(basin.tried), seen)  # the lowest seen: a parabola's bottom may lie below 0


def interval_of(draws: Any, centre: float) -> Interval:
    """The interval of draws at LEVEL round a centre, which it holds."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(centre), float(min(low, centre)), float(max(high, centre)), LEVEL)


def squared(draws: Any, centre: float, factor: float) -> Interval:
    """`factor` times the square of what was drawn; from 0 where the draws cannot tell it from 0.

    A newcomer would take the quantiles of the squares: the wider the doubt, the surer they are not 0.
    """
    signed, found = interval_of(draws, centre), interval_of(factor * np.square(draws), factor * centre**2)
    return replace(found, low=0.0) if signed.holds(0.0) else found


def _means(tried: Sequence[Tried]) -> dict[float, float]:
    """Value to its mean loss over seeds, of values that finished with every seed."""
    losses: dict[float, list[float]] = {}
    for t in tried:
        losses.setdefault(t.value, []).append(math.inf if t.loss is None else t.loss)
    return {value: float(np.mean(found)) for value, found in losses.items() if math.isfinite(np.mean(found))}


def _lowest(tried: Sequence[Tried]) -> float:
    return min(_means(tried).values())


def _best(tried: Sequence[Tried], where: str) -> float:
    finite = _means(tried)
    if not finite:
        why = next((t.message for t in tried if t.message), "no reason was recorded")
        if all(t.crashed for t in tried):
            raise InputError(
                f"All {len(tried)} runs {where} crashed, whatever the value; mend the part or the data that raised "
                f"this: {why}."
            )
        raise InputError(
            f"All {len(tried)} runs {where} diverged or crashed; lower the tuned range's upper end, or mend the part. "
            f"The first said: {why}."
        )
    return min(finite, key=lambda value: finite[value])


def _near(tried: Sequence[Tried], best: float, reach: float, scale: Scale) -> tuple[Any, Any, Any]:
    most, mean = SAME_BASIN * _lowest(tried), _means([t for t in tried if t.loss is not None])
    near = [t for t in tried if t.loss is not None and abs(scale.of(t.value) - best) <= reach]
    near = [t for t in near if mean[t.value] <= most]
    if len({t.value for t in near}) < 3:  # a coarse sweep in wide steps: the three values nearest the best
        closest = sorted({t.value for t in tried if t.loss is not None}, key=lambda v: abs(scale.of(v) - best))[:3]
        near = [t for t in tried if t.loss is not None and t.value in closest]
    return (
        np.array([scale.of(t.value) for t in near]),
        np.array([float(t.loss or 0.0) for t in near]),
        np.array([t.seed for t in near]),
    )


def _parabola(x: Any, y: Any, seeds: Any) -> tuple[float, float, float]:
    """Huber fit of y = a + b (x - c)^2 with one level a seed; returns a (mean over seeds), b, c."""
    centre = float(x.mean())
    levels = (seeds[:, None] == np.unique(seeds)[None, :]).astype(float)
    design = np.hstack([levels, (x - centre)[:, None], ((x - centre) ** 2)[:, None]])
    weights = np.ones(len(y))
    solution = np.zeros(design.shape[1])
    for _ in range(20):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        residual = np.abs(y - design @ solution)
        scale = max(1.5 * float(np.median(residual)), 1e-9)
        weights = np.minimum(1.0, scale / np.maximum(residual, 1e-12))
    slope, bend = float(solution[-2]), float(solution[-1])
    if bend <= 1e-9:  # no bottom among the points: it lies at or beyond the lower end
        end = float(x.max() if slope < 0 else x.min())
        return float(y[x == end].mean()), 0.0, end
    c = -slope / (2 * bend)
    return float(solution[:-2].mean()) - bend * c * c, bend, centre + c


def _resampled(x: Any, y: Any, seeds: Any, fitted: tuple[float, float, float], generator: Any) -> Any:
    _, b, c = fitted
    found, distinct = [], np.unique(seeds)
    bent = b * (x - c) ** 2 if b else _straight(x, y, seeds)
    level = {s: float((y - bent)[seeds == s].mean()) for s in distinct}
    expected = bent + np.array([level[s] for s in seeds])
    # with p parameters fitted to n points the residuals are too small by sqrt((n - p) / n)
    freedom = len(x) - len(distinct) - 2
    if freedom < 1:  # as many points as parameters: nothing tells the noise, so as far as the tried values lie apart
        apart = float(np.diff(np.unique(x)).max())
        middle = _within(c, x)  # a parabola that hardly bends has its bottom anywhere
        return generator.uniform(middle - apart, middle + apart, DRAWS)
    residual = (y - expected) * math.sqrt(len(x) / freedom)
    # the residuals' own scale is uncertain: stretch from a normal's to a Student-t's tail at LEVEL
    stretch = float(stats.t.ppf(0.5 + LEVEL / 2, freedom) / stats.norm.ppf(0.5 + LEVEL / 2))
    for _ in range(DRAWS):
        again = expected + generator.choice(residual, len(x)) * generator.choice([-1.0, 1.0], len(x))
        centre = c + stretch * (_parabola(x, again, seeds)[2] - c)
        found.append(_within(centre, x))
    return np.array(found)


def _straight(x: Any, y: Any, seeds: Any) -> Any:
    """The line through points without a bottom, with one level a seed: their slope is no noise."""
    away, left = x.astype(float), y.astype(float)
    for s in np.unique(seeds):
        away[seeds == s] -= away[seeds == s].mean()
        left[seeds == s] -= left[seeds == s].mean()
    return x * float(away @ left) / max(float(away @ away), 1e-12)


def _within(centre: float, x: Any) -> float:
    """An optimum no further than an octave beyond the values that were tried: nothing is known there."""
    return min(max(centre, float(x.min()) - 1.0), float(x.max()) + 1.0)
