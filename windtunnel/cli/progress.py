"""How a long loop runs: in order or over processes, with a bar on standard error where a person watches.

A newcomer would collect results as they come; they are returned in the order of the items, so that no output depends on
how many processes there were.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
FEW = 2  # so few items need no bar
ENOUGH = 24  # items from which starting processes pays (measured: a fit takes 0.1 to 1 s, two processes 0.1 s)
MOST_WORKERS = 16  # each holds the program once, about 80 MB


def each(items: Sequence[Item], doing: str) -> Iterator[Item]:
    """The items, one by one, with a bar that vanishes at the end."""
    yield from _watched(items, len(items), doing)


def each_done(work: Callable[[Item], Found], items: Sequence[Item], doing: str) -> Iterator[Found]:
    """`work` of every item, in order; over processes where there are many items. `work` must be picklable."""
    workers = min(_cores(), MOST_WORKERS)
    if len(items) < ENOUGH or workers < 2:
        yield from map(work, each(items, doing))
        return
    with ProcessPoolExecutor(workers) as pool:
        found = pool.map(work, items, chunksize=max(1, len(items) // (16 * workers)))
        yield from _watched(found, len(items), doing)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(items: Iterable[Item], count: int, doing: str) -> Iterator[Item]:
    if count <= FEW or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=count, description=doing)
