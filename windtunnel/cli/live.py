"""What a person sees while a study runs: stage, how far, minutes left, loss of each member, forecast so far.

On a terminal a live display; elsewhere (logs, CI) one plain line now and then. Both go to standard error, so that
standard output holds the answer alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from windtunnel.errors import printable
from windtunnel.ladder import compact

PLAIN_SECONDS = 15.0
MEMBERS = 8  # packs that a line of a log names


class Follow:
    """How far a stage is, counted in FLOPs: what both displays show.

    A pack that cannot be batched, or does not fit, is trained in parts, which report under keys of their own: they are
    counted as so much of the pack that was announced.
    """

    def __init__(self) -> None:
        self.name = ""
        self.begin([])

    def begin(self, packs: Sequence[Any]) -> None:
        """A stage starts."""
        self.started = time.monotonic()
        self.packs = {pack.key: pack for pack in packs}
        self.cost = {pack.key: pack.training_flops() for pack in packs}
        self.pack_of = {spec.key: pack.key for pack in packs for spec in pack.specs}
        self.members_of = {pack.key: [spec.key for spec in pack.specs] for pack in packs}  # of packs and of their parts
        self.done: dict[str, float] = {}  # share of each run
        self.recorded: set[str] = set()
        self.latest: dict[str, Any] = {}

    def progress(self, progress: Any) -> None:
        """A pack advanced, or a part of one, which is known by its members once it starts."""
        members = self.members_of.get(progress.pack) or list(progress.losses)
        key = self.pack_of.get(members[0]) if members else None
        if key is None or key in self.recorded:
            return
        self.members_of[progress.pack], self.latest[key] = members, progress
        self.done |= dict.fromkeys(members, progress.step / progress.steps)

    def finished(self, pack: Any) -> None:
        """A pack is recorded."""
        self.latest.pop(pack.key, None)
        self.recorded.add(pack.key)
        self.done |= dict.fromkeys(self.members_of.get(pack.key, ()), 1.0)

    def _done(self, key: str) -> float:
        """Share of a pack."""
        return sum(self.done.get(run, 0.0) for run in self.members_of[key]) / len(self.members_of[key])

    @property
    def share(self) -> float:
        """Share of the stage's FLOPs that is done."""
        total = sum(self.cost.values())
        return sum(cost * self._done(key) for key, cost in self.cost.items()) / total if total else 0.0

    @property
    def minutes_left(self) -> float | None:
        """Minutes left at the speed so far; None before there is a speed."""
        elapsed = time.monotonic() - self.started
        return elapsed * (1 - self.share) / self.share / 60 if self.share > 0.01 and elapsed > 2 else None

    def head(self) -> str:
        """One line: stage, share, minutes left."""
        left = "" if self.minutes_left is None else f", about {self.minutes_left:.1f} min left"
        share = f"{100 * self.share:.0f} % of {compact(sum(self.cost.values()))}FLOPs"
        return f"{self.name}: {share}, {len(self.recorded)} of {len(self.packs)} packs{left}"

    def members(self) -> list[str]:
        """A line for each pack in flight, with the loss of each member."""
        lines = []
        for key, progress in self.latest.items():
            pack = self.packs[key]
            idea = pack.labels[0]["idea"] if pack.labels else ""
            losses = " ".join(f"{loss:.3f}" for loss in progress.losses.values())
            lines.append(f"  {idea} {pack.rung}: step {progress.step}/{progress.steps}, loss {losses}")
        return lines


class Plain:
    """Lines for logs: sentences at once, progress every 15 seconds."""

    def __init__(self) -> None:
        self.follow, self.last = Follow(), 0.0

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *error: object) -> None: ...

    def stage(self, name: str, packs: Sequence[Any]) -> None:
        self.follow.name = name
        self.follow.begin(packs)
        runs = sum(len(pack.specs) for pack in packs)
        self.say(f"{name}: {runs} runs in {len(packs)} pack(s), {compact(sum(self.follow.cost.values()))}FLOPs")

    def progress(self, progress: Any) -> None:
        self.follow.progress(progress)
        if time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            members = [line.strip() for line in self.follow.members()]
            more = [f"and {len(members) - MEMBERS} more packs"] if len(members) > MEMBERS else []
            self.say("; ".join([self.follow.head(), *members[:MEMBERS], *more]))

    def finished(self, pack: Any) -> None:
        self.follow.finished(pack)

    def say(self, sentence: str) -> None:
        print(printable(sentence), file=sys.stderr, flush=True)


class Live:
    """A display that redraws itself at the bottom of the terminal."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.follow = Follow()
        self.console = console or Console(stderr=True, highlight=False)
        self.live = RichLive(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._draw)

    def __enter__(self) -> Live:
        self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)

    def stage(self, name: str, packs: Sequence[Any]) -> None:
        self.follow.name = name
        self.follow.begin(packs)
        self.say(f"{name}: {sum(len(p.specs) for p in packs)} runs in {len(packs)} pack(s)")

    def progress(self, progress: Any) -> None:
        self.follow.progress(progress)

    def finished(self, pack: Any) -> None:
        self.follow.finished(pack)

    def say(self, sentence: str) -> None:
        self.console.print(printable(sentence), markup=False)

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self.follow.packs:
            return Text("")
        most = max(1, self.console.height - 6)  # what is taller than the terminal cannot be redrawn
        members = self.follow.members()
        more = [f"  and {len(members) - most} more packs"] if len(members) > most else []
        lines = [Text(printable(line), overflow="ellipsis", no_wrap=True) for line in [*members[:most], *more]]
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=1.0, completed=self.follow.share, width=min(60, self.console.width)))
        return Group(Text(printable(self.follow.head())), bar, *lines)
