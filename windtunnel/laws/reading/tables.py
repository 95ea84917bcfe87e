"""Table: columns by the file's own names, with the row numbers that a message may name; read from CSV or Parquet.

Cells stay as they were written; what they mean is decided in `cells.py`. Row numbers are those a text editor or
spreadsheet shows (the header is row 1), also where a quoted cell spans lines.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.places import check_size

LOOKED_AT = 20  # rows that tell the delimiter
TABLE_BYTES = 1 << 30  # of a table, packed or unpacked; ten million rows of ten columns (chosen)


@dataclass(frozen=True, eq=False)
class Table:
    """Equally long columns. `rows` holds what a message calls each row: a number, or for a folder the run's name.

    `known` maps our names to the file's where an exporter's format leaves no doubt; `caveats` are remarks on the data.
    """

    file: Path
    columns: Mapping[str, Sequence[Any] | np.ndarray]
    rows: Sequence[Any]
    known: Mapping[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    noun: str = "row"

    def named(self, places: Sequence[int] | np.ndarray) -> str:
        """The first few of these rows, as a message lists them."""
        shown = ", ".join(dict.fromkeys(str(self.rows[int(place)]) for place in places[:5]))
        return f"{self.noun}(s) {shown}" + (f" and {len(places) - 5} more" if len(places) > 5 else "")


def bytes_of(file: Path) -> bytes:
    """The bytes of a file. Raises InputError for one that is no table's size, is no plain file, or cannot be read."""
    try:
        if not file.is_file():
            raise InputError(f"{file} is not a plain file; give a table.")
        check_size(str(file), file.stat().st_size, TABLE_BYTES)
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def text_of(file: Path, *, lenient: bool = False) -> str:
    """The text of a file, gzipped or not. Raises InputError for anything else.

    `lenient` is for a file that is being written: a last character cut in two and blocks of NUL that a crash left are
    dropped.
    """
    data = bytes_of(file)
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(TABLE_BYTES + 1)
            check_size(f"{file}, unpacked,", len(data), TABLE_BYTES)
        if lenient:
            return codecs.getincrementaldecoder("utf-8-sig")().decode(data.replace(b"\0", b""))
        text = data.decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} is not text ({error}); give a CSV, Parquet or JSON lines table.") from None
    if "\0" in text:
        raise InputError(f"{file} is binary; give a CSV, Parquet (ending .parquet) or JSON lines table.")
    return text


def read_csv(file: Path, text: str, delimiter: str | None) -> Table:
    """A table with a header; of comma, tab and semicolon the delimiter is the one that splits it into most columns."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter or _delimiter(file, text))
    try:
        numbered = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{file} row {reader.line_num} is not CSV ({error}).") from None
    if not numbered or not any(cell.strip() for cell in numbered[0][1]):
        raise InputError(f"{file} is empty; its first row must name the columns.")
    names = _names(file, numbered[0][1])
    body = [(number, row) for number, row in numbered[1:] if row and any(cell and not cell.isspace() for cell in row)]
    ragged = [str(number) for number, row in body if len(row) != len(names)]
    if ragged:
        more = f" and {len(ragged) - 5} more" if len(ragged) > 5 else ""
        raise InputError(
            f"{file} has {len(names)} columns, but another number of cells in row(s) {', '.join(ragged[:5])}{more}; "
            f"check for a missing or unquoted comma."
        )
    columns = list(zip(*(row for _, row in body), strict=True)) or [()] * len(names)
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    return Table(file, named, [number for number, _ in body])


def _names(file: Path, header: list[str]) -> list[str]:
    names = [cell.strip() for cell in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{file} has more than one column called {', '.join(map(repr, twice))}; rename or remove one.")
    return names


def _delimiter(file: Path, text: str) -> str:
    if ".tsv" in [suffix.lower() for suffix in file.suffixes]:
        return "\t"
    header = text[: text.find("\n")] if "\n" in text else text
    marks = [mark for mark in ",\t;" if mark in header] or [","]
    return max(marks, key=lambda mark: _columns(text, mark)) if len(marks) > 1 else marks[0]


def _columns(text: str, mark: str) -> int:
    """How many cells a delimiter makes of the header and of each of the first rows, 0 where they differ."""
    try:
        rows = islice(csv.reader(io.StringIO(text), delimiter=mark), LOOKED_AT)
        lengths = {len(row) for row in rows if any(cell and not cell.isspace() for cell in row)}
    except csv.Error:
        return 0
    return lengths.pop() if len(lengths) == 1 else 0


def read_parquet(file: Path) -> Table:
    """A Parquet table; rows are counted from 1."""
    import pandas as pd

    try:
        import pyarrow.parquet as parquet

        data = io.BytesIO(bytes_of(file))
        facts = parquet.ParquetFile(data).metadata
        check_size(f"{file}, unpacked,", 8 * facts.num_rows * facts.num_columns, TABLE_BYTES)
        frame = pd.read_parquet(data)
    except ImportError:
        raise InputError(f"Reading {file} needs pyarrow: `pip install pyarrow`, or save the table as CSV.") from None
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:  # pyarrow's ArrowInvalid is one
        raise InputError(f"{file} is not a Parquet table ({error}).") from None
    named = {str(name): _plain(frame[name].to_numpy()) for name in frame.columns}
    return Table(file, named, range(1, len(frame) + 1))


def of_columns(source: Any) -> Table:
    """A table in memory: a DataFrame, or a mapping of names to equally long columns. Rows are called by their index."""
    name, named = type(source).__name__, {}
    for key in list(getattr(source, "columns", source)):
        try:
            values = np.asarray(source[key])
        except ValueError:  # ragged
            values = np.zeros(())
        if values.ndim != 1:
            raise InputError(
                f"{str(key)!r} of the {name} is no single column of numbers or texts; give a list or an array."
            )
        if values.dtype.kind == "O" and hasattr(source[key], "to_numpy"):
            values = np.array([None if str(value) == "<NA>" else value for value in values], object)
        if str(key) in named:
            raise InputError(f"The {name} has more than one column called {str(key)!r}; rename or remove one.")
        named[str(key)] = _plain(values)
    lengths = {key: len(values) for key, values in named.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"The columns of the {name} are not equally long: {lengths}.")
    return Table(Path(name), named, list(getattr(source, "index", range(max(lengths.values(), default=0)))))


def _plain(values: np.ndarray) -> np.ndarray | list[Any]:
    return values if values.dtype.kind in "iuf" else values.tolist()
