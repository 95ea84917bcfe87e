"""What `windtunnel fit` works out: a fit of each series and idea, forecasts at its targets, verdicts on its ideas.

A series that cannot be fitted does not stop the others: it becomes a Refusal, which every output lists.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from windtunnel.cli.progress import each
from windtunnel.cli.table.best import Place, best_at, place_of, regrets, surface_of
from windtunnel.cli.table.groups import Group, Refusal, groups_of
from windtunnel.cli.table.verdicts import Judged, all_verdicts, check_base
from windtunnel.errors import InputError
from windtunnel.forecasts import Fit, Forecast, Score, fit, score
from windtunnel.forecasts.hyperparameters import BestHyperparameters
from windtunnel.ladder import Target
from windtunnel.laws.observations import Observations
from windtunnel.laws.reading.units import check_target


@dataclass(frozen=True)
class Answer:
    """One forecast of one group, with the best hyperparameters where they vary and the score where truth is known."""

    group: Group
    forecast: Forecast
    score: Score | None
    best: BestHyperparameters | None = None


@dataclass(eq=False)
class Whole:
    """Everything one call of `windtunnel fit` found, filled as it goes.

    `refusals` were asked for and could not be answered; `declined` are comparisons of ideas that could not be made;
    `dropped` are runs left out of the table. All with their reasons. `regrets` are shares of the loss, one a search
    whose truth was given.
    """

    dropped: Sequence[str]
    fits: list[tuple[Group, Fit]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    verdicts: list[Judged] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
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
) -> Whole:
    """Fit every group, foretell its targets, compare ideas. Raises InputError where nothing could be answered."""
    started = time.monotonic()
    groups = list(groups_of(runs, targets, asked))
    check_base(groups, base)
    whole = Whole(runs.dropped)
    for group in each(groups, "fitting"):
        _answer(whole, group, levels)
    if whole.refusals and not whole.answers and (not whole.fits or any(group.targets for group, _ in whole.fits)):
        more = f" ({len(whole.refusals) - 1} more could not be answered.)" if len(whole.refusals) > 1 else ""
        raise InputError(f"{whole.refusals[0]}{more}")
    whole.verdicts, whole.declined = all_verdicts(groups, levels[0], base)
    whole.seconds = time.monotonic() - started
    return whole


def _answer(whole: Whole, group: Group, levels: Sequence[float]) -> None:
    """Fit one group and foretell its targets; equal targets are foretold once."""
    try:
        fitted = fit(group.runs)
    except InputError as error:
        whole.refusals.append(Refusal(group.name, str(error)))
        return
    whole.fits.append((group, fitted))
    surface = surface_of(group.runs) if group.targets else None
    best: dict[Place, BestHyperparameters | None] = {}
    made: dict[Target, Forecast | Refusal] = {}
    for target, truth in group.targets:
        if target not in made:
            made[target] = _foretold(group, fitted, target, levels)
            whole.refusals += [found] if isinstance(found := made[target], Refusal) else []
        if isinstance(forecast := made[target], Forecast):
            place = place_of(target)
            if place not in best:
                best[place] = best_at(surface, forecast.target, levels[0])
            scored = score(forecast, truth) if np.isfinite(truth) else None
            whole.answers.append(Answer(group, forecast, scored, best[place]))
    whole.regrets += regrets(group.targets, best)


def _foretold(group: Group, fitted: Fit, target: Target, levels: Sequence[float]) -> Forecast | Refusal:
    try:
        check_target(fitted.observations, target)
        return fitted.forecast(target, levels[0], levels=levels[1:])
    except InputError as error:
        return Refusal(f"{group.name} at {target}" if group.name else "", str(error))
