"""What is known of a run that is trained over many devices, how it is trained, and its record.

The record is the one that a pack writes, so that nobody who reads a store needs to know where a run was trained; its
cost says so. A newcomer would add up the processes' seconds: the cost holds wall time, and how many devices it was on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from windtunnel.runs import Cost, Run
from windtunnel.train.record import device_name, recorded, tokens_done

if TYPE_CHECKING:
    from windtunnel.train.sharded import ShardedEngine


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run is trained, which is never part of what was asked.

    `compiled` compiles each block of the model; a checkpoint is written every `checkpoint_seconds`, less often where
    writing one stops training for long.
    """

    compiled: bool = False
    checkpoint_seconds: float = 20.0


@dataclass
class Curves:
    """What is known of a run so far, the same on every process."""

    step: int = 0
    seconds: float = 0.0
    created: str = ""
    train_loss: list[float] = field(default_factory=list)
    judged: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, accuracy
    diverged: str = ""


def run_of(engine: ShardedEngine, curves: Curves) -> Run:
    """The Run, as a pack would record it."""
    cost = _cost(engine, curves.seconds, tokens_done(engine.pack, 0, curves.train_loss))
    return recorded(
        engine.pack, 0, train_loss=curves.train_loss, judged=curves.judged, why=curves.diverged, cost=cost,
        created=curves.created,
    )  # fmt: skip


def _cost(engine: ShardedEngine, seconds: float, tokens: int) -> Cost:
    device = engine.ranks.device
    flops = engine.size.training_flops(tokens)
    return Cost(
        flops=flops,
        spent_flops=flops,
        seconds=seconds,
        device=device_name(device),
        threads=torch.get_num_threads(),
        members=1,
        processes=engine.ranks.world,
        precision=engine.pack.precision,
        pieces=engine.pack.pieces,
        peak=engine.peak,
    )
