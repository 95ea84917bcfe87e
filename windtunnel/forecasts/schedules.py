"""Which schedule for a budget: the laws of loss curves asked for every candidate's final loss.

Fit the laws to short runs under two schedules or more, then ask for longer ones. A newcomer would rank the medians and
stop; schedules often end closer to each other than the interval is wide, and then `undecided` names those that the runs
cannot tell from the best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.curves import CurveFit, CurveForecast, fit_curves
from windtunnel.forecasts.interval import Interval
from windtunnel.laws.curves import SAMPLES, Curve
from windtunnel.notebook import printed
from windtunnel.runs import Run

WINDOWS = 40  # of training losses a curve; the laws need 20 rows behind the warm-up, and more are noisier (guess)
Schedule = Callable[[float, float], float]  # tokens, horizon -> multiplier of the peak


@dataclass(frozen=True)
class ScheduleChoice:
    """`best` by median final loss at the budget, every candidate's `finals` from best to worst, those `undecided`
    because their intervals reach below the best's median, and what must be said first."""

    best: str
    finals: Mapping[str, Interval]
    undecided: tuple[str, ...]
    caveats: tuple[str, ...]

    _repr_pretty_ = printed

    def __str__(self) -> str:
        lines = [f"{name}: {interval}" for name, interval in self.finals.items()]
        left = f"cannot be told from {self.best}: {', '.join(self.undecided)}" if self.undecided else ""
        return "\n".join([*lines, *filter(None, [left]), *self.caveats])


def choose_schedule(
    evidence: CurveFit | Sequence[Curve],
    schedules: Mapping[str, Schedule],
    *,
    budget: float,
    tokens_per_step: float,
    peak: float,
    level: float = 0.9,
) -> ScheduleChoice:
    """The schedule with the lowest final loss foretold for `budget` tokens, among `schedules` by name.

    `evidence`: curves of one model, batch and data (`curve_of` makes them of runs), or laws already fitted to them.
    `peak` is the learning rate that the multipliers multiply; laws of curves hold near the peak they were fitted at.
    Raises InputError for no candidates, a budget below one step, or a schedule that is no callable.
    """
    candidates = list(schedules.values()) if isinstance(schedules, Mapping) else []
    if not candidates or not all(map(callable, candidates)):
        raise InputError("choose_schedule needs candidates: a mapping from a name to a schedule (tokens, horizon).")
    if not (tokens_per_step > 0 and budget >= tokens_per_step):
        raise InputError(f"A budget of {budget} tokens is below one step of {tokens_per_step}; both are in tokens.")
    fit = evidence if isinstance(evidence, CurveFit) else fit_curves(evidence)
    asked = [
        schedule_curve(schedule, budget, tokens_per_step=tokens_per_step, peak=peak, name=name)
        for name, schedule in schedules.items()
    ]
    foretold = {curve.name: fit.forecast(curve, level=level) for curve in asked}
    finals = {name: foretold[name].final for name in sorted(foretold, key=lambda n: foretold[n].final.median)}
    best = next(iter(finals))
    undecided = tuple(n for n, final in finals.items() if n != best and final.low <= finals[best].median)
    return ScheduleChoice(best, finals, undecided, _said(foretold))


def schedule_curve(
    schedule: Schedule,
    horizon: float,
    *,
    tokens_per_step: float,
    peak: float,
    at: Sequence[float] | np.ndarray = (),
    name: str = "schedule",
) -> Curve:
    """A schedule as the laws of curves read it, in steps, with its rates; `at` are steps that its rows must hold."""
    last = horizon / tokens_per_step
    steps = np.unique(np.concatenate([np.round(np.linspace(1, last, min(SAMPLES, int(last)))), np.asarray(at, float)]))
    # a step's rate is read in its middle, as the engine does
    return Curve(steps, np.array([peak * schedule((s - 0.5) * tokens_per_step, horizon) for s in steps]), None, name)


def curve_of(
    runs: Run | Sequence[Run], schedule: Schedule, *, peak: float, name: str = "curve", training: bool = False
) -> Curve:
    """Judged losses of a run, or the mean over runs that differ in their seed alone, beside their schedule's rates.

    The laws need 20 losses behind the warm-up. Runs judged less often are read by their training losses with
    `training`: means over WINDOWS windows, brought to the judge's level by their mean distance at the judged steps;
    that is sound for runs of one pass. Raises InputError where the runs were not judged at the same tokens.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if not several or any(not run.finished for run in several):
        raise InputError(f"curve_of was given {len(several)} runs, of which all must have finished.")
    tokens = np.asarray(several[0].curve["judged_tokens"], float)
    if any(not np.array_equal(tokens, run.curve["judged_tokens"]) for run in several):
        raise InputError("The runs were judged at different tokens, so their losses have no mean: pass one at a time.")
    a_step = float(several[0].curve["tokens"][0])
    at, losses = np.ceil(tokens / a_step), np.mean([run.curve["judged_loss"] for run in several], axis=0)
    if training:
        at, losses = _windows(np.mean([run.curve["train_loss"] for run in several], axis=0), at, losses)
    horizon = float(several[0].spec.rung.tokens)
    whole = schedule_curve(schedule, horizon, tokens_per_step=a_step, peak=peak, at=at, name=name)
    loss = np.full(len(whole.steps), np.nan)
    loss[np.searchsorted(whole.steps, at)] = losses
    return Curve(whole.steps, whole.lr, loss, name)


def _windows(losses: np.ndarray, judged_at: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle step and mean of each window of the training losses, at the judge's level.

    A judgement is compared with the windows about it, the last one, behind which there is none, left out.
    """
    parts = np.array_split(np.arange(1, len(losses) + 1), min(WINDOWS, len(losses)))
    middle, mean = (np.array([f(part) for part in parts]) for f in (np.mean, lambda p: np.mean(losses[p - 1])))
    away = np.log(judged) - np.interp(judged_at, middle, np.log(mean))
    level = np.mean(away[:-1]) if len(away) > 1 else away[0]
    return np.round(middle), mean * np.exp(level)


def _said(foretold: Mapping[str, CurveForecast]) -> tuple[str, ...]:
    """Every caveat once, with the candidates it is about where it is not about all."""
    about: dict[str, list[str]] = {}
    for name, one in foretold.items():
        for caveat in one.caveats:
            about.setdefault(caveat, []).append(name)
    return tuple(c if len(names) == len(foretold) else f"{', '.join(names)}: {c}" for c, names in about.items())
