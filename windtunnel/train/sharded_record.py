"""What is known of a run that is trained over many devices, how it is trained, and its record.

The record is the one that a pack writes, so that nobody who reads a store needs to know where a run was trained; its
cost says so. A newcomer would add up the processes' seconds: the cost holds wall time, and how many devices it was on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from windtunnel.runs import Cost, Outcome, Run
from windtunnel.train.record import versions, written_sources

if TYPE_CHECKING:
    from windtunnel.train.sharded import ShardedEngine


@dataclass(frozen=True, kw_only=True)
class How:
    """How a run is trained, which is never part of what was asked.

    `precision` is "float32" or "bfloat16" (matrix products; sums, norms and updates stay float32); `pieces` is into how
    many parts each process cuts its share of a batch; `compiled` compiles each block of the model; a checkpoint is
    written every `checkpoint_seconds`, less often where writing one stops training for long.
    """

    precision: str = "float32"
    pieces: int = 1
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


def recorded(engine: ShardedEngine, curves: Curves) -> Run:
    """The Run, as a pack would record it."""
    steps = np.arange(1, len(curves.train_loss) + 1)
    judged = [row for row in curves.judged if math.isfinite(row[1])]
    done = min(int(np.isfinite(curves.train_loss).sum()) * engine.tokens_per_step, engine.rung.tokens)
    tokens = np.array([min(step * engine.tokens_per_step, engine.rung.tokens) for step, _, _ in judged])
    return Run(
        key=engine.spec.key,
        spec=engine.spec,
        outcome=Outcome.DIVERGED if curves.diverged else Outcome.FINISHED,
        message=curves.diverged,
        loss=None if curves.diverged else judged[-1][1],
        metrics={} if curves.diverged else {"accuracy": judged[-1][2]},
        size=engine.size,
        cost=_cost(engine, curves.seconds, done),
        curve={
            "step": steps,
            "tokens": np.minimum(steps * engine.tokens_per_step, engine.rung.tokens),
            "train_loss": np.array(curves.train_loss),
            "judged_tokens": tokens,
            "judged_loss": np.array([loss for _, loss, _ in judged]),
        },
        created=curves.created,
        versions=versions(),
        labels=dict(engine.pack.labels[0]) if engine.pack.labels else {},
        source=written_sources(engine.recipe),
    )


def _cost(engine: ShardedEngine, seconds: float, tokens: int) -> Cost:
    device = engine.ranks.device
    flops = engine.size.training_flops(tokens)
    return Cost(
        flops=flops,
        spent_flops=flops,
        seconds=seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        members=1,
        processes=engine.ranks.world,
        precision=engine.how.precision,
        peak=engine.peak,
    )
