"""What a study may spend, in FLOPs or in device time, over all calls of it; and the launcher that stops there.

A newcomer would give every call its own budget: a study that is killed and run again ten times would then cost ten of
them. What the store's records and checkpoints say was spent counts, so the same command goes on with what is left, and
a larger budget buys the rest. The launcher is told nothing: what it reports to raises Paused, as a full disk does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import InputError, Paused
from windtunnel.ladder import compact
from windtunnel.notebook import printed
from windtunnel.store import Store
from windtunnel.train import checkpoint
from windtunnel.train.loop import Progress
from windtunnel.train.pack import Pack

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGET = re.compile(r"\s*(\d+\.?\d*(?:[eE]\+?\d+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True)
class Budget:
    """FLOPs, or seconds of device time where `seconds` is True: an hour of two devices at once is two hours."""

    amount: float
    seconds: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.amount < float("inf"):
            raise InputError(f"A budget of {self.amount!r} buys nothing; give FLOPs, as 2e15, or device time, as 2h.")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`2e15` or `2e15 FLOPs`; `90s`, `30min`, `2h`, `1.5d` of device time. Raises InputError for anything else."""
        found = _BUDGET.fullmatch(text)
        unit = found[2] if found else ""
        if found and unit.lower() in ("", "flop", "flops"):
            return cls(float(found[1]))
        if found is None or unit not in _SECONDS:
            raise InputError(
                f"A budget of {text!r} cannot be read; give FLOPs, as 2e15, or device time in s, min, h or d, as 2h."
            )
        return cls(float(found[1]) * _SECONDS[unit], seconds=True)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return self.says(self.amount)

    def says(self, amount: float) -> str:
        """An amount in this budget's unit."""
        return f"{_duration(amount)} of device time" if self.seconds else f"{compact(amount)}FLOPs"


class Meter:
    """Counts what a study has spent: its records in the store, and packs in flight."""

    def __init__(self, budget: Budget, study: str, store: Store) -> None:
        mine = [row for row in store.rows() if row.get("study") == study]
        self.budget, column = budget, "seconds" if budget.seconds else "spent_flops"
        self.recorded = float(sum(row[column] for row in mine))
        self.flying: dict[str, float] = {}  # pack -> spent on it, those that were recorded since included
        self.growing: dict[str, float] = {}  # pack in flight -> spent on it between its last two reports

    @property
    def spent(self) -> float:
        """What was spent so far."""
        return self.recorded + sum(self.flying.values())

    def begin(self, packs: Sequence[Pack], store: Store) -> None:
        """Packs are to be trained: what their checkpoints cost counts. Raises Paused if nothing is left for them."""
        for pack in packs:
            steps, seconds = checkpoint.spent(store.flight(pack.key))
            if steps:
                flops = pack.size().training_flops(steps * pack.tokens_per_step())
                self.flying[pack.key] = seconds if self.budget.seconds else flops
        if self.spent >= self.budget.amount:
            raise self._paused()

    def hear(self, progress: Progress) -> None:
        """A pack got further. Raises Paused where going on would come out further from the budget than stopping."""
        now, before = progress.seconds if self.budget.seconds else progress.flops, self.flying.get(progress.pack)
        if before is None and progress.step > 1:  # an earlier call's checkpoint that was not counted is no growth
            before = now
        self.growing[progress.pack] = max(0.0, now - (before or 0.0))
        self.flying[progress.pack] = max(now, before or 0.0)
        if progress.step >= progress.steps:  # it is done, and recording it costs nothing
            del self.growing[progress.pack]
        elif self.spent + sum(self.growing.values()) / 2 >= self.budget.amount:
            raise self._paused()

    def _paused(self) -> Paused:
        return Paused(
            f"The budget is spent: {self.budget.says(self.spent)} of {self.budget}. Finished runs are kept and packs "
            f"in flight are checkpointed; the same command with a larger --budget goes on from here."
        )


@dataclass(frozen=True)
class Metered:
    """A launcher that stops when a meter's budget is spent."""

    launch: Any
    meter: Meter

    def __call__(
        self,
        packs: Sequence[Pack],
        store: Store,
        report: Callable[[Progress], None] | None = None,
        finished: Callable[[Pack], None] | None = None,
    ) -> None:
        """Train and record all packs. Raises Paused when the budget is spent, before or while they train."""
        self.meter.begin(packs, store)

        def told(progress: Progress) -> None:
            if report is not None:
                report(progress)
            self.meter.hear(progress)

        self.launch(packs, store, told, finished)


def _duration(seconds: float) -> str:
    unit, size = next(((u, s) for u, s in reversed(_SECONDS.items()) if seconds >= s), ("s", 1.0))
    return f"{seconds / size:.3g} {unit}"
