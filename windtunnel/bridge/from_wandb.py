"""Offline runs of Weights & Biases, straight from their files, as foreign runs of a store; no server and no sync.

An offline run is one file of records (LevelDB's log format behind a header, protobuf inside, read with wandb's own
classes). Its runs go through `read_runs` as an export of W&B does, so that columns, unfinished runs and doubts are
treated as there. A newcomer would take a file that ends early for damage: it is a run that was killed, and unfinished.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from wandb import __version__

from windtunnel.bridge.foreign import ForeignRun, brought
from windtunnel.bridge.tracked import observed
from windtunnel.errors import InputError
from windtunnel.places import check_size
from windtunnel.store import Store

Record: Any = import_module("wandb.proto.wandb_internal_pb2").Record  # which file it is goes by protobuf's version
MAGIC = b":W&B\xe1\xbe\x00"  # wandb's own header, version 0
BLOCK = 32768  # bytes; LevelDB's log format
HEAD = struct.Struct("<IHB")  # checksum, length and kind of a part
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
LARGEST = 1 << 30  # bytes of one run's file; it is read whole


@dataclass
class Offline:
    """One run as its files say: facts by dotted name, its last values, every logged row, and how it ended."""

    name: str = ""
    state: str = "crashed"  # until a record says that it ended
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def bring_wandb(
    store: Store, folder: str | os.PathLike[str], columns: Mapping[str, str] | str | None = None, *,
    curve: str | None = None,
) -> list[ForeignRun]:  # fmt: skip
    """Keep the finished offline runs below a folder (W&B's `wandb`, or its parent) that have the loss in the store.

    `columns` maps our names to W&B's: "loss=summary.val/loss,params=config.n_params". `curve` names the metric whose
    history is kept, over W&B's steps. Returns them all. Raises InputError.
    """
    files = sorted(Path(folder).rglob("*run-*/run-*.wandb"))
    if not files:
        raise InputError(f"{folder} holds no runs of W&B; give the folder `wandb` that has offline-run-... in it.")
    runs: dict[str, Offline] = {}
    for file in files:  # a run that was resumed has several files, by date
        _add(runs.setdefault(file.stem.removeprefix("run-"), Offline()), file)
    rows = {key: _row(key, run) for key, run in runs.items()}
    read = observed(rows, columns, where=str(folder), export="wandb.jsonl")
    provenance = {"tool": f"wandb {__version__}, offline", "file": str(Path(folder).absolute())}
    keys = [] if curve is None or read.key is None else [str(key) for key in read.key]
    return brought(store, read, provenance, {key: _history(runs[key], curve or "") for key in keys if key in runs})


def records(file: Path) -> Iterator[Any]:
    """The records of an offline run's file, up to where it ends. Raises InputError for another file, and for damage."""
    check_size(str(file), file.stat().st_size, LARGEST)
    data = file.read_bytes()
    if not data.startswith(MAGIC):
        raise InputError(f"{file} is no offline run of W&B that this version reads (its first bytes are {data[:7]!r}).")
    at, parts = len(MAGIC), []
    while at + HEAD.size <= len(data):
        if (left := BLOCK - at % BLOCK) < HEAD.size:
            at += left
            continue
        checksum, length, kind = HEAD.unpack_from(data, at)
        body = data[at + HEAD.size : at + HEAD.size + length]
        if len(body) < length or kind == 0:
            return  # cut off while it was written
        if zlib.crc32(bytes([kind]) + body) != checksum:
            raise InputError(
                f"{file} is damaged at byte {at}: a checksum differs. Fetch it again, or leave the run out."
            )
        parts = [*parts, body] if kind in (MIDDLE, LAST) else [body]
        if kind in (WHOLE, LAST):
            yield Record.FromString(b"".join(parts))
        at += HEAD.size + length


def _add(run: Offline, file: Path) -> None:
    run.state = "crashed"
    try:
        _heard(run, file)
    except (DecodeError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} holds what no run of W&B logs ({type(error).__name__}); leave it out.") from None


def _heard(run: Offline, file: Path) -> None:
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name = record.run.display_name or run.name
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "history":
            run.rows.append(_values(record.history.item))
        elif kind == "exit":
            run.state = "failed" if record.exit.exit_code else "finished"


def _values(items: Sequence[Any]) -> dict[str, Any]:
    """Values by name, dicts inside them flattened with dots; what W&B keeps for itself is left out."""
    found: dict[str, Any] = {}
    for item in items:
        name = item.key or ".".join(item.nested_key)
        if not name.startswith("_") or name == "_step":
            found |= _flat(name, json.loads(item.value_json))
    return found


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {inner: each for key in value for inner, each in _flat(f"{name}.{key}", value[key]).items()}


def _row(key: str, run: Offline) -> dict[str, Any]:
    """One run in the names of W&B's own export."""
    row: dict[str, Any] = {"id": key, "name": run.name, "state": run.state}
    row |= {f"config.{name}": _plain(value) for name, value in run.config.items()}
    return row | {f"summary.{name}": _plain(value) for name, value in run.summary.items()}


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _history(run: Offline, metric: str) -> tuple[Any, Any]:
    """Share of the horizon and value; a step that was written twice counts as it was written last."""
    rows = {row["_step"]: row[metric] for row in run.rows if _number(row.get(metric)) and _number(row.get("_step"))}
    steps = np.array(sorted(step for step in rows if step > 0), float)
    return (steps / steps[-1], [rows[int(step)] for step in steps]) if len(steps) else ((), ())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
