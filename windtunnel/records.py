"""The record of a run as files: run.json, sealed, beside a curve and the sources, each with its checksum.

Written by `written`, taken apart by `checked` and `sides`, which believe nothing: a record may be cut short, changed by
a disk or a stranger, or be of a newer windtunnel. Each of those is an InputError that names the file and what to do.
Records of windtunnel 0.1.0 carry no seal (their curve alone has a checksum); they are still read.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from windtunnel.errors import InputError
from windtunnel.files import (
    CURVE_BYTES,
    RECORD_BYTES,
    SOURCE_BYTES,
    arrays_of,
    json_of,
    misfit,
    seal_of,
    sealed,
    sha256,
    shape_of,
)
from windtunnel.likeness import marks
from windtunnel.places import Place
from windtunnel.runs import Outcome, Run, canonical

RECORD = 2  # format of run.json: 2 is sealed; 1, written by 0.1.0, is not
_SIDE = re.compile(r"curve\.npz|source/[A-Za-z0-9_-][A-Za-z0-9._-]*")
_ASIDE = re.compile(r"(by-[0-9a-f]{8,64}/)?")
_NUMBER, _WHOLE = (int, float), int
_SHAPE = {
    "key": str, "outcome": str, "message": str, "loss": (int, float, type(None)), "metrics": {str: _NUMBER},
    "size": {"embedding": _WHOLE, "non_embedding": _WHOLE, "flops_per_token": _NUMBER, "tied": bool},
    "cost": {"flops": _NUMBER, "seconds": _NUMBER, "device": str, "threads": _WHOLE, "members": _WHOLE},
    "created": str, "versions": {str: str}, "labels": {str: str},
    "spec": {
        "recipe": {"optimizer": {"is": str}}, "hyperparameters": {str: _NUMBER}, "seed": _WHOLE, "judge": {},
        "rung": {"width": _WHOLE, "depth": _WHOLE, "tokens": _WHOLE, "batch": (int, type(None))}, "base_rung": {},
    },
}  # fmt: skip


def written(run: Run, aside: Any) -> dict[str, bytes]:
    """The files of a run's record, run.json last; `aside` gives the folder of the others by a mark of their content."""
    import numpy as np

    curve = io.BytesIO()
    np.savez_compressed(curve, **dict(run.curve))  # type: ignore[arg-type]
    beside = {"curve.npz": curve.getvalue()}
    beside |= {f"source/{_file_name(name)}": text.encode() for name, text in run.source.items()}
    sums = {name: sha256(data) for name, data in beside.items()}
    within = aside(sha256(canonical(sums).encode()))
    # curve_sha256 is what windtunnel 0.1.0 reads
    said = {"format": RECORD, "curve_sha256": sums["curve.npz"], "files": sums, "files_in": within}
    files = {f"{within}{name}": data for name, data in beside.items()}
    return files | {"run.json": json.dumps(sealed(run.to_json() | said), indent=1).encode()}


def read_run(place: Place, key: str, later: bool = False) -> Run:
    """The run of a key, whole. Raises InputError.

    `later` True: its curve and sources are read, and found damaged, when they are first looked at.
    """
    record = read_record(place, key)
    curve, source = _Later(lambda: _curve(place, key, record)), _Later(lambda: _source(place, key, record))
    with shape_of(_named(place, key), _remedy(place, key)):
        return Run.from_json(record, curve, source) if later else Run.from_json(record, curve.read(), source.read())


