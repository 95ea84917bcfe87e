"""Runs and forecasts as Weights & Biases runs, offline unless told otherwise; `wandb sync` sends them later.

The W&B run's id is our key, so the same store mirrored twice is one run there. A newcomer would expect `has` to ask the
server: it looks for what this machine wrote, since offline there is none to ask.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb

from windtunnel.bridge.mirror import Page

DONE = "windtunnel-mirrored"  # a file in the folder of a W&B run that is whole


class ToWandB:
    """A tracker for `Mirror`: W&B's `project`, and the `folder` in which it makes its own folder `wandb`.

    `mode` is W&B's: "offline", or "online" for who is logged in.
    """

    def __init__(self, project: str, folder: str | os.PathLike[str] = ".", mode: str = "offline") -> None:
        self.project, self.folder, self.mode = project, Path(folder), mode

    def has(self, key: str) -> bool:
        """Whether this folder holds a whole W&B run of the key."""
        return any(self.folder.glob(f"wandb/*run-*-{key}/{DONE}"))

    def write(self, page: Page) -> None:
        """One W&B run: facts as its configuration, results in its summary, curves as its history."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mode: Any = self.mode
        run = wandb.init(
            project=self.project, id=page.key, name=page.name, job_type=page.kind, dir=str(self.folder), mode=mode,
            config=dict(page.facts), reinit="create_new", settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        for step, values in _by_step(page).items():
            run.log(values, step=step)
        run.summary.update(dict(page.results))
        place = Path(run.dir).parent
        run.finish()
        (place / DONE).write_text(page.key)


def _by_step(page: Page) -> dict[int, dict[str, float]]:
    """Rows in the order of their steps, as W&B wants them."""
    found: dict[int, dict[str, float]] = {}
    for name, (steps, values) in page.curves.items():
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            found.setdefault(int(step), {})[name] = value
    return dict(sorted(found.items()))
