"""Reads anyone's table of runs (CSV, Parquet, JSON lines) into Observations, or says exactly what is wrong with it.

Every cell is checked before any arithmetic: one message names file, column and rows, and what to do. Row numbers are
those a text editor or spreadsheet shows (the header is row 1).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.observations import NUMBER_COLUMNS, SIZE_COLUMNS, TEXT_COLUMNS, Observations, with_flops

Table = dict[str, list[Any]]
KNOWN = (*NUMBER_COLUMNS, *TEXT_COLUMNS, "outcome")
_USUAL = {  # what other people call our columns; only suggested, never assumed
    "loss": ("val_loss", "valid_loss", "eval_loss", "test_loss", "train_loss", "final_loss", "loss_opt"),
    "params": ("n_params", "parameters", "num_params", "n", "model_size", "n_opt", "n_params_nonembed"),
    "tokens": ("n_tokens", "num_tokens", "train_tokens", "d", "tokens_opt"),
    "flops": ("compute", "c", "training_flops"),
}


def read_runs(
    path: str | os.PathLike[str], columns: Mapping[str, str] | str | None = None, *, delimiter: str | None = None
) -> Observations:
    """Observations from a table with one row a run.

    Columns: loss, and at least one of params, tokens, flops; optional width, lr, batch_tokens, seed, series, idea,
    split (fit or predict), key, outcome. `columns` maps our names to the file's, as a mapping or as text:
    "params=n_params,loss=val_loss"; an empty name ("flops=") ignores that column. CSV (also .tsv, .gz), Parquet (needs
    pyarrow) and JSON lines are known by their ending. Raises InputError for anything that cannot be used.
    """
    file = Path(path)
    mapping = parse_columns(columns) if isinstance(columns, str) else dict(columns or {})
    _check_names(mapping)
    table = _table(file, delimiter)
    chosen = _choose(table, mapping, file)
    picked, dropped = _finished({name: table[column] for name, column in chosen.items()})
    arrays = {
        name: _column(name, chosen[name], values, picked, file) for name, values in picked.items() if name[0] != "#"
    }
    caveats = (f"{len(dropped)} rows of {file.name} did not finish and are left out.",) if dropped else ()
    return with_flops(Observations(**arrays, source=str(file), dropped=tuple(dropped), caveats=caveats))


def parse_columns(text: str) -> dict[str, str]:
    """'params=n_params,loss=val_loss' as a mapping from our names to the file's."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not sign for _, sign, _ in pairs):
        raise InputError(f'columns is {text!r}; write pairs OURS=THEIRS, as in "params=n_params,loss=val_loss".')
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _check_names(mapping: Mapping[str, str]) -> None:
    unknown = [name for name in mapping if name not in KNOWN]
    if unknown:
        raise InputError(
            f"columns names {', '.join(map(repr, unknown))}, which is not one of ours: {', '.join(KNOWN)}. Write "
            f'OURS=THEIRS, as in "params=n_params,loss=val_loss".'
        )


def _table(file: Path, delimiter: str | None) -> Table:
    if not file.exists():
        raise InputError(f"{file} does not exist; give the path of a CSV, Parquet or JSON lines table of runs.")
    if file.is_dir():
        raise InputError(f"{file} is a folder; give a table with one row a run.")
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".parquet":
        return _parquet(file)
    text = _text(file)
    if any(suffix in (".jsonl", ".ndjson", ".json") for suffix in suffixes[-2:]):
        return _json_lines(file, text)
    return _csv(file, text, delimiter or ("\t" if ".tsv" in suffixes else ","))


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"{file} is not text ({error}); give a CSV, Parquet or JSON lines table.") from None
    if "\0" in text:
        raise InputError(f"{file} is binary; give a CSV, Parquet (ending .parquet) or JSON lines table.")
    return text


