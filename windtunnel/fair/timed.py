"""What a comparison is made of: runs timed at every evaluation, goals, and how much tuning a method is given.

A newcomer would compare final losses. Here a run's result is what it had used (seconds, steps, tokens or FLOPs) when it
first reached the goal; a run that never did so has used an infinite amount, and says so. What the other runs of its
study used is the price of its tuning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from windtunnel.errors import InputError, meant
from windtunnel.notebook import printed
from windtunnel.runs import Run

UNITS = ("seconds", "steps", "tokens", "flops")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One run of a method on a workload, in a study of a few runs with different hyperparameters.

    `used` is what the run had used up to each evaluation, by unit; `measured` what was found there, by metric, NaN
    where it was not finite. Both have one value an evaluation, in order.
    """

    method: str
    workload: str
    study: str
    run: str
    used: Mapping[str, np.ndarray] = field(repr=False)
    measured: Mapping[str, np.ndarray] = field(repr=False)

    def total(self, unit: str) -> float:
        """What the run used until its last evaluation."""
        used = self._used(unit)
        return float(np.max(used)) if len(used) else 0.0

    def reached(self, goal: Goal, unit: str, longer: float = 1.0) -> float:
        """What the run had used when it first reached the goal; infinite where it did not within the goal's limit."""
        values, used = self._values(goal.metric), self._used(unit)
        with np.errstate(invalid="ignore"):
            there = values <= goal.value if goal.lower_is_better else values >= goal.value
        there &= used <= goal.limit(unit) * longer
        return float(used[np.argmax(there)]) if there.any() else math.inf

    def spent(self, goal: Goal, unit: str, longer: float = 1.0) -> float:
        """What the run costs a tuner: until it reached the goal, else to its end or to the goal's limit."""
        return min(self.reached(goal, unit, longer), self.total(unit), goal.limit(unit) * longer)

    def best(self, metric: str, lower_is_better: bool = True) -> float:
        """The best value measured; the worst there is where none was finite."""
        values = self._values(metric)
        values = values[np.isfinite(values)]
        if not len(values):
            return math.inf if lower_is_better else -math.inf
        return float(values.min() if lower_is_better else values.max())

    def _used(self, unit: str) -> np.ndarray:
        if unit not in self.used:
            raise InputError(
                f"{self} is not timed in {unit!r}; it is in {', '.join(self.used)}.{meant(unit, self.used)}"
            )
        return np.asarray(self.used[unit], float)

    def _values(self, metric: str) -> np.ndarray:
        if metric not in self.measured:
            raise InputError(
                f"{self} has no metric {metric!r}; it has {', '.join(self.measured)}.{meant(metric, self.measured)}"
            )
        return np.asarray(self.measured[metric], float)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"run {self.run} of {self.method} on {self.workload} (study {self.study})"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a run has to reach on a workload: a value of a metric, within `limits` (unit to amount; none: no limit)."""

    metric: str
    value: float
    lower_is_better: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or any(not amount > 0 for amount in self.limits.values()):
            raise InputError(
                f"Goal({self.metric}={self.value}, limits={dict(self.limits)}): the value must be a finite number and "
                f"limits positive amounts of {', '.join(UNITS)}. Leave a limit out where there is none."
            )

    def limit(self, unit: str) -> float:
        """The most that a run may use, infinite where nothing is said."""
        return self.limits.get(unit, math.inf)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How much tuning a method is given on each workload: `studies` of `runs` each, and how much `longer` a run may be.

    A study's result is that of its best run, a workload's the median over studies.
    """

    name: str
    studies: int
    runs: int
    longer: float = 1.0


# AlgoPerf: its documentation (version 0.0.21, read) says 5 studies of 5; the leaderboard's present logs have 3 studies.
EXTERNAL = Rules(name="external tuning", studies=3, runs=5)
# No search: what tunes itself does so on the clock, and gets half as much again of it (at first it was 3 times).
SELF_TUNING = Rules(name="self-tuning", studies=3, runs=1, longer=1.5)


def timed(runs: Sequence[Run], *, method: str, workload: str) -> list[Timed]:
    """Runs of a Store, timed by their judge's loss (metric "loss", nats per token): each a study of its own.

    Seconds are a run's share of its pack's time, by tokens: compare seconds of runs that were packed alike. Ask the
    judge for many evaluations (`Judge(evaluations=50)`): what is reached between two is dated to the later one.
    """
    return [_timed(run, method, workload) for run in runs]


def _timed(run: Run, method: str, workload: str) -> Timed:
    tokens = np.asarray(run.curve.get("judged_tokens", ()), float)
    losses = np.asarray(run.curve.get("judged_loss", ()), float)
    done = float(np.max(run.curve["tokens"])) if len(run.curve.get("tokens", ())) else 0.0
    share = tokens / done if done else tokens
    steps = np.searchsorted(run.curve["tokens"], tokens) + 1.0 if len(tokens) else tokens
    return Timed(
        method=method, workload=workload, study=run.key, run=run.key,
        used={"tokens": tokens, "steps": steps, "flops": run.cost.flops * share, "seconds": run.cost.seconds * share},
        measured={"loss": losses},
    )  # fmt: skip


def in_studies(runs: Sequence[Timed], each: int, seed: int = 0) -> list[Timed]:
    """Runs of one method on one workload, parted at random into studies of `each` runs.

    Raises InputError where they do not fill whole studies.
    """
    if each < 1 or len(runs) % each or not runs:
        raise InputError(f"{len(runs)} runs do not fill studies of {each}; give a multiple of {each}.")
    order = np.random.default_rng(seed).permutation(len(runs))
    return [replace(runs[which], study=str(place // each)) for place, which in enumerate(order)]


def goals_from(
    runs: Sequence[Timed], *, metric: str = "loss", lower_is_better: bool = True, longer: float = 4 / 3
) -> dict[str, Goal]:
    """A goal for each workload of a reference's runs: the median over runs of the best value, in `longer` their time.

    Give the reference's best hyperparameters repeated over seeds, as AlgoPerf does (20 times): the median of repeated
    runs is no lucky outlier, as the best run of a search is.
    """
    found = {}
    for workload in dict.fromkeys(run.workload for run in runs):
        here = [run for run in runs if run.workload == workload]
        value = float(np.median([run.best(metric, lower_is_better) for run in here]))
        units = [unit for unit in here[0].used if all(unit in run.used for run in here)]
        limits = {unit: longer * float(np.median([run.total(unit) for run in here])) for unit in units}
        found[workload] = Goal(metric=metric, value=value, lower_is_better=lower_is_better, limits=limits)
    return found
