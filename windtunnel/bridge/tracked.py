"""Rows of a tracker as Observations: read as the tracker's own export is, and spoken of by the tracker's own names.

A tracker holds more than runs to fit, our own mirrored forecasts for one: what has no loss is left out and logged, and
is no caveat of those that stay, whose keys would change with every run that comes. A newcomer would let an error name
the file that the rows pass through; nobody can look into that.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import InputError
from windtunnel.laws.observations import Observations
from windtunnel.laws.reading import read_runs
from windtunnel.laws.reading.choosing import as_mapping, find
from windtunnel.laws.reading.exports import load

log = logging.getLogger("windtunnel")
SHOWN = 5  # runs that a message names


def observed(
    rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str] | str | None, *, where: str, export: str
) -> Observations:
    """The finished runs of a tracker's rows, by run id. `where` is what messages call the tracker, `export` the name of
    the file that its own export would have. Raises InputError."""
    with tempfile.TemporaryDirectory() as folder:
        file, kept = Path(folder) / export, list(rows)
        try:
            _write(file, rows.values())
            loss = find(load(file), as_mapping(columns), ("loss",)).get("loss")
            if loss is not None:
                lost = [key for key, row in rows.items() if not _stated(row.get(loss))]
                _say_left_out(lost, len(rows), loss, where)
                kept = [key for key in rows if key not in set(lost)]
                _write(file, [rows[key] for key in kept])
            return read_runs(file, columns)
        except InputError as error:
            raise InputError(_by_run(str(error).replace(str(file), where), kept)) from None


def _write(file: Path, rows: Any) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _stated(value: Any) -> bool:
    return value is not None and value != "" and value == value


def _say_left_out(lost: Sequence[str], count: int, loss: str, where: str) -> None:
    """Raises InputError where no run is left."""
    if len(lost) == count:
        raise InputError(f'None of the {count} runs of {where} has a {loss}; name another as in columns="loss=NAME".')
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        named = f"{', '.join(lost[:SHOWN])}{more}"
        log.warning("%d of %d runs of %s have no %s and are left out: %s", len(lost), count, where, loss, named)


def _by_run(said: str, keys: Sequence[str]) -> str:
    """A message with the ids of runs in place of the numbers of their rows, which begin at 1."""

    def named(rows: re.Match[str]) -> str:
        return "run(s) " + ", ".join(keys[int(number) - 1] for number in rows[1].split(", "))

    return re.sub(r"row\(s\) (\d+(?:, \d+)*)", named, said).replace("the row(s)", "the run(s)")
