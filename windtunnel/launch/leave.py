"""SIGTERM: the machine is wanted back. What is in flight is checkpointed, then the process leaves; nothing is lost.

A signal arrives between any two lines of Python, in the middle of a step as well, so a handler must not save anything
itself: it only remembers, and the training loop asks after each step. A newcomer would expect ctrl-C to do the same;
that stays immediate, and costs at most the seconds since the last checkpoint.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from windtunnel.errors import Stopped

# What SLURM and container systems grant between SIGTERM and SIGKILL (their default); a step and a save take far less.
GRACE_SECONDS = 30.0


@contextmanager
def asked_to_leave() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM only makes the given function say True. In a thread other than the main one it never does."""
    asked: list[int] = []
    with _on_sigterm(lambda number, frame: asked.append(number)):
        yield lambda: bool(asked)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Stopped wherever the main thread is, as ctrl-C raises KeyboardInterrupt."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the leaving
        raise Stopped

    with _on_sigterm(leave):
        yield


@contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
