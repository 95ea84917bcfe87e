"""Files of weights that others published, read as plain arrays by name: flax msgpack, safetensors, npz.

A file is a stranger's: its size is bounded before it is read, every shape it claims must fit the bytes that are there
before anything is allocated, and nothing in it is run. A newcomer would call `torch.load` or `pickle.load`, which run
code that the file brings along; a pickle is refused here, and the message says what to ask for instead. Names of a tree
are joined by a slash (`nn/~/w0`), as flax and haiku write them.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError, printable
from windtunnel.files import arrays_of, check_tensors, sha256

FILE_BYTES = 64 << 20  # VeLO, the largest of those published, takes 9.3 MB (2.32 million floats)
LEAVES = 1000  # names in one file; VeLO has 33
DEPTH = 16  # of a tree; Google's go four deep
_NDARRAY, _SCALAR = (
    1,
    3,
)  # flax/serialization.py: its msgpack extension types; 2 is a complex number, of which none here
_FLOATS = {"float32": "<f4", "float16": "<f2"}
_WHOLE = {"int32": "<i4", "int64": "<i8", "uint32": "<u4"}  # step counters beside the weights
_REMEDY = "get the file again from its publisher, and compare the SHA-256."


def read_bytes(path: str | Path, expected: str | None) -> tuple[bytes, str]:
    """The bytes of a file and their SHA-256. Raises InputError: not there, too large, a pickle, another hash."""
    named = printable(path)
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{named} cannot be read ({error.strerror}); give the path of a file of weights.") from None
    if len(data) > FILE_BYTES:
        raise InputError(f"{named} is larger than {FILE_BYTES:,} bytes; no published learned optimizer is.")
    _refuse_pickle(data, named)
    found = sha256(data)
    if expected is not None and expected.strip().lower() != found:
        raise InputError(f"{named} has SHA-256 {found}, and {printable(expected)} was asked for; {_REMEDY}")
    return data, found


def leaves_of(data: bytes, named: str) -> dict[str, np.ndarray]:
    """Arrays by slash-joined name in the bytes of an .npz or of a flax msgpack. Raises InputError."""
    if data[:2] == b"PK":
        return {name: _float32(array, name, named) for name, array in arrays_of(data, named, _REMEDY).items()}
    leaves: dict[str, np.ndarray] = {}
    _gather(_unpacked(data, named), "", leaves, named, 0)
    return leaves


def tensors_of(data: bytes, named: str) -> dict[str, np.ndarray]:
    """Arrays by name in the bytes of a safetensors file. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        check_tensors(data, LEAVES)
        found = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise InputError(f"{named} is no intact safetensors file ({printable(error)}); {_REMEDY}") from None
    narrow = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in found.items()}
    for name, kind in narrow.items():
        if kind not in ("float32", "float16", "bfloat16"):
            raise InputError(f"{named}: {printable(name)} holds {kind}; weights are float32, float16 or bfloat16.")
    return {name: tensor.float().numpy() for name, tensor in found.items()}


# inside


def _refuse_pickle(data: bytes, named: str) -> None:
    """InputError for what pickle or torch.save wrote."""
    pickled = len(data) > 1 and data[0] == 0x80 and 2 <= data[1] <= 5  # the PROTO opcode of every protocol since 2003
    if data[:2] == b"PK":
        try:
            pickled = any(n.endswith(".pkl") for n in zipfile.ZipFile(io.BytesIO(data)).namelist())
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
            pickled = False  # damaged; whoever reads it says so
    if pickled:
        raise InputError(
            f"{named} is a pickle (torch.save writes one too): reading it would run code that the file brings along, "
            f"so it is not opened. Ask its publisher for safetensors, or turn it into one yourself where you trust it: "
            f"safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)."
        )


def _unpacked(data: bytes, named: str) -> Any:
    """What a msgpack file holds; every length it states is bounded by the bytes that are there."""
    try:
        import msgpack
    except ImportError:
        raise InputError('Reading flax msgpack needs msgpack; pip install "windtunnel[learned]".') from None
    try:
        return msgpack.unpackb(data, ext_hook=_array, raw=False, strict_map_key=True)
    except InputError as error:
        raise InputError(f"{named}: {error}") from None
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError, msgpack.UnpackException) as error:
        raise InputError(f"{named} is no intact flax msgpack file ({printable(error)}); {_REMEDY}") from None


def _array(code: int, data: bytes) -> np.ndarray:
    """An array of flax's: (shape, name of its type, bytes row by row), packed once more."""
    import msgpack

    if code not in (_NDARRAY, _SCALAR):
        raise InputError(f"it holds a value of msgpack extension type {code}; flax writes arrays as 1 and 3.")
    parts = msgpack.unpackb(data, raw=True)
    if not isinstance(parts, list | tuple) or len(parts) != 3 or not all(isinstance(p, bytes) for p in parts[1:]):
        raise InputError("it holds an array that is not (shape, type, bytes).")
    shape, kind, raw = parts[0], parts[1].decode("ascii", "replace"), parts[2]
    if not isinstance(shape, list | tuple) or any(type(n) is not int or n < 0 for n in shape) or len(shape) > DEPTH:
        raise InputError(f"it holds an array whose shape is {printable(shape)[:80]}.")
    if kind == "bfloat16":
        raw, kind = _widened(raw), "float32"
    known = _FLOATS | _WHOLE
    if kind not in known:
        raise InputError(f"it holds an array of {printable(kind)[:40]}; weights are {', '.join(_FLOATS)} or bfloat16.")
    dtype = np.dtype(known[kind])
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise InputError(f"it holds an array said to be of shape {tuple(shape)} ({kind}), in {len(raw):,} bytes.")
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def _widened(raw: bytes) -> bytes:
    """bfloat16 as float32: the same bits, followed by zeros."""
    return (np.frombuffer(raw[: len(raw) // 2 * 2], "<u2").astype("<u4") << 16).tobytes()


def _gather(tree: Any, at: str, leaves: dict[str, np.ndarray], named: str, depth: int) -> None:
    """Arrays of a tree into `leaves`; whole numbers and text beside them (a step, an id) are left out."""
    if isinstance(tree, Mapping):
        if depth > DEPTH or len(tree) > LEAVES:
            raise InputError(f"{named} is nested deeper than {DEPTH} or has more than {LEAVES} names at one place.")
        for name, value in tree.items():
            _gather(value, f"{at}/{name}" if at else str(name), leaves, named, depth + 1)
    elif isinstance(tree, np.ndarray):
        if tree.dtype.kind == "f":
            if at in leaves or len(leaves) >= LEAVES:
                raise InputError(f"{named} holds {printable(at)} twice, or more than {LEAVES} arrays.")
            leaves[at] = _float32(tree, at, named)
    elif tree is not None and not isinstance(tree, str | int | float):
        raise InputError(f"{named}: {printable(at) or 'the file'} is a {type(tree).__name__}, where arrays belong.")


def _float32(array: np.ndarray, name: str, named: str) -> np.ndarray:
    """The same numbers in float32; a wider type would lose digits."""
    if array.dtype.kind != "f" or array.dtype.itemsize > 4:
        raise InputError(f"{named}: {printable(name)} holds {array.dtype}; give float32, as it was trained.")
    return np.ascontiguousarray(array, dtype=np.float32)
