"""How long a step and a judgement of a pack take on a device, by doing a few of them. Nothing is written.

What a study will take is foretold from this. A newcomer would divide FLOPs by one speed: small models run at a few per
cent of what large ones do, so every shape is timed by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch

from windtunnel.train.data import judge_steps
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack

SECONDS = 0.4  # of steps that are timed, after the first one: longer than a machine's hiccups (guess)
STEPS = 2  # at least
JUDGEMENTS = 2  # of which the last is timed: the first allocates


@dataclass(frozen=True)
class Timing:
    """Seconds of a step and of a judgement of a pack, all members together."""

    step: float
    judgement: float

    def pack_seconds(self, pack: Pack) -> float:
        """Seconds of device time to train a pack of this shape to its horizon."""
        steps = -(-pack.rung.tokens // pack.tokens_per_step())
        return steps * self.step + len(judge_steps(pack.judge, steps)) * self.judgement


def timed(pack: Pack, device: torch.device) -> Timing:
    """Train the first steps of a pack, judge it once, and forget it. A long pack's step is compiled, as it will be."""
    engine = Engine(pack, device, packed=True)
    engine.judging.at = [set() for _ in pack.specs]  # judgements are timed apart
    state = engine.start()
    begun = _now(device)
    engine.advance(state)  # what is compiled or allocated once
    times = [_now(device)]
    while state.alive and (len(times) <= STEPS or times[-1] - times[0] < SECONDS):
        engine.advance(state)
        times.append(_now(device))
    step = _usual(times) if len(times) > 1 else times[0] - begun
    fresh = engine.start()
    engine.judging.at = [{fresh.step} for _ in pack.specs]
    judged = [_now(device)]
    for _ in range(JUDGEMENTS):
        engine.judging.judge(fresh)
        judged.append(_now(device))
    return Timing(step, judged[-1] - judged[-2])


def _usual(times: Sequence[float]) -> float:
    """The median of the time between two moments: the first few steps take longer than those that follow."""
    return median(after - before for before, after in pairwise(times))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
