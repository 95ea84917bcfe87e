"""Laws fitted to a recipe's ladder, and what they say of the study's target; kept, for records never change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError
from windtunnel.forecasts import Fit, Forecast, fit
from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.ladder import Rung
from windtunnel.runs import Run

if TYPE_CHECKING:
    from windtunnel.study.stages import Stages, TuningState


def fitted(stages: Stages, name: str, state: TuningState, rungs: Sequence[Rung], draws: int = 200) -> Fit | None:
    """The laws fitted to a recipe's finished runs at some rungs, None while fewer than three of them have one.

    Also None where no law can describe them, as a loss that rises with size: `stages.unfitted` says why, and the other
    recipes of the study go on. Of a part of the ladder that a study's half-width has bought, intervals are wider: they
    decide whether the rest is trained.
    """
    asked = stages.ladder(name, state.values, rungs)
    recorded = stages.runs(asked)
    runs = [run for run in recorded if run.finished]
    if len({run.spec.rung for run in runs}) < 3:
        if len(recorded) == len(asked) and (lost := lost_in(recorded)):
            stages.unfitted[name] = f"{lost} A law needs three rungs with a finished run."
        return None
    part = is_part(stages, rungs)
    key = (tuple(run.key for run in runs), draws, part)
    if key not in stages.fits:
        try:
            found = fit(runs, draws=draws)
            stages.fits[key] = replace(found, stretch=found.stretch * ENDS_LADDER) if part else found
        except InputError as error:
            stages.fits[key] = str(error)
    found, why = stages.fits[key], stages.unfitted
    if isinstance(found, str):
        why[name] = found
        return None
    why.pop(name, None)
    return found


def is_part(stages: Stages, rungs: Sequence[Rung]) -> bool:
    """Whether these are all rungs that a study with a half-width uses, but not all that it has."""
    return stages.study.half_width is not None and len(rungs) < len(stages.study.ladder.rungs)


def foretold(stages: Stages, name: str, found: Fit, **labels: Any) -> Forecast:
    """What a fit of a recipe's runs says of the study's target."""
    study, rung = stages.study, stages.study.target.rung
    size = None if rung is None else study.size(stages.recipes[name].fill(stages.tuning(name).values), rung)
    return found.forecast(study.target, study.level, size=size, study=study.name, idea=name, **labels)


def lost_in(runs: Sequence[Run]) -> str:
    """How many of some runs did not finish, with the first one's reason; empty where all did."""
    lost = [run for run in runs if not run.finished]
    if not lost:
        return ""
    first = lost[0]
    return (
        f"{len(lost)} of {len(runs)} run(s) did not finish; at {first.spec.rung} one {first.outcome}: {first.message}."
    )
