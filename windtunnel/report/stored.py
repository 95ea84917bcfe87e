"""A study's page from its records alone, where the study's own file is not at hand: runs, sealed forecasts, cost.

Which runs belong to it is what their labels say, and a label names the study that asked first: a run that two studies
share is listed under one of them. Nothing is fitted here, so bands, basins and verdicts are missing and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from windtunnel.errors import InputError
from windtunnel.forecasts import Forecast
from windtunnel.ladder import compact
from windtunnel.recipe import OF_EXAMPLES
from windtunnel.report.record import past_forecasts
from windtunnel.store import Store

UNNAMED = "runs of no study"
_COLUMNS = {
    "key",
    "outcome",
    "loss",
    "params",
    "tokens",
    "flops",
    "spent_flops",
    "width",
    "depth",
    "batch",
    "seed",
    "optimizer",
    "seconds",
    "created",
    "study",
    "idea",
    "stage",
    "message",
}  # fmt: skip  every other column of a row is a hyperparameter


def study_names(store: Store) -> list[str]:
    """Every study that a store's runs and forecasts name, sorted."""
    return sorted({_study(row) for row in store.rows()} | {str(f.get("study") or UNNAMED) for f in store.forecasts()})


def stored_data(store: Store, name: str) -> dict[str, Any]:
    """Plain data for `report.page.render`, of the study of this name."""
    rows = [row for row in store.rows() if _study(row) == name]
    forecasts = [f for f in store.forecasts() if str(f.get("study") or UNNAMED) == name]
    recipes = list(dict.fromkeys([*(_recipe(row) for row in rows), *(str(f.get("idea") or "base") for f in forecasts)]))
    recipes.sort(key=lambda recipe: recipe != "base")
    return {
        "study": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "question": "",
        "unit": _unit(store, rows),
        "answer": [f"{len(rows)} runs and {len(forecasts)} forecasts are recorded.",
                   "This page is made from records alone; name the study's file to see bands, basins and verdicts."],
        "recipes": [_told(recipe, rows, forecasts) for recipe in recipes],
        "past": past_forecasts(store),
        "runs": [run_of(row) for row in rows],
        "cost": cost_of(rows),
    }  # fmt: skip


def _unit(store: Store, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What the loss is, as a run says, of those that took a step if there are any; None: as usual."""
    for row in sorted(rows, key=lambda row: row["outcome"] == "crashed")[:1]:
        with suppress(InputError):  # a damaged record is named elsewhere
            run = store.get(row["key"], later=True)
            said, tokens = run.spec.judge.get("loss"), run.curve.get("tokens", [])
            if isinstance(said, Mapping) and "is" in said:
                return str(said["is"])
            return OF_EXAMPLES if len(tokens) and tokens[0] == row["batch"] else None
    return None


def run_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the run table from one row of the store."""
    names = ("key", "outcome", "loss", "params", "tokens", "flops", "width", "depth", "batch", "seed", "seconds")
    return {name: row[name] for name in names} | {
        "recipe": _recipe(row),
        "stage": str(row.get("stage", "")),
        "message": row["message"],
        "hyperparameters": {k: v for k, v in row.items() if k not in _COLUMNS and isinstance(v, int | float)},
        "device": None,
    }


def cost_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What these runs took, by stage and outcome."""

    def spent(*kinds: str) -> float:
        return float(sum(row["spent_flops"] for row in rows if str(row.get("stage")) in kinds))

    outcomes = [row["outcome"] for row in rows]
    return {
        "ladder_flops": spent("ladder"),
        "tuning_flops": spent("tune", "re-check"),
        "target_flops": spent("target") or None,
        "share_of_target": None,
        "seconds": float(sum(row["seconds"] for row in rows)),
        "runs": len(rows),
    } | {name: outcomes.count(name) for name in ("finished", "diverged", "crashed")}


def forecast_of(sealed: Mapping[str, Any]) -> dict[str, Any]:
    """A sealed forecast as the page shows it."""
    told = Forecast.from_json(sealed)
    return {
        "target": dict(told.target),
        "loss": told.loss.to_json(),
        "intervals": [{"level": i.level, "low": i.low, "high": i.high} for i in told.intervals],
        "laws": [{"name": law, "weight": weight} for law, weight in told.laws.items()],
        "caveats": list(told.caveats),
        "reliable": told.reliable,
        "backtest": [
            {"hidden": f"{compact(h.size)} from the {h.kept} rungs below", "predicted": h.predicted.median,
             "low": h.predicted.low, "high": h.predicted.high, "truth": h.truth, "held": h.held}
            for h in told.backtest.hidden
        ],
        "created": sealed["created"], "hash": sealed["hash"], "key": told.key,
        "hyperparameters": {f: i.to_json() for f, i in told.hyperparameters.items()},
    }  # fmt: skip


def _told(recipe: str, rows: Sequence[Mapping[str, Any]], forecasts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [row for row in rows if _recipe(row) == recipe]
    latest = [f for f in forecasts if str(f.get("idea") or "base") == recipe][-1:]
    return {
        "name": recipe,
        "claim": "",
        "points": [_point(row) for row in mine if row.get("stage") not in ("tune", "re-check", "target")],
        "truth": [_point(row) for row in mine if row.get("stage") == "target"],
        "band": [],
        "forecast": forecast_of(latest[0]) if latest else None,
        "score": None,
    }


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("key", "params", "flops", "tokens", "width", "depth", "seed", "loss", "outcome")
    return {name: row[name] for name in names}


def _study(row: Mapping[str, Any]) -> str:
    return str(row.get("study") or UNNAMED)


def _recipe(row: Mapping[str, Any]) -> str:
    return str(row.get("idea") or "base")
