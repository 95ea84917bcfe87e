"""Tokens on disk: one memory-mapped file a side, named by what it holds, checked before use.

`<cache>/<key>/{train.bin, validation.bin, shards.json}`, where the key is a hash of documents, tokenizer and split. A
key has one content, so processes that build it at once write equal bytes and the later rename changes nothing.
shards.json, with counts and checksums, is written last; where it is missing or a checksum differs, the shards are built
again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.corpus import Source, held_out, unique

_FORMAT = 1
_SIDES = ("train", "validation")
_log = logging.getLogger("windtunnel.data")


class Tokenizer(Protocol):
    """Text to ids below `vocabulary`. `separator` follows every document and never comes out of `encode`.

    A frozen dataclass, so that it can be sent to a worker.
    """

    @property
    def vocabulary(self) -> int: ...
    @property
    def separator(self) -> int: ...
    def encode(self, text: str) -> Sequence[int] | np.ndarray: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Bytes:
    """One token a UTF-8 byte. The separator is byte 0: text that holds it is refused as binary."""

    vocabulary = 256
    separator = 0

    def encode(self, text: str) -> np.ndarray:
        """The bytes of a text."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def fingerprint(self) -> str:
        """Bytes are bytes."""
        return "utf-8 bytes, separator 0"


@dataclass(frozen=True)
class Shards:
    """Where the tokens of a corpus lie, how many there are and what they were made of."""

    key: str
    folder: str
    vocabulary: int
    dtype: str
    train_tokens: int
    validation_tokens: int
    train_documents: int
    validation_documents: int
    train_sha256: str
    validation_sha256: str

    def tokens(self, side: str) -> np.ndarray:
        """The memory-mapped ids of "train" or "validation", opened once a process."""
        return _mapped(os.path.join(self.folder, f"{side}.bin"), self.dtype)


@cache
def prepared(source: Source, tokenizer: Tokenizer, validation: float, home: str) -> Shards:
    """The shards of a source, from the cache `home` or built there.

    Reads the whole source, once a process, to know what it holds.
    """
    key = _key([digest for digest, _ in unique(source.documents())], tokenizer, validation)
    folder = Path(home) / key
    return stored(folder, key) or _build(folder, key, source, tokenizer, validation)


def forget() -> None:
    """Drop what this process knows of sources and open files, as after a source has changed on disk."""
    prepared.cache_clear()
    _mapped.cache_clear()


def stored(folder: Path, key: str) -> Shards | None:
    """The shards in a folder if they are whole; a damaged one is reported and given up."""
    try:
        shards = Shards(**json.loads((folder / "shards.json").read_text("utf-8")) | {"folder": str(folder)})
        sums = {f"{side}.bin": getattr(shards, f"{side}_sha256") for side in _SIDES}
        damaged = [name for name, known in sums.items() if _sha256(folder / name) != known]
        damaged += ["shards.json"] if shards.key != key else []
    except OSError:
        return None
    except (ValueError, TypeError):
        damaged = ["shards.json"]
    else:
        if not damaged:
            return shards
    _log.warning("The cached tokens in %s are damaged (%s); building them again.", folder, ", ".join(damaged))
    return None


def _key(digests: list[bytes], tokenizer: Tokenizer, validation: float) -> str:
    made_by = f"{_FORMAT} {tokenizer.fingerprint()} {validation!r}\n".encode()
    return hashlib.sha256(made_by + b"".join(digests)).hexdigest()[:20]


def _build(folder: Path, key: str, source: Source, tokenizer: Tokenizer, validation: float) -> Shards:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as temporary:
            digests, facts = _write_sides(Path(temporary), source, tokenizer, validation)
            if _key(digests, tokenizer, validation) != key:
                raise InputError(f"{source} changed while it was being read; run again once nothing writes to it.")
            shards = Shards(key=key, folder="", vocabulary=tokenizer.vocabulary, **facts)
            _write(Path(temporary, "shards.json"), json.dumps(asdict(shards), indent=1).encode())
            for name in (*(f"{side}.bin" for side in _SIDES), "shards.json"):
                os.replace(Path(temporary, name), folder / name)
        _flush(folder)
    except OSError as error:
        raise InputError(
            f"Cannot write the tokens of {source} to {folder} ({error}); set WINDTUNNEL_CACHE or cache=... to a folder "
            f"with enough room that you may write to."
        ) from error
    return replace(shards, folder=str(folder))


def _write_sides(
    folder: Path, source: Source, tokenizer: Tokenizer, validation: float
) -> tuple[list[bytes], dict[str, Any]]:
    """Write both sides; returns the documents' digests and what shards.json says of the sides."""
    dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
    tokens, documents, digests = dict.fromkeys(_SIDES, 0), dict.fromkeys(_SIDES, 0), []
    with ExitStack() as stack:
        files = {side: stack.enter_context(open(folder / f"{side}.bin", "wb")) for side in _SIDES}
        for digest, text in unique(source.documents()):
            side = "validation" if held_out(digest, validation) else "train"
            ids = _encoded(text, tokenizer, dtype)
            files[side].write(ids.tobytes())
            tokens[side] += len(ids)
            documents[side] += 1
            digests.append(digest)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    facts: dict[str, Any] = {"dtype": dtype.str}
    for side in _SIDES:
        facts |= {f"{side}_tokens": tokens[side], f"{side}_documents": documents[side]}
        facts[f"{side}_sha256"] = _sha256(folder / f"{side}.bin")
    return digests, facts


def _encoded(text: str, tokenizer: Tokenizer, dtype: np.dtype) -> np.ndarray:
    """A document's ids and the separator."""
    ids = np.asarray(tokenizer.encode(text), dtype=np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocabulary:
        raise InputError(
            f"{tokenizer!r} gave ids from {ids.min()} to {ids.max()} but states a vocabulary of "
            f"{tokenizer.vocabulary}; ids must lie in 0 to vocabulary - 1."
        )
    if (ids == tokenizer.separator).any():
        raise InputError(
            f"A document that begins {text[:60]!r} holds the separator, token {tokenizer.separator}, in its text; "
            f"remove it from the text (for bytes it is the NUL character)."
        )
    return np.append(ids, tokenizer.separator).astype(dtype)


@cache
def _mapped(path: str, dtype: str) -> np.ndarray:
    if os.path.getsize(path) == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
