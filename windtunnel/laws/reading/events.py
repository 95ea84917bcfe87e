"""TensorBoard event files: the last value of every scalar, and the hyperparameters, of one file.

The format is read directly (length-framed protobuf messages; field numbers from tensorboard/compat/proto and
plugins/hparams), because the `tensorboard` package costs 15 libraries and seconds to import for a few numbers. A file
whose writer was stopped ends in half a record: what comes before it counts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.laws.reading.tables import bytes_of

_FLOAT, _DOUBLE = 1, 2  # TensorProto.dtype
_STATES = {1: "finished", 2: "failed", 3: "running"}  # hparams Status: SUCCESS, FAILURE, RUNNING


@dataclass
class Events:
    """What an event file holds: tag to (step, value) of its last scalar, hyperparameters, and the state if stated."""

    scalars: dict[str, tuple[int, float]] = field(default_factory=dict)
    hparams: dict[str, Any] = field(default_factory=dict)
    state: str = ""


def read_events(file: Path) -> Events:
    """The scalars and hyperparameters of one event file; empty where there are none."""
    found = Events()
    for step, value in _values(bytes_of(file)):
        _take(found, step, value)
    return found


def read_series(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of one event file: tag to (step, value) in the order of writing."""
    series: dict[str, list[tuple[int, float]]] = {}
    for step, value in _values(bytes_of(file)):
        one = Events()
        _take(one, step, value)
        for tag, (_, number) in one.scalars.items():
            series.setdefault(tag, []).append((step, number))
    return series


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Step and Summary.Value message of each record."""
    for record in _records(data):
        step, summary = 0, b""
        for number, value in _fields(record):
            if number == 2 and isinstance(value, int):
                step = value
            elif number == 5 and isinstance(value, bytes):
                summary = value
        for number, value in _fields(summary):
            if number == 1 and isinstance(value, bytes):
                yield step, value


def _records(data: bytes) -> Iterator[bytes]:
    """TFRecord framing: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    place = 0
    while place + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        if place + 16 + length > len(data):
            return
        yield data[place + 12 : place + 12 + length]
        place += 16 + length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protobuf message; a damaged rest is left out."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 1:
            value, place = message[place : place + 8], place + 8
        elif kind == 5:
            value, place = message[place : place + 4], place + 4
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        else:
            return
        yield key >> 3, value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            break
    return value, place


def _take(found: Events, step: int, message: bytes) -> None:
    """One Summary.Value: tag 1, simple_value 2, tensor 8, metadata 9."""
    parts = dict(_fields(message))
    tag = _text(parts, 1)
    if tag.startswith("_hparams_/"):
        _hparams(found, _inner(parts, 9))
        return
    stated = _inner(parts, 2)
    number = struct.unpack("<f", stated)[0] if len(stated) == 4 else _scalar(_inner(parts, 8))
    if number is not None and step >= found.scalars.get(tag, (0, 0.0))[0]:
        found.scalars[tag] = (step, number)


def _inner(parts: dict[int, Any], number: int) -> bytes:
    """A field that holds bytes; none where it is absent or, in a damaged file, of another kind."""
    value = parts.get(number)
    return value if isinstance(value, bytes) else b""


def _text(parts: dict[int, Any], number: int) -> str:
    return _inner(parts, number).decode("utf-8", "replace")


def _scalar(tensor: bytes) -> float | None:
    """A tensor without axes: content 4, float_val 5, double_val 6; None for anything else."""
    parts = dict(_fields(tensor))
    kinds = {_FLOAT: ("<f", 4, 5), _DOUBLE: ("<d", 8, 6)}
    stated = parts.get(1, 0)
    kind = kinds.get(stated) if isinstance(stated, int) else None
    if kind is None or _inner(parts, 2):
        return None
    form, size, own = kind
    content = next((each for n in (4, own) if len(each := _inner(parts, n)) == size), None)
    return struct.unpack(form, content)[0] if content else None


def _hparams(found: Events, metadata: bytes) -> None:
    """metadata.plugin_data(1).content(2) is HParamsPluginData: session start 3 {map 1}, session end 4 {status 1}."""
    content = _inner(dict(_fields(_inner(dict(_fields(metadata)), 1))), 2)
    for number, session in _fields(content):
        if number == 3 and isinstance(session, bytes):
            entries = [dict(_fields(entry)) for n, entry in _fields(session) if n == 1 and isinstance(entry, bytes)]
            found.hparams |= {_text(e, 1): _value(_inner(e, 2)) for e in entries}
        elif number == 4 and isinstance(session, bytes):
            status = dict(_fields(session)).get(1, 0)
            found.state = _STATES.get(status, "") if isinstance(status, int) else ""


def _value(message: bytes) -> Any:
    """google.protobuf.Value: number 2, string 3, bool 4."""
    parts = dict(_fields(message))
    if len(_inner(parts, 2)) == 8:
        return struct.unpack("<d", _inner(parts, 2))[0]
    return _text(parts, 3) if 3 in parts else bool(parts.get(4, 0))