def _csv(file: Path, text: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{file} row {reader.line_num} is not CSV ({error}).") from None
    if not rows or not any(cell.strip() for cell in rows[0][1]):
        raise InputError(f"{file} is empty; its first row must name the columns.")
    names = [cell.strip() for cell in rows[0][1]]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{file} has more than one column called {', '.join(map(repr, twice))}; rename or remove one.")
    body = [(number, row) for number, row in rows[1:] if any(cell.strip() for cell in row)]
    ragged = [str(number) for number, row in body if len(row) != len(names)]
    if ragged:
        raise InputError(
            f"{file} has {len(names)} columns, but another number of cells in row(s) {_some(ragged)}; "
            f"check for a missing or unquoted comma."
        )
    table: Table = {name: [row[i].strip() for _, row in body] for i, name in enumerate(names) if name}
    return table | {"#row": [number for number, _ in body]}


def _json_lines(file: Path, text: str) -> Table:
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            records.append((number, _record(file, number, line)))
    names = dict.fromkeys(name for _, record in records for name in record)
    table: Table = {name: [record.get(name, "") for _, record in records] for name in names}
    return table | {"#row": [number for number, _ in records]}


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{file} row {number} is not JSON ({error.msg}); write one object a line.") from None
    if not isinstance(record, dict):
        raise InputError(f"{file} row {number} holds a {type(record).__name__}; write one object a line.")
    return record


def _parquet(file: Path) -> Table:
    import pandas as pd

    try:
        frame = pd.read_parquet(file)
    except ImportError:
        raise InputError(f"Reading {file} needs pyarrow: `pip install pyarrow`, or save the table as CSV.") from None
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{file} is not a Parquet table ({error}).") from None
    table: Table = {str(name): frame[name].tolist() for name in frame.columns}
    return table | {"#row": list(range(1, len(frame) + 1))}


def _choose(table: Table, mapping: Mapping[str, str], file: Path) -> dict[str, str]:
    present = [name for name in table if name != "#row"]
    absent = {ours: theirs for ours, theirs in mapping.items() if theirs and theirs not in present}
    if absent:
        listed = ", ".join(repr(theirs) for theirs in absent.values())
        raise InputError(f"{file} has no column {listed}; its columns are {', '.join(present)}.")
    chosen = {name: mapping.get(name, name) for name in KNOWN}
    chosen = {ours: theirs for ours, theirs in chosen.items() if theirs in present}
    if "loss" not in chosen:
        raise InputError(f"{file} has no column `loss`; its columns are {', '.join(present)}. {_hint('loss', present)}")
    if not any(name in chosen for name in SIZE_COLUMNS):
        raise InputError(
            f"{file} has none of the columns params, tokens, flops, so no law can be fitted; its columns are "
            f"{', '.join(present)}. {_hint('params', present)}"
        )
    if not table["#row"]:
        raise InputError(f"{file} has column names but no rows; add one row a run.")
    return chosen | {"#row": "#row"}


def _hint(ours: str, present: list[str]) -> str:
    close = [
        name for name in present if name.lower() in _USUAL[ours] or (ours in name.lower() and name.lower() != ours)
    ]
    return f'Name it with --columns "{ours}={close[0] if close else "THEIR_NAME"}".'


def _finished(picked: Table) -> tuple[Table, list[str]]:
    """Without rows whose stated outcome is not `finished`, as a store's own table has them."""
    outcomes = picked.pop("outcome", None)
    if outcomes is None:
        return picked, []
    kept = [i for i, outcome in enumerate(outcomes) if str(outcome) in ("finished", "")]
    dropped = [f"row {picked['#row'][i]} {outcomes[i]}" for i in range(len(outcomes)) if i not in set(kept)]
    return {name: [values[i] for i in kept] for name, values in picked.items()}, dropped


def _column(ours: str, theirs: str, values: list[Any], picked: Table, file: Path) -> np.ndarray:
    if ours in TEXT_COLUMNS:
        texts = np.array(["" if _empty(value) else str(value) for value in values])
        return _checked_split(texts, picked, file) if ours == "split" else texts
    optional = _predicted(picked) if ours == "loss" else [ours in ("width", "lr", "batch_tokens")] * len(values)
    numbers, faults = [], []
    for value, row, may_lack in zip(values, picked["#row"], optional, strict=True):
        number, fault = _number(value, may_lack)
        numbers.append(number)
        faults += [(fault, row, value)] if fault else []
    if faults:
        raise InputError(_fault_message(file, ours, theirs, faults))
    return np.array(numbers, float)


def _checked_split(texts: np.ndarray, picked: Table, file: Path) -> np.ndarray:
    wrong = [str(row) for text, row in zip(texts, picked["#row"], strict=True) if text not in ("fit", "predict", "")]
    if wrong:
        raise InputError(
            f"{file} column split holds values other than `fit` and `predict` in row(s) {_some(wrong)}; `predict` rows "
            f"are targets that are never fitted. Correct them, or ignore the column with --columns split="
        )
    return texts


def _predicted(picked: Table) -> list[bool]:
    return [str(value) == "predict" for value in picked.get("split", [""] * len(picked["#row"]))]


def _empty(value: Any) -> bool:
    return (
        value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip().lower() in ("", "nan")
    )


def _number(value: Any, may_lack: bool) -> tuple[float, str]:
    if _empty(value):
        return math.nan, "" if may_lack else "empty or NaN"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan, "not a number"
    if not math.isfinite(number):
        return number, "infinite"
    return number, "" if number > 0 else "zero or negative"


def _fault_message(file: Path, ours: str, theirs: str, faults: list[tuple[str, Any, Any]]) -> str:
    kind = faults[0][0]
    rows = [str(row) for fault, row, _ in faults if fault == kind]
    named = f"column {theirs}" + (f" ({ours})" if theirs != ours else "")
    shown = "" if kind == "empty or NaN" else f" ({faults[0][2]!r})"
    remedy = "Correct or remove the row(s)" + (
        f', or ignore the column with --columns "{ours}="' if ours != "loss" else ""
    )
    return f"{file} {named} is {kind}{shown} in row(s) {_some(rows)}; every run needs a positive number. {remedy}."


def _some(rows: list[str]) -> str:
    return ", ".join(rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