class _Later(Mapping[str, Any]):
    """A mapping that is read when it is first asked: ten thousand curves that nobody looks at take seconds."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read = read

    @cached_property
    def _there(self) -> dict[str, Any]:
        return self._read()

    def read(self) -> dict[str, Any]:
        """What it holds, as a plain dictionary."""
        return self._there

    def __getitem__(self, name: str) -> Any:
        return self._there[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._there)

    def __len__(self) -> int:
        return len(self._there)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._there,)


def _curve(place: Place, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
    data = _beside(place, key, record, "curve.npz")["curve.npz"]
    return arrays_of(data, _named(place, key, "curve.npz"), _remedy(place, key))


def _source(place: Place, key: str, record: Mapping[str, Any]) -> dict[str, str]:
    beside = _beside(place, key, record, "source/")
    return {name.removeprefix("source/"): data.decode("utf-8", "replace") for name, data in beside.items()}


def read_record(place: Place, key: str) -> dict[str, Any]:
    """What run.json holds. Raises InputError if it is missing, damaged, of a newer version, or no record."""
    named, remedy = _named(place, key), _remedy(place, key)
    record = json_of(place.read(f"runs/{key}/run.json", RECORD_BYTES), named, remedy)
    kind = record.get("format", RECORD if "seal" in record else 1)
    if isinstance(kind, int) and kind > RECORD:
        raise InputError(f"{named} is a record of format {kind}; {upgrade(RECORD, record.get('versions'))}")
    if kind != 1 and record.get("seal") != seal_of(record):
        raise InputError(f"{named} is damaged (it does not match its own checksum); {remedy}")
    wrong = misfit(record, _SHAPE, "the record") or _contradiction(record, key)
    if wrong:
        raise InputError(f"{named} is not a windtunnel record of a run: {wrong}; {remedy}")
    return record


def row(record: dict[str, Any]) -> dict[str, Any]:
    """One flat row of a run's record, as `Store.table` and `--json` show it."""
    spec, size, cost = record["spec"], record["size"], record["cost"]
    rung, spent = spec["rung"], cost.get("spent_flops")
    return {
        "key": record["key"],
        "outcome": record["outcome"],
        "loss": record["loss"],
        "params": size["non_embedding"] + (size["embedding"] if size["tied"] else 0),
        "tokens": rung["tokens"],
        "flops": cost["flops"],
        "spent_flops": spent if isinstance(spent, int | float) else cost["flops"],
        "width": rung["width"],
        "depth": rung["depth"],
        "batch": rung["batch"],
        **_fixed_rate(spec["recipe"]["optimizer"]),
        **spec["hyperparameters"],
        "seed": spec["seed"],
        "optimizer": spec["recipe"]["optimizer"]["is"],
        **marks(spec["recipe"], spec["judge"]),
        "seconds": cost["seconds"],
        "created": record["created"],
        **record["labels"],
        "message": record["message"],
    }


def _fixed_rate(optimizer: Any) -> dict[str, float]:
    """The learning rate of a recipe that does not leave it open."""
    held = optimizer.get("fields")
    rate = held.get("lr") if isinstance(held, dict) else None
    return {"lr": rate} if isinstance(rate, float) and math.isfinite(rate) else {}


def upgrade(reads: int, facts: Any) -> str:
    """The end of a sentence about a newer format: what this version reads, and the line that upgrades it."""
    wrote = facts.get("windtunnel") if isinstance(facts, dict) else None
    known = isinstance(wrote, str) and re.fullmatch(r"\d[0-9a-z.]{0,30}", wrote)
    line = f"pip install --upgrade 'windtunnel>={wrote}'" if known else "pip install --upgrade windtunnel"
    return f"this version reads up to {reads}. It was made by a newer windtunnel: upgrade with `{line}`"


def _beside(place: Place, key: str, record: Mapping[str, Any], kind: str) -> dict[str, bytes]:
    """The files beside run.json whose name begins so, each as its checksum says."""
    within, sums = record.get("files_in", ""), record.get("files")
    if sums is None:  # a record of format 1 has the checksum of the curve alone
        found = [f"source/{name}" for name in place.names(f"runs/{key}/source")]
        sums = {"curve.npz": record.get("curve_sha256", "")} | {name: "" for name in found if _SIDE.fullmatch(name)}
    wrong = misfit(sums, {str: str}) or misfit(within, str)
    if wrong or "curve.npz" not in sums or not _ASIDE.fullmatch(within) or not all(map(_SIDE.fullmatch, sums)):
        raise InputError(f"{_named(place, key)} does not say which files belong to it; {_remedy(place, key)}")
    asked = {name: known for name, known in sums.items() if name.startswith(kind)}
    return {name: _summed(place, key, f"{within}{name}", known) for name, known in asked.items()}


def _summed(place: Place, key: str, name: str, known: str) -> bytes:
    curve = name.endswith("curve.npz")
    data = place.read(f"runs/{key}/{name}", CURVE_BYTES if curve else SOURCE_BYTES)
    if (known or curve) and sha256(data) != known:
        raise InputError(
            f"{_named(place, key, name)} does not match the checksum in run.json: the file is damaged; "
            f"{_remedy(place, key)}"
        )
    return data


def _contradiction(record: dict[str, Any], key: str) -> str | None:
    """What cannot be true of the record of this key."""
    if record["key"] != key:
        return f"it holds the run {record['key'][:64]!r}"
    if record["outcome"] not in set(Outcome):
        return f"outcome is {record['outcome'][:40]!r}"
    finite = record["loss"] is not None and abs(record["loss"]) < float("inf")
    if (record["outcome"] == Outcome.FINISHED) != finite:
        return f"a {record['outcome']} run has loss {record['loss']}"
    return None


def _named(place: Place, key: str, name: str = "run.json") -> str:
    return f"{place.where}/runs/{key}/{name}"


def _remedy(place: Place, key: str) -> str:
    return (
        f"restore it from a copy, or remove the folder {place.where}/runs/{key} so that the next run trains it again."
    )


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-200:].lstrip(".") or "source"
