"""Forecast loss curves: another schedule's whole curve, or what is left of a run that is still going.

Two laws of curves are weighted by replays (hide one schedule, or every curve's tail, and foretell it), and the same
replays set the interval's width. A newcomer would let the width shrink with the rows; rows of one curve err together,
so a replay counts as one observation however many rows it has, and few replays give a wide, heavy-tailed interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

from windtunnel.errors import InputError
from windtunnel.forecasts.interval import Interval
from windtunnel.laws.annealing import AnnealingArea
from windtunnel.laws.curve_fit import CurveLawFit, fit_curve_law
from windtunnel.laws.curves import Curve, check_curves, rows, schedule, unshared
from windtunnel.laws.multipower import MultiPower
from windtunnel.notebook import marked, printed

LAWS = (MultiPower(), AnnealingArea())
# Error (log loss) expected before any replay, worth PRIOR_WEIGHT replays: of another schedule, and per factor e of
# progress beyond the longest curve fitted. Replays of the MultiPowerLaw fit split are at 0.0015 (0.0007 to 0.0025) and
# 0.0015, of the OLMo ladder's horizons 0.5, 1 and 2 at 0.003 and 0.0035 (2026-11); rounded up, for data like neither.
PRIOR_SCHEDULE, PRIOR_REACH, PRIOR_WEIGHT = 0.004, 0.004, 2.0
DEGREES = 3.0  # of freedom before any replay
KEPT = 0.5  # share of the longest curve's progress that a tail replay keeps
# Guesses: a row leaps that is 3 %, and 12 median distances, off the median of 9 rows; curves of one model are within
# 3 % over 5 rows and more at which rates are within a twentieth of the peak (the MultiPowerLaw table: 0.24 %).
LEAP, LEAPS, AROUND = 0.03, 12.0, 9
ONE_MODEL, ALIKE, ENOUGH = 0.03, 0.05, 5
FEW = 3  # rows or curves that a caveat names
RECENT = 0.1  # share of a run's measured rows that say where it lies beside the law


@dataclass(frozen=True)
class Replay:
    """A hidden part foretold: root mean square error (log loss) by law, and how far beyond the rest it reached."""

    hidden: str
    errors: tuple[float, ...]
    reach: float


@dataclass(frozen=True, eq=False)
class CurveForecast:
    """Loss at `steps` as median and bounds (n,), each row's bounds meant to hold with probability `level`."""

    name: str
    steps: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    caveats: tuple[str, ...]

    @property
    def final(self) -> Interval:
        """Loss at the last step."""
        return Interval(float(self.median[-1]), float(self.low[-1]), float(self.high[-1]), self.level)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return "\n".join([*marked(self.caveats), f"loss of {self.name} at step {self.steps[-1]:g}: {self.final}"])


