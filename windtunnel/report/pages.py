"""Pages of a store that grows: built when something changed and somebody looks, by one thread, kept as bytes.

A newcomer would build a page for each request: fifty readers would then take the cores from the study that they watch.
A request only takes what is there, and how soon the thread does something again is bounded by what the last thing took:
so its share of a core is the same for one study and for fifty. Readers are told when a page can be another one, and do
not ask before.
"""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from windtunnel.errors import InputError
from windtunnel.report.page import listing, render, utf8, waiting
from windtunnel.store import Store

LOOK_SECONDS = 1.0  # between two looks at the store (chosen)
ASK_SECONDS = 3.0  # between two looks of a reader, at least (chosen)
SHARE = 0.01  # of one core, at most, goes into looking and building, but for a page's first (chosen)
WATCHED_SECONDS = 30.0  # a page whose readers are so late is not built again (chosen)


@dataclass(frozen=True)
class Source:
    """A study to be shown: `data` gives its page's plain data as of now, and is called by one thread only."""

    name: str
    data: Callable[[], Mapping[str, Any]]

    @property
    def id(self) -> str:
        """Its place in an address: a hash, for a name may hold anything."""
        return hashlib.sha256(self.name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Page:
    """A built page: its HTML, as it is and compressed, and the tag by which a browser knows it."""

    text: bytes
    small: bytes
    tag: str


@dataclass
class _Shown:
    """What is known of one source: its last page, of which state of the store, when, and until when it is watched."""

    source: Source
    page: Page
    state: str = ""
    until: float = 0.0
    built: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Pages:
    """The pages of the studies that `sources` gives, and the list of them; of two of one name the first is shown.

    `start` begins the thread that keeps them fresh.
    """

    def __init__(
        self,
        store: Store,
        sources: Callable[[], Sequence[Source]],
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.process_time,  # what is rationed; on a busy machine time passes unspent
    ) -> None:
        self.store, self.sources, self.clock, self.spent = store, sources, clock, spent
        self.shown: dict[str, _Shown] = {}
        self._stop, self._next, self._said = threading.Event(), 0.0, ""
        self._look_for_studies(state_of(store))

    def index(self) -> Page:
        """The list of studies."""
        return self._list

    def page(self, id: str) -> Page | None:
        """The page of a study as last built, None for an id that is none; asking keeps it fresh."""
        shown = self.shown.get(id)
        if shown is None:
            return None
        shown.until = self.clock() + self.again(id) + WATCHED_SECONDS
        return shown.page

    def again(self, id: str = "") -> float:
        """Seconds after which this page, or the list, can be another one."""
        shown = self.shown.get(id)
        if shown is not None and not shown.state:
            return ASK_SECONDS  # its first is not rationed
        return max(ASK_SECONDS, self._next - self.clock() + LOOK_SECONDS)

    def record(self, key: str) -> dict[str, Any] | None:
        """What a run's record says, None for a key that is none."""
        return self.store.get(key, later=True).to_json() if key in self.store else None

    def refresh(self) -> int:
        """Build what is looked at and has no page yet, else the oldest page that changed; how many were built."""
        waiting = [shown for shown in self._watched() if not shown.state]
        if not waiting and self.clock() < self._next:
            return 0
        started = self.spent()
        try:
            due = self._refreshed(waiting)
        finally:
            self._next = self.clock() + (self.spent() - started) / SHARE
        return len(due)

    def _refreshed(self, waiting: list[_Shown]) -> list[_Shown]:
        """Those whose page was built."""
        state = state_of(self.store)
        if state != self._state:
            self._look_for_studies(state)
        changed = [shown for shown in self._watched() if shown.state != state]
        due = waiting or sorted(changed, key=lambda shown: shown.built)[:1]
        for shown in due:
            self._build(shown, state)
        if due:
            self._list = self._listed()
        return due

    def _watched(self) -> list[_Shown]:
        return [shown for shown in self.shown.values() if self.clock() < shown.until]

    def start(self) -> None:
        """Refresh again and again in a thread that ends with `stop` or with the program."""
        threading.Thread(target=self._keep_fresh, daemon=True, name="windtunnel pages").start()

    def stop(self) -> None:
        """End that thread."""
        self._stop.set()

    def _keep_fresh(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with suppress(InputError):  # the store may lie on a mount that is away for a while
                self.refresh()

    def _look_for_studies(self, state: str) -> None:
        try:
            sources = self.sources()
        except InputError as error:  # a damaged record: what is known stays, and the list says what is wrong
            self._said, sources = str(error), ()
        else:
            self._said = ""
        for source in sources:
            if source.id not in self.shown:
                self.shown |= {source.id: _Shown(source, _page(waiting(source.name)))}
        self._list, self._state = self._listed(), state

    def _build(self, shown: _Shown, state: str) -> None:
        try:
            data = shown.source.data()
            shown.page = _page(render(data, live=True, records="../runs/"))
            shown.facts = {"runs": len(data.get("runs") or []), "answer": (data.get("answer") or [""])[0]}
        except InputError as error:  # a damaged record is said in the page, and a later state may be sound
            shown.page = _page(waiting(shown.source.name, str(error)))
        shown.state, shown.built = state, self.clock()

    def _listed(self) -> Page:
        rows = [{"name": s.source.name, "id": i} | s.facts for i, s in self.shown.items()]
        return _page(listing(self.store.where, rows, self._said))


def state_of(store: Store) -> str:
    """A hash that changes when a run, forecast or check is recorded, or a checkpoint written."""
    place = store.place
    names = [place.names(folder) for folder in ("runs", "forecasts", "checks")]
    flights = [(pack, place.names(f"packs/{pack}")) for pack in _folders(place)]
    return hashlib.sha256(repr((names, flights)).encode("utf-8", "surrogatepass")).hexdigest()


def _folders(place: Any) -> list[str]:
    return [name for name in place.names("packs") if len(name) >= 8 and set(name) <= set("0123456789abcdef")]


def _page(text: str) -> Page:
    whole = utf8(text)
    return Page(whole, gzip.compress(whole, 5, mtime=0), f'"{hashlib.sha256(whole).hexdigest()[:20]}"')
