"""Runs and forecasts as Aim runs, in an Aim repository on this machine; `aim up` is the page.

A newcomer would look whether a run of that key is there: one that was interrupted is there too, so a run that is whole
leaves a mark, and what an interrupted call left is removed before it is written again.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from windtunnel.bridge.mirror import Page

aim: Any = import_module("aim")  # an extra of its own, not in the tests' environment
MARKS = "windtunnel-mirrored"  # a folder beside Aim's own, with a file for every page
QUIET = {"system_tracking_interval": None, "log_system_params": False, "capture_terminal_logs": False}


class ToAim:
    """A tracker for `Mirror`: the Aim repository in `folder`, which is made where there is none."""

    def __init__(self, folder: str | os.PathLike[str], experiment: str = "windtunnel") -> None:
        self.experiment, self.repository = experiment, aim.Repo.from_path(str(folder), init=True)
        self.marks = Path(folder) / MARKS
        self.marks.mkdir(exist_ok=True)

    def has(self, key: str) -> bool:
        """Whether a whole run of the key was written there."""
        return (self.marks / key).exists()

    def write(self, page: Page) -> None:
        """One run: facts under "windtunnel", curves by step, results at the last step."""
        begun = self.marks / f"{page.key}.begun"
        if begun.exists():
            self.repository.delete_run(begun.read_text())
        run = aim.Run(repo=self.repository, experiment=self.experiment, **QUIET)
        begun.write_text(run.hash)
        run.name = page.name
        run["windtunnel"] = {"kind": page.kind, "key": page.key, **page.facts}
        for name, (steps, values) in page.curves.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                run.track(value, name=name, step=int(step))
        last = max((int(steps[-1]) for steps, _ in page.curves.values() if len(steps)), default=0)
        for name, value in page.results.items():
            run.track(value, name=name, step=last)
        run.close()
        begun.rename(self.marks / page.key)
