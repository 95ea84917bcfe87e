"""JSON as a Table: one object a line, an array of objects, or columns as pandas writes them; nested names get dots.

Trackers nest: {"config": {"lr": {"value": 0.01}}, "summary": {"val/loss": 2.9}} becomes the columns `config.lr` and
`summary.val/loss`. The same is done for cells of a CSV that hold such an object as text, which is what
`DataFrame.to_csv` makes of the W&B documentation's own export script.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.laws.reading.naming import is_loss, usual_for
from windtunnel.laws.reading.tables import Table

NAMED = "run, by its name"  # the column of names under which runs stand
SECTIONS = {
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "eval",
    "test",
    "model",
    "optimizer",
    "config",
    "summary",
}
NESTED = ("config", "summary", "summarymetrics", "summary_metrics", "params", "metrics", "tags", "hparams", "data")
_NO_JSON = (ValueError, RecursionError)  # no JSON, a number of thousands of digits, nested for ever
_WRAPPER = ({"value"}, {"value", "desc"})  # how W&B stores a config entry
_NUMBERLESS = re.compile(r"(?<![\w.'\"])(nan|-?inf)(?![\w.'\"])")  # as Python prints them in a dictionary


def read_json(file: Path, text: str) -> Table:
    """Any of the JSON layouts. Rows are line numbers for one object a line, else positions counted from 1."""
    whole = _whole(text)
    if whole is None:
        return _table(file, [(number, _record(file, number, line)) for number, line in _lines(text)])
    if isinstance(whole, dict):
        whole = _records_of(whole)
    records = list(enumerate(whole, start=1))
    for number, record in records:
        _check(file, number, record)
    return _table(file, records)


def unfolded(table: Table) -> Table:
    """The table with columns that hold objects (as such, or as text) replaced by a column for each name inside."""
    columns: dict[str, Any] = {}
    for name, values in table.columns.items():
        parsed = _objects(table, name, values)
        if parsed is None:
            columns[name] = values
            continue
        flat = [_flat(each, f"{name}.") for each in parsed]
        for inner in dict.fromkeys(key for record in flat for key in record):
            columns[inner] = [record.get(inner, "") for record in flat]
    return replace(table, columns=columns)


def _whole(text: str) -> Any:
    """The text as one JSON value, or None where it is one object a line."""
    start = text.lstrip()[:1]
    lines = sum(1 for _ in _lines(text))
    if start == "{" and lines > 1 and _is_object(next(_lines(text))[1]):
        return None
    try:
        whole = json.loads(text)
    except _NO_JSON:
        return None
    return whole if isinstance(whole, list | dict) else None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except _NO_JSON:
        return False


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except _NO_JSON as error:
        raise InputError(f"{file} row {number} is not JSON ({error}); write one object a line.") from None
    return _check(file, number, record)


def _check(file: Path, number: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputError(f"{file} row {number} is no object ({type(record).__name__}); write one object a line.")
    return record


def _records_of(whole: dict[str, Any]) -> list[Any]:
    """One object as records: pandas' layouts, {"runs": []} (MLflow), {"log_history": []} (Trainer), one run by name
    ({"small": {"n_params": ...}, ...}), or a single run."""
    if isinstance(whole.get("columns"), list) and isinstance(whole.get("data"), list):
        return [dict(zip(whole["columns"], row, strict=False)) for row in whole["data"]]
    for name in ("data", "runs", "log_history"):
        if isinstance(whole.get(name), list) and all(isinstance(each, dict) for each in whole[name]):
            return whole[name]
    columns = list(whole.values())
    if _are_runs(whole):
        return [{NAMED: name, **record} for name, record in whole.items()]
    if columns and all(isinstance(c, dict) and c.keys() == columns[0].keys() and c for c in columns):
        return [{name: column[key] for name, column in whole.items()} for key in columns[0]]
    if columns and all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
        return [dict(zip(whole, row, strict=True)) for row in zip(*columns, strict=True)]
    return [whole]


def _are_runs(whole: Mapping[str, Any]) -> bool:
    """Whether each value is a run under its name: objects that share losses or sizes, and no sections of one run.

    pandas' columns are told by their own names, or by rows that are numbered.
    """
    names = [str(name) for name in whole]
    if not all(isinstance(each, dict) for each in whole.values()) or any(map(_speaks, names)):
        return False
    keys = [{key.rpartition(".")[2] for key in _flat(each)} for each in whole.values()]
    shared = [key for key in set().union(*keys) if 2 * sum(key in each for each in keys) > len(keys)]
    if len(keys) == 1:  # a run, where it has both
        return not {*map(str.lower, names)} & SECTIONS and any(map(is_loss, shared)) and any(map(usual_for, shared))
    return not {*map(str.lower, names)} <= {*SECTIONS, *NESTED} and any(map(_speaks, shared))


def _speaks(name: str) -> bool:
    """Whether a name is that of a loss or a size: ours, what others call it, or the single letter of a formula."""
    return is_loss(name) or usual_for(name) not in ("", "lr") or name in ("N", "D", "C")


def _table(file: Path, records: Sequence[tuple[int, dict[str, Any]]]) -> Table:
    flat = [_flat(record) for _, record in records]
    names = dict.fromkeys(name for record in flat for name in record)
    columns = {name: [record.get(name, "") for record in flat] for name in names}
    known = {"key": NAMED} if NAMED in columns else {}
    return Table(file, columns, [number for number, _ in records], known)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        value = _unwrapped(str(name), value)
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _unwrapped(name: str, value: Any) -> Any:
    """W&B's {"value": x} as x, MLflow's [{"key": k, "value": v}] as {k: v}, an object kept as text as an object."""
    if isinstance(value, dict) and set(value) in _WRAPPER:
        return value["value"]
    if isinstance(value, list) and value and all(isinstance(e, dict) and {"key", "value"} <= set(e) for e in value):
        return {e["key"]: e["value"] for e in value}
    if isinstance(value, str) and name.lower() in NESTED and value.startswith("{"):
        return _parsed(value)
    return value


def _objects(table: Table, name: str, values: Any) -> list[dict[str, Any]] | None:
    """The cells as objects where the column is one of a tracker's nested ones, else None."""
    if name.lower() not in NESTED or not len(values):
        return None
    cells = [None if _blank(value) else _unwrapped(name, value) for value in values]
    texts = [i for i, cell in enumerate(cells) if not isinstance(cell, dict | None)]
    if not any(isinstance(cell, dict) for cell in cells):
        return None
    if texts:
        raise InputError(
            f"{table.file} column {name} holds objects, but in {table.named(texts)} something that cannot be read as "
            f"one ({str(values[texts[0]])[:60]!r}); export it as JSON (json.dumps)."
        )
    return [cell or {} for cell in cells]


def _blank(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _parsed(text: str) -> Any:
    """An object written as JSON, or as Python prints a dictionary; the text itself where it is neither."""
    try:
        return json.loads(text)
    except _NO_JSON:
        pass
    try:
        return ast.literal_eval(_NUMBERLESS.sub("None", text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
