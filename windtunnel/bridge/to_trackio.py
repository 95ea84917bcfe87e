"""Runs and forecasts as Trackio runs, in its own SQLite files on this machine; `trackio show` is the page.

Where they lie is Trackio's own to say, by the environment variable TRACKIO_DIR before it is imported. A newcomer would
look whether a run of that name is there: one that was interrupted is there too, so a run that is whole leaves a mark.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

from windtunnel.bridge.mirror import Page

trackio: Any = import_module("trackio")  # an extra of its own, not in the tests' environment
DONE = "windtunnel-mirrored"  # a folder beside Trackio's files, with an empty file for every page that is whole


class ToTrackio:
    """A tracker for `Mirror`: Trackio's `project` on this machine."""

    def __init__(self, project: str = "windtunnel") -> None:
        self.project = project
        self.marks = Path(trackio.TRACKIO_DIR) / DONE / project

    def has(self, key: str) -> bool:
        """Whether this machine's project holds a whole run of the key."""
        return (self.marks / key).exists()

    def write(self, page: Page) -> None:
        """One run: facts as its configuration, curves by step, results at the last step."""
        name = f"{page.name} {page.key}"
        with redirect_stdout(StringIO()):  # it tells of every run how to look at it
            self._forget(name)
            run = trackio.init(
                project=self.project, name=name, config={**page.facts, "windtunnel_kind": page.kind, "key": page.key},
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
            for curve, (steps, values) in page.curves.items():
                for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                    run.log({curve: value}, step=int(step))
            last = max((int(steps[-1]) for steps, _ in page.curves.values() if len(steps)), default=0)
            run.log(dict(page.results), step=last)
            trackio.finish()
        self.marks.mkdir(parents=True, exist_ok=True)
        (self.marks / page.key).touch()

    def _forget(self, name: str) -> None:
        """Remove what an interrupted call left under this name."""
        if self.project in trackio.SQLiteStorage.get_projects():
            for run in trackio.Api().runs(self.project):
                if run.name == name:
                    run.delete()
