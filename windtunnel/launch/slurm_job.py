"""What submitit runs on a node of a SLURM cluster: one pack, checkpointed and requeued when the node is wanted back.

SLURM says so by a signal, and submitit then asks the job's `checkpoint` from inside the signal's handler, which may
interrupt the main thread in the middle of anything. So the pack trains in a thread of its own and the main thread only
waits: the handler tells the thread to stop after its step, and waits for the checkpoint. How the job ended is written
as JSON, for what is read from a store is never a pickle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

# After a SIGTERM that nothing follows, a pack goes on training: SLURM kills within KillWait (30 s) or a GraceTime.
SPARED_SECONDS = 120.0


class Job:
    """One errand. A class and not a function because submitit looks for `checkpoint`."""

    def __init__(self, path: list[str], sent: dict[str, Any], answer: str) -> None:
        self.path, self.sent, self.answer = path, sent, answer

    def __call__(self) -> None:
        """Train until the pack is recorded or cannot be; the answer of `perform` goes to the answer's file."""
        sys.path[:0] = [place for place in self.path if place not in sys.path]
        training = _Training(self.sent)
        signal.signal(signal.SIGTERM, lambda number, frame: training.leave())
        answer = training.answered()
        while "stopped" in answer:  # by SIGTERM alone: SLURM kills and requeues; if it does not, go on
            time.sleep(SPARED_SECONDS)
            training = _Training(self.sent)
            answer = training.answered()
        _write(Path(self.answer), answer)

    def checkpoint(self) -> Any:
        """Called by submitit when the node is wanted back: the same job again, once the pack is checkpointed."""
        from submitit.helpers import DelayedSubmission

        if _Training.now is not None:
            _Training.now.leave()
            _Training.now.answered()
        return DelayedSubmission(self)


class _Training:
    """An errand performed by a thread that can be told to stop after its step."""

    now: _Training | None = None

    def __init__(self, sent: dict[str, Any]) -> None:
        self.asked, self.answers = threading.Event(), list[dict[str, Any]]()
        self.thread = threading.Thread(target=self._perform, args=(sent,), daemon=True)
        _Training.now = self
        self.thread.start()

    def leave(self) -> None:
        self.asked.set()

    def answered(self) -> dict[str, Any]:
        while self.thread.is_alive():
            self.thread.join(0.2)  # short, so that the main thread gets to its signals
        return self.answers[0]

    def _perform(self, sent: dict[str, Any]) -> None:
        from windtunnel.launch.errand import perform

        self.answers.append(perform(sent, stop=self.asked.is_set))


def _write(path: Path, answer: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(answer), "utf-8")
    os.replace(temporary, path)
