"""How a store's forecasts did: each sealed forecast beside the target's runs that came later, and the share that held.

A newcomer would count every forecast: one that was made after its truth is none, and is left out by name. Forecasts of
one study lean on the same runs, so a row of them tells less than as many studies would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.errors import InputError
from windtunnel.forecasts import Forecast, score
from windtunnel.forecasts.forecast import moment
from windtunnel.store import Store

SAME = 1e-6  # relative difference of sizes that are the same


def past_forecasts(store: Store) -> list[dict[str, Any]]:
    """Every forecast of the store whose truth is there, oldest first; `inside` by level, None where made too late."""
    rows = [row for row in store.rows() if row.get("stage") == "target" and row["loss"] is not None]
    found = []
    for sealed in store.forecasts():
        try:
            forecast = Forecast.from_json(sealed)
        except InputError:
            continue  # sealed by another program; its own page says so
        truths = [row for row in rows if _is_truth(row, forecast)]
        if truths:
            found.append(_told(sealed, forecast, truths))
    return found


def held(past: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each level, how many of the forecasts that were made in time held their truth."""
    timely = [row["inside"] for row in past if row["inside"] is not None]
    levels = sorted({level for inside in timely for level in inside})
    return [
        {"level": level, "held": sum(each[level] for each in timely if level in each),
         "n": sum(level in each for each in timely)}
        for level in levels
    ]  # fmt: skip


def _told(sealed: Mapping[str, Any], forecast: Forecast, truths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    truth = sum(row["loss"] for row in truths) / len(truths)
    scored = score(forecast, truth)
    late = min(moment(row["created"]) for row in truths) <= moment(sealed["created"])
    interval = forecast.loss
    return {
        "study": forecast.study, "recipe": forecast.idea or "base", "created": sealed["created"],
        "place": forecast.place, "truth": truth, "n": len(truths), "relative_error": scored.relative,
        "loss": {"median": interval.median, "low": interval.low, "high": interval.high, "level": interval.level},
        "reliable": forecast.reliable, "inside": None if late else dict(scored.inside),
        "held": interval.holds(truth),
    }  # fmt: skip


def _is_truth(row: Mapping[str, Any], forecast: Forecast) -> bool:
    mine = (str(row.get("study", "")), str(row.get("idea", "base"))) == (forecast.study, forecast.idea or "base")
    sizes = [(row[name], forecast.target[name]) for name in ("params", "tokens") if name in forecast.target]
    return mine and bool(sizes) and all(abs(here - there) <= SAME * there for here, there in sizes)
