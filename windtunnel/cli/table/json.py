"""The JSON of `windtunnel fit`: one object with forecasts, verdicts, scores and diagnostics.

A number that does not exist is null, never NaN, so that any JSON reader can take it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from windtunnel.cli.table.answers import Answer, Whole
from windtunnel.cli.table.groups import Group
from windtunnel.cli.table.verdicts import Judged
from windtunnel.forecasts import Fit, Interval
from windtunnel.forecasts.hyperparameters import BestHyperparameters


def as_json(whole: Whole, levels: Sequence[float]) -> str:
    """One JSON object as text."""
    answer = {
        "forecasts": [_forecast(answer, levels) for answer in whole.answers],
        "verdicts": [_verdict(judged) for judged in whole.verdicts],
        "scores": scores(whole),
        "diagnostics": {
            "fits": [_fit(group, fitted) for group, fitted in whole.fits],
            "dropped": list(whole.dropped),
            "refused": [{"what": each.what, "reason": each.reason} for each in whole.refusals],
            "not_compared": [{"what": each.what, "reason": each.reason} for each in whole.declined],
            "seconds": round(whole.seconds, 3),
        },
    }
    if whole.spendings:
        answer["budget"] = [each.to_json() for each in whole.spendings]
    return json.dumps(_clean(answer), allow_nan=False)


def scores(whole: Whole) -> dict[str, Any]:
    """How the forecasts and verdicts did where the truth was in the table; empty where it was not."""
    found: dict[str, Any] = {}
    known = [answer.score for answer in whole.answers if answer.score]
    if known:
        errors = np.array([each.relative for each in known])
        found |= {
            "n": len(known),
            "mean_absolute_relative_error": float(np.abs(errors).mean()),
            "largest_absolute_relative_error": float(np.abs(errors).max()),
            "root_mean_squared_log_error": float(np.sqrt(np.mean(np.log1p(errors) ** 2))),
            "coverage": {f"{level:g}": float(np.mean([e.inside[level] for e in known])) for level in known[0].inside},
        }
    judged = [judged for judged in whole.verdicts if math.isfinite(judged.truth)]
    if judged:
        gaps = [abs(each.verdict.delta.median - each.truth) for each in judged]
        brier = [(each.verdict.probability_better - (each.truth < 0)) ** 2 for each in judged]
        found["verdicts"] = {
            "n": len(judged),
            "mean_absolute_gap_error": float(np.mean(gaps)),
            "brier": float(np.mean(brier)),
            "coverage_one_pair": {f"{level:g}": float(np.mean(held)) for level, held in _held_pairs(judged).items()},
        }
    if whole.regrets:
        lost = np.array(whole.regrets)
        found |= {"searches": len(lost), "regret": float(lost.mean()), "largest_regret": float(lost.max())}
    return found


def _held_pairs(judged: Sequence[Judged]) -> dict[float, list[bool]]:
    """Whether one pair's interval held each true gap, by level."""
    found: dict[float, list[bool]] = {}
    for each in judged:
        if (said := each.verdict.one_pair) is not None:
            found.setdefault(said.level, []).append(said.holds(each.truth))
    return found


def _forecast(answer: Answer, levels: Sequence[float]) -> dict[str, Any]:
    forecast = answer.forecast
    shown = {interval.level: interval for interval in forecast.intervals}
    return {
        "series": answer.group.series,
        "idea": answer.group.idea,
        "target": dict(forecast.target),
        "loss": {
            "median": forecast.loss.median,
            "intervals": [_bounds(shown[level]) for level in levels],
        },
        **(_best(answer.best) if answer.best else {}),
        "laws": [{"name": name, "weight": weight} for name, weight in forecast.laws.items()],
        "caveats": list(forecast.caveats),
        "backtest": [hidden.to_json() for hidden in forecast.backtest.hidden],
        "reliable": forecast.reliable,
        "key": forecast.key,
        "score": {**answer.score.to_json(), "best_of": answer.best_of} if answer.score else None,
    }


def _best(best: BestHyperparameters) -> dict[str, Any]:
    return {
        "best": {name: interval.to_json() for name, interval in best.values.items()},
        "best_regret": {**best.regret.to_json(), "expected": best.expected_regret},
        "best_caveats": list(best.caveats),
    }


def _bounds(interval: Interval) -> dict[str, float]:
    return {"level": interval.level, "low": interval.low, "high": interval.high}


def _verdict(judged: Judged) -> dict[str, Any]:
    named = {"series": judged.series, "idea": judged.idea}
    return {
        **judged.verdict.to_json(),
        **named,
        "truth": {"delta": judged.truth} if judged.truth == judged.truth else None,
    }


def _fit(group: Group, fitted: Fit) -> dict[str, Any]:
    return {
        "series": group.series,
        "idea": group.idea,
        "laws": [
            {"name": law.law.name, "weight": weight, "parameters": law.parameters(), "residual": law.spread}
            for law, weight in zip(fitted.laws, fitted.weights, strict=True)
        ],
        "noise": {"relative": fitted.noise.relative, "df": fitted.noise.df, "source": fitted.noise.source},
        "runs": len(fitted.observations),
        "caveats": list(fitted.caveats),
        "reliable": fitted.reliable,
    }


def _clean(value: Any) -> Any:
    """Plain data without NaN or infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(name): _clean(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
