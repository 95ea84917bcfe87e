"""Methods side by side: time to the goal on every workload, profile scores, and how sure their order is.

The order's doubt comes from the studies: each method's studies of a workload are drawn again, with repetition, and all
is computed anew. A newcomer would bootstrap runs; the best of more runs is better, so that the count must stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from windtunnel.errors import InputError, meant
from windtunnel.fair.profiles import MOST, ratios, scores, steps
from windtunnel.fair.timed import EXTERNAL, UNITS, Goal, Rules, Timed
from windtunnel.forecasts.interval import Interval
from windtunnel.notebook import printed

SMALL = 3  # studies below which a bootstrap over them says next to nothing


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods ranked under one set of rules, best first; `times`, `tuning` and `reached` are (methods, workloads).

    `times` is the median over studies of the result's amount of `unit`, infinite where that never came; `tuning` the
    mean amount that all runs of a study took together, result included; `reached` the share of runs that reached the
    goal. `score` is the integral of a method's profile (0 to 1) with its interval over studies, `first` how often it
    was first there, and `stable` the share of draws in which the whole order came out as stated.
    """

    methods: tuple[str, ...]
    workloads: tuple[str, ...]
    unit: str
    rules: Rules
    tuning_charged: bool
    times: np.ndarray
    tuning: np.ndarray
    reached: np.ndarray
    score: Mapping[str, Interval]
    first: Mapping[str, float]
    stable: float
    caveats: tuple[str, ...]
    goals: Mapping[str, Goal] = field(repr=False)
    most: float = MOST

    def profile(self, method: str) -> list[tuple[float, float]]:
        """Corners (factor of the fastest, share of workloads) of a method's profile."""
        if method not in self.methods:
            raise InputError(f"No method {method!r} is compared.{meant(method, self.methods)}")
        return steps(ratios(self.times)[self.methods.index(method)], self.most)

    def spent(self, method: str) -> float:
        """What one study of a method took on all workloads together, its tuning included, in `unit`."""
        return float(self.tuning[self.methods.index(method)].sum())

    def lines(self) -> list[str]:
        """Caveats, then a line for each method."""
        from windtunnel.fair.words import comparison_lines

        return comparison_lines(self)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Plain data, what the figure is drawn from; an amount that is infinite is None."""
        return {
            "methods": list(self.methods),
            "workloads": list(self.workloads),
            "unit": self.unit,
            "rules": self.rules.name,
            "studies": self.rules.studies,
            "runs_each": self.rules.runs,
            "tuning_charged": self.tuning_charged,
            "most": self.most,
            "times": _plain(self.times),
            "tuning": _plain(self.tuning),
            "reached": _plain(self.reached),
            "score": {name: found.to_json() for name, found in self.score.items()},
            "first": dict(self.first),
            "stable": self.stable,
            "profiles": {name: self.profile(name) for name in self.methods},
            "caveats": list(self.caveats),
        }

    def figure(self) -> str:
        """The profiles as an HTML page of their own, with the table and all caveats."""
        from windtunnel.report.profile_page import render

        return render(self.to_json())


def compare_fairly(
    runs: Sequence[Timed],
    goals: Mapping[str, Goal],
    *,
    unit: str = "seconds",
    rules: Rules = EXTERNAL,
    charge_tuning: bool = False,
    most: float = MOST,
    level: float = 0.9,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare methods by time to result on the workloads of `goals`; runs of others are left out, which a note
    says.

    A study's time is its best run's, its cost what all its runs took; with `charge_tuning` a study's time is its whole
    cost. A method without a single run on a workload never reached its goal there. Raises InputError where no run is
    left, or where a study has more runs, or a workload more studies, than the rules allow: that would be an advantage.
    """
    _check(unit, level, draws, most)
    kept = [run for run in runs if run.workload in goals]
    if not kept:
        raise InputError(
            f"None of {len(runs)} runs is on a workload with a goal ({', '.join(goals) or 'none given'}); runs are on "
            f"{', '.join(sorted({run.workload for run in runs})) or 'nothing'}."
        )
    methods, workloads = list(dict.fromkeys(run.method for run in kept)), list(goals)
    grid = [[_studies(kept, m, w, goals[w], unit, rules) for w in workloads] for m in methods]
    results = [[[cost if charge_tuning and best < np.inf else best for best, cost, _ in cell] for cell in row]
               for row in grid]  # fmt: skip
    times = np.array([[_median(cell) for cell in row] for row in results])
    drawn = _drawn(results, draws, np.random.default_rng(seed))
    values = scores(times, most)
    order = sorted(range(len(methods)), key=lambda i: -values[i])
    again = scores(drawn, most)[:, order]
    return Comparison(
        methods=tuple(methods[i] for i in order),
        workloads=tuple(workloads),
        unit=unit,
        rules=rules,
        tuning_charged=charge_tuning,
        times=times[order],
        tuning=np.array([[_mean([cost for _, cost, _ in cell]) for cell in grid[i]] for i in order]),
        reached=np.array([[_mean([share for _, _, share in cell]) for cell in grid[i]] for i in order]),
        score={methods[i]: _interval(values[i], again[:, k], level) for k, i in enumerate(order)},
        first={methods[i]: share for i, share in zip(order, _first(again), strict=True)},
        stable=_stable(values[order], again),
        caveats=(
            *_caveats(grid, methods, workloads, times, values[order], rules),
            *_tuned_less(kept, methods, rules),
            *_without_goal(runs, goals),
        ),
        goals=dict(goals),
        most=most,
    )


