"""How long a step and a judgement of a pack take on a device, by doing a few of them. Nothing is written.

What a study will take is foretold from this. A newcomer would divide FLOPs by one speed: small models run at a few per
cent of what large ones do, so every shape is timed by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from windtunnel.train.data import judge_steps
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack

SECONDS = 0.4  # of steps that are timed, after the first one: longer than a machine's hiccups (guess)
STEPS = 2  # at least


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
    engine.advance(state)  # what is compiled or allocated once
    done, started = 0, _now(device)
    while state.alive and (done < STEPS or _now(device) - started < SECONDS):
        engine.advance(state)
        done += 1
    step = (_now(device) - started) / max(done, 1)
    begun = engine.start()
    engine.judging.at = [{begun.step} for _ in pack.specs]
    started = _now(device)
    engine.judging.judge(begun)
    return Timing(step, _now(device) - started)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
