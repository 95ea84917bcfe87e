"""The workers of local training as processes: who they are, whether they agree, and what they hear of one another.

A round is one exchange of one long row of numbers. A newcomer would reduce tensor by tensor; a collective costs more to
begin than to carry a small tensor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from windtunnel.errors import InputError
from windtunnel.parts.learned.outer import STATISTICS, statistics_of


@dataclass(frozen=True)
class Heard:
    """Of the workers whose weights were finite: their number, their mean way, and what else their ways say.

    `mean` and each of `statistics` are rows as long as a way; `marks` are sums of what each worker marked.
    """

    count: int
    mean: Tensor
    marks: Tensor
    statistics: Mapping[str, Tensor]


@dataclass(frozen=True)
class Workers:
    """This worker among `count`, and the process group they talk over; one alone has none."""

    rank: int
    count: int
    group: Any

    def told(self, message: Any) -> list[Any]:
        """What every worker says, on every worker; the message is a Python object that can be pickled."""
        found: list[Any] = [message]
        if self.count > 1:
            found = [None] * self.count
            dist.all_gather_object(found, message, group=self.group)
        return found

    def mean(self, way: Tensor, marks: Tensor) -> Heard:
        """The workers' mean way, in one all-reduce. A way that is not finite is left out, and its marks with it."""
        row = torch.cat([way, marks, marks.new_ones(1)])
        row = row if bool(way.isfinite().all()) else torch.zeros_like(row)
        if self.count > 1:
            dist.all_reduce(row, group=self.group)
        finite = int(row[-1])
        return Heard(finite, row[: len(way)] / max(finite, 1), row[len(way) : -1], {})

    def apart(self, way: Tensor, marks: Tensor) -> Heard:
        """The same, and the workers' statistics, in two collectives that carry as much for any number of workers.

        Each worker is sent all ways of its share of the entries, and sends what these say to all: exact, where sums of
        squares would lose what workers that nearly agree differ by, and about half of what an all-reduce of five rows
        carries.
        """
        share = -(-len(way) // self.count)
        finite = bool(way.isfinite().all())
        head = torch.cat([marks.new_full((1,), float(finite)), marks if finite else torch.zeros_like(marks)])
        entries = pad(way if finite else torch.zeros_like(way), (0, share * self.count - len(way)))
        sent = torch.cat([head.expand(self.count, -1), entries.view(self.count, share)], dim=1)
        there = torch.empty_like(sent)
        if self.count > 1:
            dist.all_to_all_single(there, sent, group=self.group)
        else:
            there = sent
        kept = there[there[:, 0] > 0]
        rows = kept[:, len(head) :] if len(kept) else there[:1, len(head) :]  # of nobody: zeros, which nobody uses
        own = torch.stack([rows.mean(0), *statistics_of(rows).values()])
        found = [torch.empty_like(own) for _ in range(self.count)]
        if self.count > 1:
            dist.all_gather(found, own, group=self.group)
        else:
            found = [own]
        mean, *others = torch.cat(found, dim=1)[:, : len(way)]
        said: dict[str, Tensor] = dict(zip(STATISTICS, others, strict=True))
        return Heard(len(kept), mean, kept[:, 1 : len(head)].sum(0), said)

    def bytes_of_a_round(self, way: int, marks: int, size: int, statistics: bool) -> int:
        """What this worker gives to the collectives of a round: entries of a way, marks, bytes of each."""
        if self.count == 1:
            return 0
        if not statistics:
            return size * (way + marks + 1)
        share = -(-way // self.count)
        return size * (self.count * (share + marks + 1) + (1 + len(STATISTICS)) * share)


def workers_of(group: Any) -> Workers:
    """The workers of a process group, None being all processes; one worker where there are no processes.

    Raises InputError where this process was started as one of several and they have not met, or is not of the group.
    """
    if not dist.is_available() or not dist.is_initialized():
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1 or group is not None:
            raise InputError(
                f"This process was started as one of {world} (WORLD_SIZE), and there is no process group: call "
                f"torch.distributed.init_process_group() first, or unset WORLD_SIZE to train with one worker."
            )
        return Workers(0, 1, None)
    rank = dist.get_rank(group)
    if rank < 0:
        raise InputError("This process is not in the group of workers it was given; give the group it trains with.")
    return Workers(rank, dist.get_world_size(group), group)


@contextmanager
def refused_on_all(workers: Workers) -> Iterator[None]:
    """Raise InputError on every worker for what is raised on one of them within it; the others would wait for it."""
    if workers.count == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    said = "" if own is None else str(own) if isinstance(own, InputError) else f"{type(own).__name__}: {own}"
    heard = [(rank, text) for rank, text in enumerate(workers.told(said)) if text]
    if heard:
        rank, text = heard[0]
        raise InputError(f"Worker {rank} of {workers.count} cannot go on, and so none does: {text}") from own


def check_agreement(workers: Workers, said: Mapping[str, Any]) -> None:
    """Raise InputError, on every worker, where one says something else than worker 0 of any of these things."""
    heard = workers.told(dict(said))
    for what in said:
        others = [rank for rank, theirs in enumerate(heard) if theirs[what] != heard[0][what]]
        if others:
            raise InputError(
                f"Workers {', '.join(map(str, others))} of {workers.count} differ from worker 0 in {what}"
                f"{_example(heard[0][what], heard[others[0]][what])}. All workers begin a round with the same: build "
                f"the same model, initialize it with the same seed, and load one state on all."
            )


def _example(first: Any, theirs: Any) -> str:
    """The first thing in which two lists differ, or two short words."""
    if isinstance(first, list) and isinstance(theirs, list):
        pairs = [(a, b) for a, b in zip(first, theirs, strict=False) if a != b]
        first, theirs = pairs[0] if pairs else (len(first), len(theirs))
    return f" ({first} there, {theirs} with them)"