def _check(unit: str, level: float, draws: int, most: float) -> None:
    if unit not in UNITS:
        raise InputError(f"unit is {unit!r}; time is measured in {', '.join(UNITS)}.{meant(unit, UNITS)}")
    if not 0 < level < 1 or draws < 1 or not most > 1:
        raise InputError(f"level {level}, draws {draws}, most {most}: needed are 0 < level < 1, draws >= 1, most > 1.")


def _studies(
    runs: Sequence[Timed], method: str, workload: str, goal: Goal, unit: str, rules: Rules
) -> list[tuple[float, float, float]]:
    """Of each study: the best run's time, what all runs took, and the share of runs that reached the goal."""
    by_study: dict[str, list[Timed]] = {}
    for run in runs:
        if (run.method, run.workload) == (method, workload):
            by_study.setdefault(run.study, []).append(run)
    most = max((len(study) for study in by_study.values()), default=0)
    if most > rules.runs or len(by_study) > rules.studies:
        raise InputError(
            f"{method} has {len(by_study)} studies of up to {most} runs on {workload}; the rules ({rules.name}) allow "
            f"{rules.studies} of {rules.runs}. Leave runs out by chance, not by result, or give other Rules to all."
        )
    found = []
    for study in by_study.values():
        times = [run.reached(goal, unit, rules.longer) for run in study]
        cost = sum(run.spent(goal, unit, rules.longer) for run in study)
        found.append((min(times), cost, float(np.isfinite(times).mean())))
    return found


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else float("inf")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _drawn(results: Sequence[Sequence[Sequence[float]]], draws: int, generator: np.random.Generator) -> np.ndarray:
    """Times (draws, methods, workloads) with every cell's studies drawn again."""
    found = np.full((draws, len(results), len(results[0])), np.inf)
    for i, row in enumerate(results):
        for j, cell in enumerate(row):
            if cell:
                chosen = np.array(cell)[generator.integers(len(cell), size=(draws, len(cell)))]
                found[:, i, j] = np.median(chosen, axis=1)
    return found


def _interval(value: float, draws: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(min(low, value)), float(max(high, value)), level)


def _first(again: np.ndarray) -> list[float]:
    """How often each method had the highest score; a shared first place counts in parts."""
    top = again == again.max(axis=1, keepdims=True)
    return [float(share) for share in (top / top.sum(axis=1, keepdims=True)).mean(axis=0)]


def _stable(values: np.ndarray, again: np.ndarray) -> float:
    """Share of draws in which every method that is stated as better than the next one is so again."""
    kept = np.ones(len(again), bool)
    for i, (better, worse) in enumerate(pairwise(values)):
        kept &= (again[:, i] > again[:, i + 1]) | (better <= worse)
    return float(kept.mean())


def _caveats(
    grid: Sequence[Any], methods: Sequence[str], workloads: Sequence[str], times: np.ndarray, values: np.ndarray,
    rules: Rules,
) -> list[str]:  # fmt: skip
    found = []
    fewest = min(len(cell) for row in grid for cell in row)
    if fewest < SMALL:
        found.append(f"Some method has only {fewest} studies on a workload: intervals and stability say little.")
    for name, row in zip(methods, grid, strict=True):
        short = [w for w, cell in zip(workloads, row, strict=True) if 0 < len(cell) < rules.studies]
        found += [f"{name} has fewer than {rules.studies} studies on {', '.join(short)}."] if short else []
        none = [w for w, cell in zip(workloads, row, strict=True) if not cell]
        found += [f"{name} has no run on {', '.join(none)}: counted as never reaching the goal."] if none else []
    never = [w for w, column in zip(workloads, times.T, strict=True) if not np.isfinite(column).any()]
    if never:
        found.append(f"No method reached the goal of {', '.join(never)}: it tells them apart by nothing.")
    found += ["Some methods have equal scores; their order is that of the runs given."] if _tied(values) else []
    return found


def _tuned_less(kept: Sequence[Timed], methods: Sequence[str], rules: Rules) -> list[str]:
    """The best of fewer runs is worse: what a method lacks in tuning is held against it."""
    runs = Counter((run.method, run.workload, run.study) for run in kept)
    fewest = {name: min(count for (method, *_), count in runs.items() if method == name) for name in methods}
    return [
        f"{name} has studies of {count} run(s), the rules {rules.runs}: it was tuned less than they allow."
        for name, count in fewest.items()
        if count < rules.runs
    ]


def _without_goal(runs: Sequence[Timed], goals: Mapping[str, Goal]) -> list[str]:
    left = sorted({run.workload for run in runs if run.workload not in goals})
    return [f"Left out, for there is no goal: {', '.join(left)}."] if left else []


def _tied(values: np.ndarray) -> bool:
    return any(a == b for a, b in pairwise(values))


def _plain(table: np.ndarray) -> list[list[float | None]]:
    return [[float(value) if np.isfinite(value) else None for value in row] for row in table]
