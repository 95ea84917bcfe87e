"""One flat row a run, quickly: a cache of what run.json of each record says, outside the store.

Ten thousand records take seconds to parse and check; their rows in one file take a fraction of one. The cache lies in
`$WINDTUNNEL_CACHE` or `~/.cache/windtunnel`, never in the store, so looking writes nothing there; it may be deleted at
any time. A row is taken from it only while its record's run.json has the size, time and inode that it had.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from windtunnel.files import sha256
from windtunnel.places import Local, Place, default_cache
from windtunnel.records import read_record, row

WORTH = 200  # records that are read from their files without a thought of keeping their rows (guess)
FORMAT = 3


def rows(place: Place, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of these runs, in order. Raises InputError for a record that is damaged."""
    if not isinstance(place, Local) or len(keys) < WORTH:
        return [row(read_record(place, key)) for key in keys]
    file, runs = _file(place), str(place.path("runs"))
    known, found, new = _read(file), {}, 0
    for key in keys:
        stamp = _stamp(f"{runs}/{key}/run.json")
        there = known.get(key)
        if there is None or there[0] != stamp:
            there, new = [stamp, row(read_record(place, key))], new + 1
        found[key] = there
    if new > WORTH or len(known) > len(found) + WORTH:
        _write(file, found)
    return [found[key][1] for key in keys]


def _stamp(path: str) -> list[int] | None:
    with suppress(OSError):  # it is missing: reading it says so
        at = os.stat(path, follow_symlinks=False)
        return [at.st_mtime_ns, at.st_size, at.st_ino]
    return None


def _file(place: Local) -> Path:
    return default_cache() / "index" / f"{sha256(str(place.path().resolve()).encode())[:20]}.json"


def _read(file: Path) -> dict[str, Any]:
    """What the cache holds; nothing where it is absent, cut short, changed or of another version."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        mark, _, text = file.read_text("utf-8").partition("\n")
        if mark == _mark(text):
            return json.loads(text)
    return {}


def _write(file: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found)
    with suppress(OSError):  # a cache that cannot be written is none
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent)
        with open(descriptor, "w", encoding="utf-8") as out:
            out.write(f"{_mark(text)}\n{text}")
        os.replace(temporary, file)


def _mark(text: str) -> str:
    return f"windtunnel index {FORMAT} {sha256(text.encode())}"