@dataclass(frozen=True, eq=False)
class CurveFit:
    """Laws fitted to one model's curves, their weights, and the replays that weights and widths rest on."""

    curves: tuple[Curve, ...]
    fits: tuple[CurveLawFit, ...]
    weights: np.ndarray
    replays: tuple[Replay, ...]

    def forecast(
        self,
        target: Curve | Callable[[float], float],
        steps: Any = None,
        *,
        after: float | None = None,
        level: float = 0.9,
    ) -> CurveForecast:
        """Loss under a schedule at each of its steps behind the warm-up.

        `target` is a Curve (its losses, if any, are not read) or a callable from a step to its learning rate, which
        needs `steps`: an array, or the number of steps. With `after`, the target's losses up to that step are read:
        the rest of this run is foretold, shifted by where its last rows lay beside the law (fit the run itself too:
        `fit_curves([*others, run.until(step)]).forecast(run, after=step)`). InputError if nothing is left to foretell.
        """
        curve = _as_curve(target, steps)
        at = curve.steps[curve.warm & (curve.steps > (-np.inf if after is None else after))]
        if not len(at) or not 0 < level < 1:
            raise InputError(f"Nothing to forecast in {curve.name} after step {after}, or level {level} not in (0, 1).")
        found = [fit.with_variance(curve, at) for fit in self.fits]
        logs, left = np.log([loss for loss, _ in found]), np.array([variance for _, variance in found])
        if after is not None:
            logs = logs + _offsets(self.fits, curve.until(after))[:, None]
        centre = self.weights @ logs
        spread = np.sqrt(self.weights @ ((logs - centre) ** 2 + left) + self._variance(curve, at))
        away = stats.t.ppf(0.5 + level / 2, DEGREES + len(self.replays)) * spread
        low, median, high = np.exp([centre - away, centre, centre + away])
        return CurveForecast(curve.name, at, median, low, high, level, self._caveats(curve))

    def best_of(self, schedules: Mapping[str, Curve], *, level: float = 0.9) -> tuple[str, dict[str, Interval]]:
        """The schedule with the lowest final loss, and each one's final loss; those it cannot be told from overlap."""
        if not schedules:
            raise InputError("best_of was given no schedules; give a mapping from a name to a Curve.")
        finals = {name: self.forecast(curve, level=level).final for name, curve in schedules.items()}
        return min(finals, key=lambda name: finals[name].median), finals

    def _variance(self, curve: Curve, at: np.ndarray) -> np.ndarray:
        """Variance of the log loss: another schedule, reach beyond the curves fitted, and the noise of early rows."""
        other = _pooled(PRIOR_SCHEDULE, [self.weights @ np.square(r.errors) for r in self.replays if r.reach == 0])
        tails = [self.weights @ np.square(r.errors) / r.reach**2 for r in self.replays if r.reach > 0]
        first = self.fits[0]
        progress = rows(curve, at, first.reference).progress
        beyond = np.log(np.maximum(progress / _longest(self.curves, first.reference), 1.0))
        early = np.mean([np.mean(np.square(fit.residuals)) for fit in self.fits])
        early = early * 10 * (first.start / np.maximum(progress, first.start)) ** 2  # runs agree better as they go on
        return other + _pooled(PRIOR_REACH, tails) * beyond**2 + early

    _repr_pretty_ = printed

    def __str__(self) -> str:
        pairs = sorted(zip(self.fits, self.weights, strict=True), key=lambda pair: -pair[1])
        laws = ", ".join(f"{fit.law.name} (weight {weight:.2f})" for fit, weight in pairs)
        return "\n".join([*marked(self.doubts), f"{len(self.curves)} curves: {laws}; {len(self.replays)} replays"])

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """What is odd about the curves themselves: rows that leap out, and curves that no one law holds."""
        leaps = [(each.name, step) for each in self.curves for step in _leaps(each)]
        said = []
        if leaps:
            named = ", ".join(f"{name} at step {step:g}" for name, step in leaps[:FEW])
            more = f" and {len(leaps) - FEW} more" if len(leaps) > FEW else ""
            said.append(f"rows leap out of their curve and widen all intervals: {named}{more}; write nan for them")
        pairs = ((a, b, _apart(a, b)) for a, b in combinations(self.curves, 2))
        apart = [f"{b.name} {100 * off:+.1f} % from {a.name}" for a, b, off in pairs if abs(off) > ONE_MODEL]
        if apart:
            named = ", ".join(apart[:FEW]) + (f" and {len(apart) - FEW} more" if len(apart) > FEW else "")
            said.append(f"curves lie apart at equal rates ({named}): are they of one model, data and batch size?")
        return tuple(said)

    def _caveats(self, curve: Curve) -> tuple[str, ...]:
        said = list(self.doubts)
        if not any(_falls(each) for each in self.curves) and _falls(curve):
            said.append(
                "no fitted curve's learning rate falls: the gain of annealing is a belief; add a run that decays"
            )
        if len(self.replays) < 3:
            said.append(
                f"{len(self.replays)} replays only: the width is mostly a belief; add a run of another schedule"
            )
        reference = self.fits[0].reference
        peaks = curve.peak / reference
        if not 0.9 < peaks < 1.1:
            said.append(
                f"the peak learning rate is {peaks:.2g}x the fitted one; laws of curves do not foretell that well"
            )
        far = rows(curve, curve.steps[-1:], reference).progress[0] / _longest(self.curves, reference)
        if far > 4:
            said.append(f"the schedule reaches {far:.1f}x the progress of the longest curve fitted")
        return tuple(said)


