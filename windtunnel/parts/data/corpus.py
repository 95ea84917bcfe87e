"""Text files into documents: which files, where a long file is cut, which document is held out.

A document is the unit of the train/validation split. A newcomer would split the token stream at 95 %; that puts two
halves of one document on both sides, and a copied document too. Here identical documents are kept once, and a hash of
the content decides the side, so a document stays on its side when files are added or moved.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from windtunnel.errors import InputError

_LONG_FILE = 1 << 20  # a file above 1 MiB, or a lone one, is a collection: it is cut into documents
_DOCUMENT = 4096  # characters at which a document being put together is closed
_PIECE = 12288  # characters above which a paragraph is taken line by line; documents are thus roughly 4 to 16 kB
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})


class Source(Protocol):
    """Where documents come from: the same texts in the same order every time. `str` names it in messages."""

    def documents(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Files:
    """UTF-8 text files: files, folders (read recursively) and globs, as absolute paths."""

    patterns: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.patterns)

    def documents(self) -> Iterator[str]:
        """One document a file; a lone file, or one above 1 MiB, is cut at blank lines."""
        paths = matching(self.patterns)
        for path in paths:
            yield from _documents(path, alone=len(paths) == 1)


@dataclass(frozen=True)
class StandardLibrary:
    """The running Python's standard library source: about 12 MB of real text on every machine."""

    def __str__(self) -> str:
        return f"the standard library in {sysconfig.get_path('stdlib')}"

    def documents(self) -> Iterator[str]:
        """One document a module, without tests and installed packages."""
        for path in _walk(Path(sysconfig.get_path("stdlib")), leave_out=_NOT_LIBRARY):
            if path.suffix == ".py":
                yield from _documents(path, alone=False)


def matching(patterns: Iterable[str]) -> list[Path]:
    """Files that the patterns name, each once, ordered by path."""
    found: set[Path] = set()
    for pattern in patterns:
        files = list(_matching_one(pattern))
        if not files:
            raise InputError(
                f"No file matches {pattern}; give a file, a folder or a glob of UTF-8 text files, such as "
                f"'shards/*.txt'. Paths are relative to {os.getcwd()}."
            )
        found.update(files)
    return sorted(found)


def unique(documents: Iterable[str]) -> Iterator[tuple[bytes, str]]:
    """Digest and text of every document that is not blank, and of identical ones only the first."""
    seen: set[bytes] = set()
    for text in documents:
        digest = hashlib.sha256(text.encode()).digest()[:16]
        if digest not in seen and not text.isspace() and text:
            seen.add(digest)
            yield digest, text


def held_out(digest: bytes, share: float) -> bool:
    """Whether the document of this digest belongs to validation."""
    return int.from_bytes(digest[:8], "big") < share * 2**64


def cut(text: str) -> Iterator[str]:
    """A long text as documents of roughly 4 to 16 kB, cut at blank lines where it can be; joined, they are the text."""
    held: list[str] = []
    size = 0
    for piece in _pieces(text):
        held.append(piece)
        size += len(piece)
        if size >= _DOCUMENT:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs; lines where a paragraph is long; parts of a line where the line is long."""
    parts = re.split(r"(\n(?:[ \t\r]*\n)+)", text)  # paragraph, blank lines, paragraph, ...
    for paragraph in map("".join, zip_longest(parts[::2], parts[1::2], fillvalue="")):
        if 0 < len(paragraph) <= _PIECE:
            yield paragraph
            continue
        for line in re.findall(r"[^\n]*\n|[^\n]+\Z", paragraph):
            yield from (line[i : i + _PIECE] for i in range(0, len(line), _PIECE))


def _documents(path: Path, *, alone: bool) -> Iterator[str]:
    text = _read(path)
    yield from cut(text) if alone or len(text) > _LONG_FILE else (text,)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); make it readable, or leave it out.") from error
    if b"\0" in data:
        raise InputError(f"{path} is not text: it holds a NUL byte. Leave it out, or unpack it if it is compressed.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {data[error.start]:#04x} at {error.start}). Leave it out, or convert it, "
            f"for instance with `iconv -t UTF-8`."
        ) from None


def _matching_one(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    if path.is_dir():
        yield from _walk(path)
    elif path.is_file():
        yield path
    else:
        yield from (Path(name) for name in glob.iglob(pattern, recursive=True) if os.path.isfile(name))


def _walk(folder: Path, leave_out: frozenset[str] = frozenset({"__pycache__"})) -> Iterator[Path]:
    """Files below a folder, sorted; hidden ones and the folders named in `leave_out` are skipped."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in leave_out and not name.startswith("."))
        yield from (Path(here, name) for name in sorted(names) if not name.startswith("."))
