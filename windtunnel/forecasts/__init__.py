"""Forecasts, verdicts, advice and scores: what the fitted laws say about a run that has not been trained.

What reads loss curves is resolved when first used: it needs scipy.stats, whose import takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from windtunnel.forecasts.allocation import Allocation, allocate, flops_for
from windtunnel.forecasts.backtest import Backtest
from windtunnel.forecasts.fit import Fit, fit, fit_each
from windtunnel.forecasts.forecast import Forecast, Score, score
from windtunnel.forecasts.forecast import make_forecast as forecast
from windtunnel.forecasts.hyperparameters import BestHyperparameters, best_hyperparameters
from windtunnel.forecasts.identified import Unsettled, unidentified, unsettled
from windtunnel.forecasts.interval import Interval
from windtunnel.forecasts.next_runs import Advice, next_runs
from windtunnel.forecasts.odd import OddRung, odd_rungs
from windtunnel.forecasts.smaller import SmallerLadder, smaller_ladders, smallest_ladder
from windtunnel.forecasts.verdict import Verdict, compare, difference
from windtunnel.laws.observations import Observations
from windtunnel.runs import Run

if TYPE_CHECKING:
    from windtunnel.forecasts.curves import CurveFit, CurveForecast, fit_curves
    from windtunnel.forecasts.schedules import ScheduleChoice, choose_schedule, curve_of

__all__ = ["Advice", "Allocation", "Backtest", "BestHyperparameters", "CurveFit", "CurveForecast", "Fit", "Forecast"]
__all__ += ["Interval", "OddRung", "ScheduleChoice", "Score", "SmallerLadder", "Unsettled", "Verdict", "allocate"]
__all__ += ["backtest", "best_hyperparameters", "choose_schedule", "compare", "curve_of", "difference", "fit"]
__all__ += ["fit_curves", "fit_each", "flops_for", "forecast", "next_runs", "odd_rungs", "score", "smaller_ladders"]
__all__ += ["smallest_ladder", "unidentified", "unsettled"]

_LATE = {"CurveFit": "curves", "CurveForecast": "curves", "fit_curves": "curves", "ScheduleChoice": "schedules",
         "choose_schedule": "schedules", "curve_of": "schedules"}  # fmt: skip


def backtest(observations: Observations | Sequence[Run], **options: Any) -> Backtest:
    """Hide the upper rungs, forecast them from the lower ones, and compare: what `fit(...).backtest` holds."""
    return fit(observations, **options).backtest


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"windtunnel.forecasts has no {name!r}; its names are {', '.join(sorted(__all__))}.")
    return getattr(import_module(f"windtunnel.forecasts.{_LATE[name]}"), name)
