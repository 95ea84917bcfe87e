"""What a tracker's export is known by: state and id columns, and charts whose columns are runs.

Only what a format leaves no doubt about is taken as known: which metric is the loss, and whether W&B's own step counts
training steps, is for the reader of the table to say (--columns).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.laws.reading.folders import EVENTS, read_event_file, read_folder
from windtunnel.laws.reading.records import read_json, unfolded
from windtunnel.laws.reading.tables import Table, of_columns, read_csv, read_parquet, text_of

FINISHED = ("finished", "complete", "completed", "success", "succeeded", "successful", "done", "ok", "okay", "")
_STATES = (*FINISHED, "running", "crashed", "failed", "killed", "preempted", "preempting", "pending", "queued",
           "scheduled", "diverged", "error", "canceled", "cancelled", "stopped", "aborted", "nan", "inf", "failure",
           "unfinished", "incomplete", "interrupted", "timeout", "timed out", "oom", "unstable",
           "exploded")  # fmt: skip
_CHART = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<edge>__(MIN|MAX))?$")  # W&B: "run - val/loss__MIN"
CURVE = "Rows of {} are points of training curves, not separate runs: their noise is shared along a curve."


def load(source: Any, delimiter: str | None = None) -> Table:
    """The table at a path, of whatever kind, or one in memory. Raises InputError where there is none."""
    if isinstance(source, str | os.PathLike):
        return recognised(_read(Path(source), delimiter))
    if hasattr(source, "columns") or isinstance(source, Mapping):
        return recognised(of_columns(source))
    raise InputError(
        f"What was given is of type {type(source).__name__}; give the path of a table, a DataFrame, or a mapping of "
        f"names to columns."
    )


def _read(file: Path, delimiter: str | None) -> Table:
    if not file.exists():
        raise InputError(f"{file} does not exist; give the path of a CSV, Parquet or JSON lines table of runs.")
    if file.is_dir():
        return read_folder(file)
    if EVENTS in file.name:
        return read_event_file(file)
    if file.suffix.lower() == ".parquet":
        return read_parquet(file)
    text = text_of(file)
    return read_json(file, text) if is_json(file) else read_csv(file, text, delimiter)


def is_json(file: Path) -> bool:
    """Whether a file's ending, before .gz too, says JSON or JSON lines."""
    return any(suffix.lower() in (".jsonl", ".ndjson", ".json") for suffix in file.suffixes[-2:])


def recognised(table: Table) -> Table:
    """The table with nested columns unfolded and what its format leaves no doubt about in `known`."""
    return _recognised(unfolded(table))


def _recognised(table: Table) -> Table:
    names = list(table.columns)
    if names == ["Wall time", "Step", "Value"]:  # TensorBoard's download of one scalar
        caveat = CURVE.format(table.file.name)
        return replace(table, known={"steps": "Step", "loss": "Value"}, caveats=(*table.caveats, caveat))
    if _is_chart(names):
        return _chart(table)
    known = dict(table.known)
    state = next((name for name in names if name.lower() in ("state", "status") and _states(table, name)), None)
    if state is not None and "outcome" not in known:
        known["outcome"] = state
        own = next((name for name in names if name.lower() in ("run_id", "run id", "id")), None)
        known |= {"key": own} if own else {}
    return replace(table, known=known)


def state_of(value: Any) -> str:
    """A run's state in small letters, nothing where the cell is empty; written out, `nan` is what became of a loss."""
    text = "" if value is None or value != value else str(value).strip().lower()
    return "" if text in ("null", "none", "n/a") else text


def _states(table: Table, name: str) -> bool:
    values = {state_of(value) for value in table.columns[name]}
    return bool(values - {""}) and values <= set(_STATES)


def _is_chart(names: list[str]) -> bool:
    """An x axis, then for each run a column and its smallest and largest value."""
    marked = [match for match in map(_CHART.match, names[1:]) if match]
    return len(names) > 1 and len(marked) == len(names) - 1 and any(match["edge"] for match in marked)


def _chart(table: Table) -> Table:
    """One row a point: the x axis, the run as a series, and its metrics. Nothing is trained at step 0."""
    axis = next(iter(table.columns))
    runs: dict[str, dict[str, str]] = {}
    for name in list(table.columns)[1:]:
        match = _CHART.match(name)
        if match and not match["edge"]:
            runs.setdefault(match["run"], {})[match["metric"]] = name
    metrics = list(dict.fromkeys(metric for columns in runs.values() for metric in columns))
    long: dict[str, list[Any]] = {name: [] for name in (axis, "Name", *metrics)}
    rows: list[Any] = []
    untrained = 0
    for run, columns in runs.items():
        points = {metric: table.columns[name] for metric, name in columns.items()}
        kept = [i for i in range(len(table.rows)) if any(str(points[metric][i]).strip() for metric in points)]
        start = [i for i in kept if axis == "Step" and str(table.columns[axis][i]).strip() in ("0", "0.0")]
        kept, untrained = [i for i in kept if i not in start], untrained + len(start)
        long[axis] += [table.columns[axis][i] for i in kept]
        long["Name"] += [run] * len(kept)
        for metric in metrics:
            long[metric] += [points[metric][i] if metric in points else "" for i in kept]
        rows += [table.rows[i] for i in kept]
    known = {"series": "Name"} | ({"steps": axis} if axis == "Step" else {})
    own = [metric for metric in metrics if not metric.startswith("_")]
    known |= {"loss": own[0]} if len(own) == 1 else {}
    left = (f"{untrained} point(s) at step 0 are left out: nothing was trained.",) if untrained else ()
    return Table(table.file, long, rows, known, (CURVE.format(table.file.name), *left))
