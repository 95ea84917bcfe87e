"""A store's runs and forecasts in a tracker: each is written once, when it is whole, under its own key.

A tracker is anything with `has` and `write` (three files here are: MLflow, TensorBoard, W&B). The store stays the
record; what is mirrored is a copy to look at, and nothing is read back from it. Calling `update` again, from cron or
while a study runs, adds what has ended since. A newcomer would stream runs in flight: those are watched by
`windtunnel score --follow`, and a crashed pack would leave half of them behind in the tracker.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from windtunnel.records import row
from windtunnel.runs import Run
from windtunnel.store import Store

log = logging.getLogger("windtunnel")

LONGEST = 500  # characters of a fact: MLflow's oldest limit on a parameter


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a tracker is to show of one run or forecast.

    `kind` is "run" or "forecast", `facts` are words and numbers by name, `results` numbers, and `curves` numbers by
    name with the step each belongs to. `full` is the record as plain data.
    """

    kind: str
    key: str
    name: str
    facts: Mapping[str, str | float | int]
    results: Mapping[str, float]
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    full: Mapping[str, Any]


class Tracker(Protocol):
    """Where pages are written. `has` says whether a page of that key is there already."""

    def has(self, key: str) -> bool: ...
    def write(self, page: Page) -> None: ...


class Mirror:
    """A store, or the path of one, beside a tracker; `study` limits it to that study's forecasts and the runs that it
    asked first."""

    def __init__(self, store: Store | str | os.PathLike[str], tracker: Tracker, *, study: str | None = None) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.tracker, self.study, self.said = tracker, study, False

    def update(self) -> int:
        """Write what is in the store and not in the tracker; how many pages that were."""
        self._look()
        written = 0
        for key in list(self.store.keys()):
            if not self.tracker.has(key):
                run = self.store.get(key)
                if self.study in (None, run.labels.get("study")):
                    self.tracker.write(page_of_run(run))
                    written += 1
        for forecast in self._forecasts():
            if not self.tracker.has(forecast["key"]):
                self.tracker.write(page_of_forecast(forecast))
                written += 1
        return written

    def _look(self) -> None:
        """Say, once, that a store of other studies has nothing of the one that was named: it may not have begun."""
        if self.study is None or self.said:
            return
        found = {str(each.get("study") or "") for each in (*self.store.rows(), *self.store.forecasts())} - {""}
        if found and self.study not in found:
            self.said = True
            others = ", ".join(sorted(found))
            log.warning("nothing of study %r is in the store yet; its studies: %s", self.study, others)

    def _forecasts(self) -> Iterator[dict[str, Any]]:
        """Those of the study: the ones that name it or, where they name none, rest on a run of it."""
        for forecast in self.store.forecasts():
            named = forecast.get("study")
            runs: Sequence[str] = () if named else forecast.get("runs", ())
            if self.study in (None, named) or any(self._of_study(key) for key in runs if key in self.store):
                yield forecast

    def _of_study(self, key: str) -> bool:
        return self.store.get(key, later=True).labels.get("study") == self.study


def page_of_run(run: Run) -> Page:
    """A recorded run: what was asked as facts, what came of it as results, its losses as curves over steps."""
    record = run.to_json()
    flat = {name: value for name, value in row(record).items() if value is not None and value != ""}
    results = {name: float(flat.pop(name)) for name in ("loss", "seconds", "flops") if name in flat}
    results |= {f"metric/{name}": float(value) for name, value in run.metrics.items()}
    curve = {name: np.asarray(values, float) for name, values in run.curve.items()}
    steps, tokens = curve.get("step", np.zeros(0)), curve.get("tokens", np.zeros(0))
    curves = {"train_loss": (steps, curve["train_loss"])} if "train_loss" in curve and len(steps) else {}
    if len(tokens) and "judged_loss" in curve:
        curves["judged_loss"] = np.interp(curve["judged_tokens"], tokens, steps), curve["judged_loss"]
    name = " ".join(str(flat[label]) for label in ("study", "idea", "stage") if label in flat)
    return Page(kind="run", key=run.key, name=f"{name or 'run'} {run.key[:8]}", facts=_short(flat), results=results,
                curves=_finite(curves), full=record)  # fmt: skip


def page_of_forecast(forecast: Mapping[str, Any]) -> Page:
    """A stored forecast: its target and caveats as facts, its interval as results."""
    loss = forecast.get("loss") or {}
    facts = {f"target/{name}": value for name, value in (forecast.get("target") or {}).items()}
    facts |= {f"caveat/{number}": caveat for number, caveat in enumerate(forecast.get("caveats", ()), 1)}
    facts |= {"created": forecast["created"], "hash": forecast["hash"]}
    bounds = {name: float(v) for name, v in loss.items() if isinstance(v, int | float)}
    for each in forecast.get("intervals", ()):
        bounds |= {f"{side}_{100 * each['level']:.0f}": float(each[side]) for side in ("low", "high")}
    results = {f"foretold/{name}": value for name, value in bounds.items()}
    return Page(kind="forecast", key=forecast["key"], name=f"forecast {forecast['key'][:8]}", facts=_short(facts),
                results=results, curves={}, full=forecast)  # fmt: skip


def _short(facts: Mapping[str, Any]) -> dict[str, str | float | int]:
    """Facts as numbers or short words; a row's labels are whatever their author wrote."""
    return {str(name): v if isinstance(v, int | float) else str(v)[:LONGEST] for name, v in facts.items()}


def _finite(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    kept = {}
    for name, (steps, values) in curves.items():
        good = np.isfinite(values) & np.isfinite(steps)
        kept[name] = np.round(steps[good]).astype(int), values[good]
    return kept
