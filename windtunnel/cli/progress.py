"""How a long loop runs: in order or over processes, with a bar on standard error where a person watches.

A newcomer would collect results as they come; they are returned in the order of the items, so that no output depends on
how many processes there were.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
Found = TypeVar("Found")
FEW = 2  # so few items need no bar
ENOUGH = 24  # items from which starting processes pays (measured: a fit takes 0.1 to 1 s, two processes 0.1 s)
TOGETHER = 32  # items that are worked out as one: more save little (measured) and make the bar jump
MOST_WORKERS = 16  # each holds the program once, about 80 MB


def each(items: Sequence[Item], doing: str) -> Iterator[Item]:
    """The items, one by one, with a bar that vanishes at the end."""
    yield from _watched(items, len(items), doing)


def each_done(work: Callable[[Sequence[Item]], Sequence[Found]], items: Sequence[Item], doing: str) -> Iterator[Found]:
    """What `work` finds for every item, in order; over processes where there are many. `work` must be picklable.

    It is given some items at a time. When it is interrupted the processes end after what they are at, silently.
    """
    workers = min(cores(), MOST_WORKERS)
    some = min(TOGETHER, max(1, len(items) // (2 * workers)))
    parts = [items[start : start + some] for start in range(0, len(items), some)]
    if len(items) < ENOUGH or workers < 2:
        yield from _watched(chain.from_iterable(map(work, parts)), len(items), doing)
        return
    pool = ProcessPoolExecutor(workers, initializer=_leave_interrupts_to_the_parent)
    try:
        yield from _watched(chain.from_iterable(pool.map(work, parts)), len(items), doing)
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(items: Iterable[Item], count: int, doing: str) -> Iterator[Item]:
    if count <= FEW or not sys.stderr.isatty():
        yield from items
        return
    with bar(transient=True) as progress:
        yield from progress.track(items, total=count, description=doing)


def bar(*, transient: bool) -> Progress:
    """A bar on standard error, with how many of how many and the time that is left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=transient)
