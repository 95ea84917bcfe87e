"""What `windtunnel fit` works out: a fit of each series and idea, forecasts at its targets, verdicts on its ideas.

A series that cannot be fitted does not stop the others: it becomes a Refusal, which every output lists. Series do not
know of each other, so that they can be worked out by several processes with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np

from windtunnel.cli.progress import each_done
from windtunnel.cli.table.best import Place, best_at, place_of, regrets, surface_of
from windtunnel.cli.table.budget import Spending, spending
from windtunnel.cli.table.groups import Group, Refusal, groups_of
from windtunnel.cli.table.searches import questions
from windtunnel.cli.table.verdicts import Judged, all_verdicts, check_base
from windtunnel.errors import InputError
from windtunnel.forecasts import Fit, Forecast, Score, fit_each, score
from windtunnel.forecasts.caveats import looked_at_closely
from windtunnel.forecasts.hyperparameters import BestHyperparameters
from windtunnel.ladder import Target
from windtunnel.laws.observations import ALL_SIZES, Observations

MANY = 20  # beyond this many series or targets, one line a forecast; beyond this many series none is looked at closely
UNUSED = "The target's {} is not used: where rates were searched, what is foretold is a run tuned as well as these."
INSIDE = "The target lies within the sizes of the runs: this interpolates, and says nothing about larger models."


@dataclass(frozen=True)
class Answer:
    """One forecast of one group, with the best hyperparameters where they vary and the score where truth is known.

    `best_of` counts the runs of the search whose best is the truth.
    """

    group: Group
    forecast: Forecast
    score: Score | None
    best: BestHyperparameters | None = None
    best_of: int = 1


@dataclass(frozen=True)
class Wish:
    """How to answer: interval levels, FLOPs to plan with, and whether each series is looked at closely."""

    levels: Sequence[float]
    budget: float | None = None
    closely: bool = True


@dataclass(eq=False)
class Part:
    """What was found for one group."""

    fits: list[tuple[Group, Fit]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    spendings: list[Spending] = field(default_factory=list)


@dataclass(eq=False)
class Whole:
    """Everything one call of `windtunnel fit` found, filled as it goes.

    `refusals` were asked for and could not be answered; `declined` are comparisons of ideas that could not be made;
    `dropped` are runs left out of the table. All with their reasons. `regrets` are shares of the loss, one a search
    whose truth was given.
    """

    dropped: Sequence[str] = ()
    fits: list[tuple[Group, Fit]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    spendings: list[Spending] = field(default_factory=list)
    verdicts: list[Judged] = field(default_factory=list)
    declined: list[Refusal] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def reliable(self) -> bool:
        """Whether every forecast passed its own backtest and nothing asked for is missing."""
        return all(answer.forecast.reliable for answer in self.answers) and not self.refusals


def answer_all(
    runs: Observations,
    targets: Sequence[Target],
    asked: Observations | None,
    levels: Sequence[float],
    base: str | None = None,
    budget: float | None = None,
) -> Whole:
    """Fit every group, foretell its targets, compare ideas. Raises InputError where nothing could be answered."""
    started = time.monotonic()
    groups = list(groups_of(runs, targets, asked))
    check_base(groups, base)
    if budget is not None and len(groups) > MANY:
        raise InputError(f"--budget plans for at most {MANY} series; the table has {len(groups)}. Give it fewer.")
    whole = Whole(dropped=runs.dropped)
    wish = Wish(tuple(levels), budget, closely=len(groups) <= MANY)
    for part in each_done(partial(answered, wish=wish), groups, "fitting"):
        for each in fields(Part):
            getattr(whole, each.name).extend(getattr(part, each.name))
    if whole.refusals and not whole.answers and (not whole.fits or any(group.targets for group, _ in whole.fits)):
        more = f" ({len(whole.refusals) - 1} more could not be answered.)" if len(whole.refusals) > 1 else ""
        raise InputError(f"{whole.refusals[0]}{more}")
    whole.verdicts, whole.declined = all_verdicts(groups, levels[0], base)
    whole.seconds = time.monotonic() - started
    return whole


def answered(groups: Sequence[Group], wish: Wish) -> list[Part]:
    """Fit some groups together and foretell the targets of each."""
    fits = fit_each([group.runs for group in groups])
    return [_part(group, fitted, wish) for group, fitted in zip(groups, fits, strict=True)]


def _part(group: Group, fitted: Fit | InputError, wish: Wish) -> Part:
    """What one group's fit says; equal targets are foretold once."""
    part = Part()
    if isinstance(fitted, InputError):
        part.refusals.append(Refusal(group.name, str(fitted)))
        return part
    if wish.closely:
        fitted = replace(fitted, caveats=(*fitted.caveats, *looked_at_closely(fitted)))
    part.fits.append((group, fitted))
    surface = surface_of(group.runs) if group.targets else None
    best: dict[Place, BestHyperparameters | None] = {}
    made: dict[Target, Forecast | Refusal] = {}
    for question in questions(group, fitted):
        target = question.target
        if target not in made:
            made[target] = _foretold(group, fitted, target, wish.levels)
            part.refusals += [found] if isinstance(found := made[target], Refusal) else []
        if isinstance(forecast := made[target], Forecast):
            if question.unused:
                said = UNUSED.format(" and ".join(question.unused))
                forecast = forecast.but(caveats=(*forecast.caveats, said))
            place = place_of(target)
            if place not in best:
                best[place] = best_at(surface, forecast.target, wish.levels[0])
            scored = score(forecast, question.truth) if np.isfinite(question.truth) else None
            part.answers.append(Answer(group, forecast, scored, best[place], question.best_of))
    part.regrets += regrets(group.targets, best)
    if wish.budget is not None:
        targets = [target for target, found in made.items() if isinstance(found, Forecast)]
        part.spendings.append(spending(group, fitted, targets, wish.budget, wish.levels[0]))
    return part


def _foretold(group: Group, fitted: Fit, target: Target, levels: Sequence[float]) -> Forecast | Refusal:
    try:
        forecast = fitted.forecast(target, levels[0], levels=levels[1:])
        inside = _inside(fitted.observations, forecast.target)
        return forecast.but(caveats=(*forecast.caveats, INSIDE)) if inside else forecast
    except InputError as error:
        return Refusal(f"{group.name} at {target}" if group.name else "", str(error))


def _inside(runs: Observations, at: Mapping[str, float]) -> bool:
    """Whether the target lies within the runs in every size that both state."""
    columns = [(getattr(runs, name), at[name]) for name in ALL_SIZES if name in at]
    both = [(column, value) for column, value in columns if column is not None]
    return bool(both) and all(column.min() <= value <= column.max() for column, value in both)
