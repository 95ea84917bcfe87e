"""Follow a log while it grows: read again what has changed, and say when it was cut short or replaced.

The whole file is read again at each change (a log of a hundred thousand rows takes about a second): so a resumed run, a
rewritten export and a table that gained a column need no case of their own. A newcomer would take the half-written last
line for an error; it is left for the next look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.laws.reading.folders import EVENTS
from windtunnel.laws.reading.logs import STATE, Log, read_log

PATIENCE = 3  # looks for which a file that was good may be unreadable, as while an exporter writes it anew


@dataclass
class Tail:
    """A log in the making. `read` gives a new Log when there is one, else None; `said` collects what happened to it."""

    path: Path
    columns: Mapping[str, str] | str | None = None
    tokens_per_step: float | None = None
    said: list[str] = field(default_factory=list)
    _seen: tuple[tuple[str, int, int, int], ...] | None = None
    _unreadable: int = 0
    _last: Log | None = None

    def read(self, *, whole: bool = False) -> Log | None:
        """The log if it has changed since the last look; `whole` takes a last line without its end too.

        Raises InputError for what is no log, and for one that stays unreadable.
        """
        seen = _signature(self.path)
        if seen == self._seen and not whole:
            return None
        self._notice(seen)
        self._seen = seen
        try:
            log = read_log(self.path, self.columns, tokens_per_step=self.tokens_per_step, whole=whole)
        except InputError:
            self._unreadable += 1
            if self._last is None or self._unreadable >= PATIENCE or whole:
                raise
            self._seen = None  # look again, changed or not
            return None
        self._unreadable, self._last = 0, log
        return log

    def _notice(self, seen: tuple[tuple[str, int, int, int], ...]) -> None:
        before = {name: (node, size) for name, node, size, _ in self._seen or ()}
        now = {name: (node, size) for name, node, size, _ in seen}
        for name, (node, size) in before.items():
            if name.endswith(STATE):  # a Trainer writes it anew each time, and drops old checkpoints
                continue
            if name not in now:
                self.said.append(f"{name} is gone; reading what is left")
            elif now[name][1] < size:
                self.said.append(f"{name} was truncated ({size} to {now[name][1]} bytes); read again from its start")
            elif now[name][0] != node:
                self.said.append(f"{name} was replaced by another file of that name; read again from its start")


def _signature(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Name, inode, size and time of every file of the log."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if path.is_dir() and any(file.name == STATE for file in files):  # beside weights, which are no log
        files = [file for file in files if file.name == STATE or EVENTS in file.name]
    found = []
    for file in files:
        try:
            about = file.stat()
        except FileNotFoundError:
            continue
        found.append((str(file), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)
