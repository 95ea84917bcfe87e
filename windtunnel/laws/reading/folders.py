"""Folders of runs as a Table: our own stores, MLflow's file store (`mlruns/`) and TensorBoard log directories.

One row a run, with the last value of each metric. A TensorBoard run is a folder with event files; the folder that
`add_hparams` puts inside it belongs to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.laws.reading.events import Events, read_events
from windtunnel.laws.reading.tables import Table
from windtunnel.store import Store

EVENTS = "tfevents"
_MLFLOW_STATES = {"1": "running", "2": "scheduled", "3": "finished", "4": "failed", "5": "killed"}


def read_folder(folder: Path) -> Table:
    """The runs in a folder. Raises InputError where it is none of the three."""
    if (folder / "store.json").is_file():
        rows = Store(folder).rows()
        return _table(folder, rows, [row["key"][:8] for row in rows], {"outcome": "outcome", "key": "key"})
    found = [(Path(top), names) for top, names in _walk(folder)]
    stores = [top for top, names in found if "meta.yaml" in names and _yaml(top / "meta.yaml").keys() & {"run_id"}]
    if stores:
        return _mlflow(folder, stores)
    logs = {top: [top / name for name in sorted(names) if EVENTS in name] for top, names in found}
    logs = {top: files for top, files in logs.items() if files}
    if logs:
        return _tensorboard(folder, logs)
    raise InputError(
        f"{folder} is a folder without runs; give a table with one row a run, a store, an MLflow folder (mlruns), or a "
        f"folder of TensorBoard event files."
    )


def read_event_file(file: Path) -> Table:
    """One TensorBoard event file as a table of one run."""
    return _tensorboard(file.parent, {file.parent: [file]})


def _walk(folder: Path) -> list[tuple[str, list[str]]]:
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("artifacts", ".trash"))
        found.append((top, names))
    return found


def _mlflow(folder: Path, stores: Sequence[Path]) -> Table:
    records, names = [], []
    for top in stores:
        meta = _yaml(top / "meta.yaml")
        state = "deleted" if meta.get("lifecycle_stage") == "deleted" else _state(meta)
        record: dict[str, Any] = {"run_id": meta["run_id"], "status": state, "name": meta.get("run_name", "")}
        record["experiment"] = _yaml(top.parent / "meta.yaml").get("name", top.parent.name)
        record |= {f"params.{name}": text.strip() for name, text in _files(top / "params")}
        record |= {f"tags.{name}": text.strip() for name, text in _files(top / "tags")}
        record |= {f"metrics.{name}": _latest(text) for name, text in _files(top / "metrics")}
        records.append(record)
        names.append(meta.get("run_name") or meta["run_id"])
    return _table(folder, records, names, {"outcome": "status", "key": "run_id"})


def _state(meta: dict[str, str]) -> str:
    status = meta.get("status", "")
    return _MLFLOW_STATES.get(status, status.lower())


def _yaml(file: Path) -> dict[str, str]:
    """The flat `name: value` lines MLflow writes; empty where there is no such file."""
    if not file.is_file():
        return {}
    pairs = [line.partition(":") for line in file.read_text("utf-8", "replace").splitlines() if not line[:1].isspace()]
    return {name.strip(): value.strip().strip("'\"") for name, sign, value in pairs if sign}


def _files(folder: Path) -> list[tuple[str, str]]:
    """Name (with its slashes) and text of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.read_text("utf-8", "replace")) for path in files]


def _latest(text: str) -> Any:
    """The value at the largest step, the later one among equals: lines of `timestamp value step`."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    points = [(int(line[2]) if len(line) > 2 else 0, int(line[0]), line[1]) for line in lines if len(line) > 1]
    return max(points, key=lambda point: point[:2])[2] if points else ""


def _tensorboard(folder: Path, logs: dict[Path, list[Path]]) -> Table:
    read = {top: _merged([read_events(file) for file in files]) for top, files in logs.items()}
    for top in [top for top in read if top.parent in read and re.fullmatch(r"\d+(\.\d+)?", top.name)]:
        read[top.parent] = _merged([read.pop(top), read[top.parent]])
    records, names = [], []
    for top, events in read.items():
        record: dict[str, Any] = {f"hparams.{name}": value for name, value in events.hparams.items()}
        record |= {name: value for name, (_, value) in events.scalars.items()}
        record |= {"run": _name(folder, top), "state": events.state}
        record["step"] = max((step for step, _ in events.scalars.values()), default=0) or ""
        records.append(record)
        names.append(record["run"])
    if not any(events.scalars for events in read.values()):
        raise InputError(f"{folder} holds TensorBoard event files without a single scalar; point to the runs' folder.")
    return _table(folder, records, names, {"outcome": "state", "key": "run", "steps": "step"})


def _name(folder: Path, top: Path) -> str:
    name = top.relative_to(folder).as_posix()
    return folder.name if name == "." else name


def _merged(parts: Sequence[Events]) -> Events:
    whole = Events()
    for part in parts:
        later = {tag: at for tag, at in part.scalars.items() if at[0] >= whole.scalars.get(tag, (0, 0.0))[0]}
        whole.scalars |= later
        whole.hparams |= part.hparams
        whole.state = part.state or whole.state
    return whole


def _table(folder: Path, records: list[dict[str, Any]], names: Sequence[str], known: dict[str, str]) -> Table:
    columns = {name: [record.get(name, "") for record in records] for record in records for name in record}
    return Table(folder, columns, list(names), known, noun="run")