def _leaps(curve: Curve) -> np.ndarray:
    """Steps of the rows that leap out of the running median of their neighbours."""
    seen = curve.measured
    logs, steps = np.log(curve.losses[seen]), curve.steps[seen]
    if len(logs) < AROUND:
        return steps[:0]
    windows = sliding_window_view(np.pad(logs, AROUND // 2, mode="edge"), AROUND)
    away = np.abs(logs - np.median(windows, axis=1))
    away[: AROUND // 2] = away[len(away) - AROUND // 2 :] = 0.0  # ends have neighbours on one side
    return steps[away > max(LEAP, LEAPS * float(np.median(away)))]


def _apart(one: Curve, other: Curve) -> float:
    """How far another curve lies off one, as a share of the loss, while their learning rates are alike; 0 if never."""
    rates = np.interp(one.steps, other.steps, other.lr)
    alike = np.cumsum(np.abs(rates - one.lr) > ALIKE * one.peak) == 0
    known = alike & one.measured & (one.steps >= other.steps[other.measured].min(initial=np.inf))
    known &= one.steps <= other.steps[-1]
    if known.sum() < ENOUGH:
        return 0.0
    late = np.flatnonzero(known)[known.sum() // 2 :]
    logs = np.interp(one.steps[late], other.steps[other.measured], np.log(other.losses[other.measured]))
    return float(np.expm1(np.median(logs - np.log(one.losses[late]))))


def fit_curves(curves: Sequence[Curve] | Curve, *, laws: Sequence[Any] = LAWS) -> CurveFit:
    """Fit the laws of curves to one model's runs (same data and batch size), under one or several schedules.

    A law's weight is its belief times the likelihood of its replays with unknown scale, one observation a replay.
    """
    curves = (curves,) if isinstance(curves, Curve) else tuple(curves)
    check_curves(curves)
    fits = tuple(fit_curve_law(law, curves) for law in laws)
    replays = tuple(_replays(curves, laws))
    weights = np.array([law.belief for law in laws], float)
    if replays:
        mean_square = np.mean(np.square([replay.errors for replay in replays]), axis=0) + 1e-12
        weights = weights * (mean_square / mean_square.min()) ** (-len(replays) / 2)
    return CurveFit(curves, fits, weights / weights.sum(), replays)


def _replays(curves: Sequence[Curve], laws: Sequence[Any]) -> list[Replay]:
    """Hide each curve whose annealing the others still show, then every curve's tail."""
    done = []
    for index, hidden in enumerate(curves):
        rest = [*curves[:index], *curves[index + 1 :]]
        if rest and (any(_falls(each) for each in rest) or not _falls(hidden)):
            branch = unshared([*rest, hidden])[-1]  # a trunk the rest have shown is not foretold
            if branch.measured.any():
                done.append(Replay(hidden.name, _errors(laws, rest, [branch]), 0.0))
    reference = max(curve.peak for curve in curves)
    kept = [_cut(curve, KEPT * _longest(curves, reference), reference) for curve in curves]
    enough = [curve for curve in kept if curve.measured.sum() >= 20]
    hidden = [
        (whole, part) for whole, part in zip(curves, kept, strict=True) if whole.measured.sum() > part.measured.sum()
    ]
    if enough and hidden:
        tails = [Curve(w.steps, w.lr, np.where(np.isfinite(p.losses), np.nan, w.losses), w.name) for w, p in hidden]
        tails = [tail for tail in unshared(tails) if tail.measured.any()]
        reach = np.log(_longest(curves, reference) / _longest(enough, reference))
        if tails and reach > 0.1:
            done.append(Replay("tails", _errors(laws, enough, tails), float(reach)))
    return done


def _errors(laws: Sequence[Any], shown: Sequence[Curve], hidden: Sequence[Curve]) -> tuple[float, ...]:
    found = []
    for law in laws:
        fit = fit_curve_law(law, shown, starts=(1.0,))
        away = [np.log(fit(c, c.steps[c.measured]) / c.losses[c.measured]) for c in hidden]
        found.append(float(np.sqrt(np.mean([np.mean(one**2) for one in away]))))
    return tuple(found)


def _pooled(prior: float, squares: Sequence[Any]) -> float:
    return float((PRIOR_WEIGHT * prior**2 + sum(squares)) / (PRIOR_WEIGHT + len(squares)))


def _offsets(fits: Sequence[CurveLawFit], seen: Curve) -> np.ndarray:
    """Mean log loss of the run's last rows minus each law's."""
    if not seen.measured.any():
        raise InputError(f"{seen.name} has no measured loss behind its warm-up before the step given as `after`.")
    steps, loss = seen.steps[seen.measured], seen.losses[seen.measured]
    last = max(1, int(RECENT * len(steps)))
    return np.array([np.mean(np.log(loss[-last:] / fit(seen, steps[-last:]))) for fit in fits])


def _longest(curves: Sequence[Curve], reference: float) -> float:
    return max(float(rows(c, c.steps[c.measured][-1:], reference).progress[0]) for c in curves)


def _cut(curve: Curve, progress: float, reference: float) -> Curve:
    there = rows(curve, curve.steps, reference).progress
    return Curve(curve.steps, curve.lr, np.where(there <= progress, curve.losses, np.nan), curve.name)


def _falls(curve: Curve) -> bool:
    """Whether the rate falls by a tenth of its peak while losses are still measured."""
    seen = curve.warm & (curve.steps <= curve.steps[curve.measured][-1]) if curve.measured.any() else curve.warm
    return bool(curve.lr[seen].min() < 0.9 * curve.peak)


def _as_curve(target: Curve | Callable[[float], float], steps: Any) -> Curve:
    if isinstance(target, Curve):
        return target
    if not callable(target) or steps is None:
        raise InputError("A schedule is a Curve, or a callable from step to learning rate given together with `steps`.")
    return schedule(steps, target)
