"""Cells as numbers and text; all are checked before any arithmetic; one message names file, column, rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.observations import TEXT_COLUMNS
from windtunnel.laws.reading.exports import FINISHED, state_of
from windtunnel.laws.reading.tables import Table

MAY_LACK = ("width", "lr", "batch_tokens", "steps")  # may be empty in some rows: only some laws read them
LEAST = 1e-30  # smaller numbers are no loss and no size, and squaring them is zero
MOST = 1e60  # no loss, size or FLOPs is so large; squares and products of larger ones overflow
_SUFFIXED = re.compile(r"^\s*([\d.]+)\s*([kKmMbBgGtT])\s*$")  # 124M, 7B: how people write sizes
_GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?")  # in groups of three, as spreadsheets write them
_POINTED = re.compile(r"[1-9]\d{0,2}(\.\d{3}){2,}(,\d*)?")  # and as they do where a comma is the point
_COMMA = re.compile(r"\d+,\d+")
_EXPONENT = {"k": 3, "m": 6, "b": 9, "g": 9, "t": 12}


def finished(table: Table, chosen: dict[str, str]) -> tuple[Table, list[str]]:
    """Without rows whose stated outcome is not finished; what was dropped, with its reason."""
    if "outcome" not in chosen:
        return table, []
    outcomes = table.columns[chosen["outcome"]]
    kept = np.array([state_of(outcome) in FINISHED for outcome in outcomes], bool)
    dropped = [f"{table.noun} {table.rows[i]} {str(outcomes[i]).strip()}" for i in np.flatnonzero(~kept).tolist()]
    return (picked(table, np.flatnonzero(kept)), dropped) if dropped else (table, [])


def picked(table: Table, places: np.ndarray) -> Table:
    """Some rows of the table."""
    columns = {name: [values[i] for i in places.tolist()] for name, values in table.columns.items()}
    return replace(table, columns=columns, rows=[table.rows[i] for i in places.tolist()])


def columns_of(table: Table, chosen: dict[str, str], *, targets: bool = False) -> dict[str, np.ndarray]:
    """Our columns as arrays. In a table of `targets` any size, and the loss, may be empty."""
    texts = {ours: _texts(table.columns[theirs]) for ours, theirs in chosen.items() if ours in TEXT_COLUMNS}
    if "split" in texts:
        _check_split(table, texts["split"])
    foretold = texts["split"] == "predict" if "split" in texts else np.zeros(len(table.rows), bool)
    arrays: dict[str, np.ndarray] = dict(texts)
    for ours, theirs in chosen.items():
        if ours not in TEXT_COLUMNS and ours not in ("outcome", "epochs"):
            optional = np.full(len(table.rows), targets or ours in MAY_LACK)
            arrays[ours] = _numbers(table, ours, theirs, optional | foretold if ours == "loss" else optional)
    return arrays


def epochs_of(table: Table, theirs: str, above: float, *, targets: bool = False) -> np.ndarray | None:
    """Passes over the data, None where no run states more than so many; else all must, unless they are targets."""
    epochs, _ = _converted(table.columns[theirs])
    return _numbers(table, "epochs", theirs, np.full(len(table.rows), targets)) if np.any(epochs > above) else None


def _texts(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    return np.array(["" if _empty(value) else str(value).strip() for value in values], str)


def _check_split(table: Table, texts: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isin(texts, ("fit", "predict", "")))
    if len(wrong):
        raise InputError(
            f"{table.file} column split holds values other than `fit` and `predict` in {table.named(wrong)}; `predict` "
            f'rows are targets that are never fitted. Correct them, or ignore the column with --columns "split=".'
        )


def _numbers(table: Table, ours: str, theirs: str, optional: np.ndarray) -> np.ndarray:
    values = table.columns[theirs]
    numbers, wrong = _converted(values)
    empty = np.isnan(numbers) & ~wrong & ~optional
    faults = {
        "not a number": wrong,
        "empty or NaN": empty,
        "infinite": np.isinf(numbers),
        "zero or negative": numbers <= 0,
    }
    faults |= {f"below {LEAST:g}": (numbers > 0) & (numbers < LEAST)}
    faults |= {f"above {MOST:g}": np.isfinite(numbers) & (numbers > MOST)}
    if any(mask.any() for mask in faults.values()):
        raise InputError(_fault(table, ours, theirs, {kind: np.flatnonzero(mask) for kind, mask in faults.items()}))
    return numbers


def _converted(values: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, NaN where empty; and which cells are neither a number nor empty."""
    try:
        quick = np.array(values, float)
    except (TypeError, ValueError):
        quick = np.zeros((0, 0))
    if quick.ndim == 1:  # cells that are lists of equal length would make a matrix
        return quick, np.zeros(len(values), bool)
    numbers, wrong = np.full(len(values), np.nan), np.zeros(len(values), bool)
    for place, value in enumerate(values):
        if not _empty(value):
            try:
                numbers[place] = float(value)
            except (TypeError, ValueError):
                wrong[place] = True
    return numbers, wrong


def _empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value or value.isspace() or value.strip().lower() in ("nan", "null", "none", "n/a")
    return value is None or value != value


def _fault(table: Table, ours: str, theirs: str, faults: dict[str, np.ndarray]) -> str:
    kind = min((kind for kind in faults if len(faults[kind])), key=lambda kind: int(faults[kind][0]))
    places = faults[kind]
    value = table.columns[theirs][int(places[0])]
    named = f"column {theirs}" + (f" ({ours})" if theirs != ours else "")
    shown = "" if kind == "empty or NaN" else f" ({_shown(value)})"
    plainly = _plainly(table, ours, value.strip()) if isinstance(value, str) else ""
    written = f" Write {value.strip()} as {plainly}." if plainly else ""
    remedy = f"Correct or remove the {table.noun}(s)" + (
        f', or ignore the column with --columns "{ours}="' if ours not in ("loss", "params", "tokens") else ""
    )
    return (
        f"{table.file} {named} is {kind}{shown} in {table.named(places)}; every run needs a positive "
        f"number.{written} {remedy}."
    )


def _plainly(table: Table, ours: str, text: str) -> str:
    """A number that people write with a letter, in groups of three or with a comma for a point, written plainly."""
    suffixed = _SUFFIXED.match(text)
    if suffixed:
        return f"{suffixed[1]}e{_EXPONENT[suffixed[2].lower()]}"
    if _COMMA.fullmatch(text) and (ours in ("loss", "lr") or not _GROUPED.fullmatch(text) or _has_commas(table)):
        return text.replace(",", ".")
    if _GROUPED.fullmatch(text):
        return text.replace(",", "")
    return text.replace(".", "").replace(",", ".") if _POINTED.fullmatch(text) else ""


def _has_commas(table: Table) -> bool:
    """Whether some cell of the table can only be read with a comma for a point, as 2,75 and 0,001."""
    cells = (str(cell).strip() for cells in table.columns.values() for cell in cells)
    return any(_COMMA.fullmatch(cell) and not _GROUPED.fullmatch(cell) for cell in cells)


def _shown(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)[:60]
