"""When a pack in flight is written down, from where it goes on, and what is to be said about either.

A checkpoint is insurance: it may cost a fiftieth of the time, so the interval follows from what the last one took, and
one that cannot be written (a full disk) is said and never ends the training. A newcomer would raise; the runs would be
lost with the insurance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from windtunnel.errors import InputError
from windtunnel.places import Place, unwritable
from windtunnel.train import checkpoint
from windtunnel.train.state import State, from_checkpoint, to_checkpoint

SHARE = 0.02  # of the time goes into checkpoints, at most, between the two bounds (chosen)
LEAST_SECONDS = 5.0  # below this a pack is sooner trained again than its file system is bothered (guess)
MOST_SECONDS = 600.0  # what a death may cost, however slow the disk (guess)


def interval_for(write_seconds: float) -> float:
    """Seconds from one checkpoint to the next when writing one takes `write_seconds`."""
    return min(MOST_SECONDS, max(LEAST_SECONDS, write_seconds / SHARE))


class Saving:
    """The checkpoints of one pack. `folder` None: none; `seconds` None: the interval is chosen from measured cost."""

    def __init__(self, folder: Path | Place | None, members: Sequence[str], seconds: float | None = None) -> None:
        self.place = None if folder is None else checkpoint.place_of(folder)
        self.members, self.seconds = list(members), seconds
        self._interval = LEAST_SECONDS if seconds is None else seconds
        self._saved = time.monotonic()
        self._failed = False
        self._said: list[str] = []

    def restored(self, groups: int, device: torch.device) -> State | None:
        """The state of the newest good checkpoint of these members, or None; a damaged one is named and set aside."""
        if self.place is None:
            return None
        self.place.sweep()

        def take(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> State:
            if facts["members"] != self.members:
                raise InputError("it is of other runs")
            return from_checkpoint(facts, tensors, groups, device)

        state, damaged = checkpoint.search(self.place, take)
        for name, why in damaged.items():
            self._set_aside(name, why, state)
        return state

    def offer(self, state: State) -> None:
        """Write a checkpoint if one is due."""
        if self.place is not None and time.monotonic() - self._saved > self._interval:
            self.now(state)

    def now(self, state: State) -> None:
        """Write a checkpoint, whatever the time; one that cannot be written is said."""
        if self.place is None:
            return
        started, where = time.monotonic(), f"{self.place.where}/step-{state.step:09d}"
        tensors, facts = to_checkpoint(state, self.members)
        try:
            checkpoint.save(self.place, state.step, tensors, facts)
            if self._failed:
                self._said.append(f"Checkpoints are written again, from step {state.step}.")
            self._failed = False
        except OSError as error:
            if not self._failed:
                needs = sum(tensor.nbytes for tensor in tensors.values())
                self._said.append(
                    f"{unwritable(error, where, needs)}: training goes on without this checkpoint, and a stop would "
                    f"go on from an earlier one."
                )
            self._failed = True
        self._saved = time.monotonic()
        if self.seconds is None:
            self._interval = interval_for(self._saved - started)

    def said(self) -> tuple[str, ...]:
        """The sentences since this was last asked."""
        said, self._said = tuple(self._said), []
        return said

    def _set_aside(self, name: str, why: str, state: State | None) -> None:
        assert self.place is not None
        step = int(name.removeprefix("step-"))
        after = "from the first step" if state is None else f"from step {state.step}"
        again = step - (state.step if state else 0)
        self._said.append(
            f"The checkpoint {self.place.where}/{name} cannot be used ({why}): training goes on {after}; {again} steps "
            f"are trained again."
        )
        self.place.set_aside(name, f"damaged-{name}")
