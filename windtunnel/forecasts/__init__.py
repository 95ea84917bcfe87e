"""Forecasts, verdicts and scores: what the fitted laws say about a run that has not been trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windtunnel.forecasts.backtest import Backtest
from windtunnel.forecasts.fit import Fit, fit
from windtunnel.forecasts.forecast import Forecast, Score, score
from windtunnel.forecasts.forecast import make_forecast as forecast
from windtunnel.forecasts.interval import Interval
from windtunnel.forecasts.verdict import Verdict, compare, difference
from windtunnel.laws.observations import Observations
from windtunnel.runs import Run

__all__ = ["Backtest", "Fit", "Forecast", "Interval", "Score", "Verdict"]
__all__ += ["backtest", "compare", "difference", "fit", "forecast", "score"]


def backtest(observations: Observations | Sequence[Run], **options: Any) -> Backtest:
    """Hide the upper rungs, forecast them from the lower ones, and compare: what `fit(...).backtest` holds."""
    return fit(observations, **options).backtest
