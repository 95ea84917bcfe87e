"""What a file holds is data: bounded before it is allocated, parsed by formats without code, checked against its seal.

Records, checkpoints, forecasts and tables may come from strangers or from a failing disk. Every reader here ends in a
value of the promised shape or in an InputError that names the file. A newcomer would trust a parser with the sizes that
a file states; here what is stated must fit the bytes that are there. No pickle is read, from anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError

if TYPE_CHECKING:
    import numpy as np

RECORD_BYTES = 16 << 20  # JSON of a record, a forecast or a check: those of today take 2 to 200 kB (measured)
SOURCE_BYTES = 16 << 20  # text of one source file
CURVE_BYTES = 1 << 30  # a curve, packed or unpacked: 27 million steps of five columns
ARRAYS = 64  # arrays in one curve
_ZIP = (
    zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, RuntimeError, struct.error, zlib.error, lzma.LZMAError,
    SyntaxError, TypeError, OverflowError, MemoryError,
)  # fmt: skip
_SHAPE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


def json_of(data: bytes, named: str, remedy: str) -> dict[str, Any]:
    """The JSON object in these bytes. Raises InputError that begins with `named` and ends with `remedy`."""
    try:
        found = json.loads(data.decode("utf-8"))
        if b"\\ud" in data or b"\\uD" in data:  # half of a pair cannot be printed, nor put into a table
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (
        ValueError,
        RecursionError,
    ) as error:  # no UTF-8, no JSON, a million digits, nested for ever
        raise InputError(f"{named} is damaged ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise InputError(f"{named} is not a windtunnel record: it holds a {type(found).__name__}; {remedy}")
    return found


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON gives it back, with a `seal`: the SHA-256 of everything else in it."""
    plain = json.loads(json.dumps(dict(record)))
    return plain | {"seal": seal_of(plain)}


def seal_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record that came from JSON, its own seal left out; spaces and the order of names do not count."""
    rest = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256(data: bytes) -> str:
    """SHA-256 as text."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def shape_of(named: str, remedy: str) -> Iterator[None]:
    """Code that takes a stranger's data apart: what it stumbles over becomes an InputError. An InputError is named."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{named}: {error}") from None
    except _SHAPE_ERRORS as error:
        why = f"nothing called {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{named} does not have the shape of what it should hold ({why}); {remedy}") from None


def misfit(value: Any, shape: Any, at: str = "it") -> str | None:
    """Where a value from JSON differs from a shape, in words; None where it fits.

    A shape is a type or tuple of types (bool is not a number here), {name: shape} for an object that has at least these
    names, {str: shape} for one with any names, or [shape] for a list (or a tuple, in data that has not been a file).
    """
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            return f"{at} is {_short(value)}, not an object"
        if str in shape:
            each = shape[str]
            return next((f"{at}.{m}" for name, v in value.items() if (m := misfit(v, each, name)) is not None), None)
        for name, each in shape.items():
            if name not in value:
                return f"{at} lacks {', '.join(sorted(shape.keys() - value.keys()))}"
            wrong = misfit(value[name], each, name)
            if wrong is not None:
                return f"{at}.{wrong}"
        return None
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            return f"{at} is {_short(value)}, not a list"
        return next((m for i, v in enumerate(value) if (m := misfit(v, shape[0], f"{at}[{i}]")) is not None), None)
    if (type(value) is bool and shape is not bool) or not isinstance(value, shape):
        return f"{at} is {_short(value)}"
    huge = isinstance(value, int) and abs(value) >= 1 << 63  # no count of ours, and no float holds it
    return f"{at} is {_short(value)}" if huge else None


def arrays_of(data: bytes, named: str, remedy: str) -> dict[str, np.ndarray]:
    """Numeric arrays of an .npz whose stated sizes fit its bytes. Raises InputError; objects (pickles) are refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > ARRAYS or total > CURVE_BYTES:
                raise ValueError(f"{len(members)} arrays of {total:,} bytes; at most {ARRAYS} of {CURVE_BYTES:,}")
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}
    except _ZIP as error:
        raise InputError(f"{named} is damaged ({error}); {remedy}") from None


def _array(data: bytes) -> np.ndarray:
    """One .npy, by its header and the bytes that follow it: numpy's own reader allocates what the header claims."""
    import numpy as np

    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"a .npy of version {version}, which we never write")
    shape, turned, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}, not of numbers")
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array said to be of shape {shape}, in {len(data) - file.tell():,} bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell()).copy()
    return flat.reshape(shape, order="F" if turned else "C")


def check_tensors(data: bytes, most: int = 100_000) -> None:
    """Raise ValueError unless safetensors bytes have a header that fits them: tensors end to end, none overlapping."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError(f"a header said to be of {length:,} bytes, in {len(data):,}")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict) or len(header) > most:
        raise ValueError("no list of tensors, or far too long a one")
    places = sorted(tuple(t["data_offsets"]) for name, t in header.items() if name != "__metadata__")
    end = 0
    for first, last in places:
        if first != end or last < first:
            raise ValueError("tensors that overlap or leave a hole")
        end = last
    if end != len(data) - 8 - length:
        raise ValueError(f"tensors said to fill {end:,} bytes, where there are {len(data) - 8 - length:,}")


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a number of more than 63 bits"
    text = ascii(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."
