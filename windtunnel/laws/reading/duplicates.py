"""Duplicated runs: counted once and named; one key with two different results is refused.

A run counted twice looks like two seeds without noise, which makes every interval too narrow. Rows are duplicates when
all columns that are read agree, loss included: that two runs agree in every digit is rarer than that a row was copied.
"""

from __future__ import annotations

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.reading.cells import picked
from windtunnel.laws.reading.tables import Table


def once(table: Table, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Table, tuple[str, ...]]:
    """The columns and table with every run once, and caveats naming what is odd. Raises InputError for keys."""
    copies = _copies(arrays)
    caveats = []
    if len(copies):
        caveats.append(
            f"{len(copies)} duplicated run(s) are counted once: {table.named(copies)} repeat an earlier one."
        )
        kept = np.delete(np.arange(len(table.rows)), copies)
        arrays, table = {name: values[kept] for name, values in arrays.items()}, picked(table, kept)
    _check_keys(table, arrays)
    return arrays, table, (*caveats, *_twins(table, arrays))


def _twins(table: Table, arrays: dict[str, np.ndarray]) -> list[str]:
    """Runs that agree in every digit but are said to differ: by seed or key, or in being fitted or foretold."""
    found = []
    named = {"seed", "key"} & arrays.keys()
    same = _copies({name: values for name, values in arrays.items() if name not in named}) if named else []
    if same:
        found.append(
            f"{table.named(same)} agree with another run in every digit but its {' and '.join(sorted(named))}; if that "
            f"is so for all seeds, they have no effect and the noise between seeds is not seen."
        )
    if "split" in arrays:
        leaked = _copies({name: values for name, values in arrays.items() if name not in ("split", *named)})
        known = [i for i in leaked if i not in set(same) and np.isfinite(arrays["loss"][i])]
        if known:
            found.append(f"{table.named(known)} repeat a run across the split: one is fitted, the other foretold.")
    return found


def _copies(arrays: dict[str, np.ndarray]) -> list[int]:
    """Places of rows that agree in every column with an earlier one; NaN agrees with NaN."""
    _, which, counts = np.unique(np.nan_to_num(arrays["loss"], nan=-1.0), return_inverse=True, return_counts=True)
    places = np.flatnonzero(counts[which] > 1)  # only runs that share a loss can be copies: few, so the rest is quick
    columns = [values[places] for values in arrays.values()]
    plain = [np.nan_to_num(v, nan=-1.0).tolist() if v.dtype.kind == "f" else v.tolist() for v in columns]
    first: dict[tuple, int] = {}
    rows = zip(places.tolist(), zip(*plain, strict=True), strict=True)
    return [place for place, row in rows if first.setdefault(row, place) != place]


def _check_keys(table: Table, arrays: dict[str, np.ndarray]) -> None:
    if "key" not in arrays:
        return
    first: dict[str, int] = {}
    for place, key in enumerate(arrays["key"].tolist()):
        earlier = first.setdefault(key, place) if key else place
        if earlier != place:
            differing = [name for name, values in arrays.items() if not _same(values[earlier], values[place])]
            raise InputError(
                f"{table.file} has key {key!r} in {table.named([earlier, place])} with different "
                f"{', '.join(differing)}; a key names one run. Keep one of the rows, or ignore the keys with "
                f'--columns "key=".'
            )


def _same(one: np.generic, other: np.generic) -> bool:
    return bool(one == other or (one != one and other != other))
