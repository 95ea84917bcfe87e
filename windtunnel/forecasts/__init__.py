"""Forecasts, verdicts, advice and scores: what the fitted laws say about a run that has not been trained.

`fit_curves` is resolved when first used: it needs scipy.stats, whose import takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Advice", "Allocation", "Backtest", "BestHyperparameters", "CurveFit", "CurveForecast", "Fit", "Forecast"]
__all__ += ["Interval", "OddRung", "Score", "SmallerLadder", "Unsettled", "Verdict", "allocate", "backtest"]
__all__ += ["best_hyperparameters", "compare", "difference", "fit", "fit_curves", "fit_each", "flops_for", "forecast"]
__all__ += ["next_runs", "odd_rungs", "score", "smaller_ladders", "smallest_ladder", "unidentified", "unsettled"]


def backtest(observations: Observations | Sequence[Run], **options: Any) -> Backtest:
    """Hide the upper rungs, forecast them from the lower ones, and compare: what `fit(...).backtest` holds."""
    return fit(observations, **options).backtest


def __getattr__(name: str) -> Any:
    if name not in ("CurveFit", "CurveForecast", "fit_curves"):
        raise AttributeError(f"windtunnel.forecasts has no {name!r}; its names are {', '.join(sorted(__all__))}.")
    from windtunnel.forecasts import curves

    return getattr(curves, name)
