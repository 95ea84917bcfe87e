"""What a tool adds to a training step: the decoder of benchmarks/peers.py plain and as each tool makes it, in turns.

One thread, and processor time instead of the clock, so that neighbours on the machine count little; each round every
model takes a step, in an order that turns, and the figure is the median over rounds of its time over the plain one's. A
newcomer would time one after the other and measure the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.peers_models import CONTEXT, VOCABULARY, Tool

WIDTH, BATCH, WARM, DRAWS, LEVEL = 256, 16, 3, 1000, 0.9


def stepper(tool: Tool, compiled: bool) -> Callable[[], None]:
    """One training step of a new model, with fused AdamW."""
    model, beside = tool.made(WIDTH)
    optimizer = tool.adamw(model, beside, 2.0**tool.start, fused=True)
    tokens = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    forward: Any = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        tool.layers.loss(forward(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()

    return step


def ratios(tools: dict[str, Tool], rounds: int, compiled: bool) -> dict[str, dict[str, float]]:
    """Processor time of a step over the plain model's: the median over rounds and its 90 % bootstrap interval."""
    steps = {name: stepper(tool, compiled) for name, tool in tools.items()}
    for _ in range(WARM):
        for step in steps.values():
            step()
    order, seconds = list(steps), {name: [] for name in steps}
    for number in range(rounds):
        turned = order[number % len(order) :] + order[: number % len(order)]
        for name in turned if number % 2 else reversed(turned):
            seconds[name].append(_seconds(steps[name]))
    plain = np.array(seconds["plain"])
    return {name: _median(np.array(found) / plain) for name, found in seconds.items() if name != "plain"}


def _median(found: Any) -> dict[str, float]:
    picked = np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found)))
    low, high = np.quantile(np.median(found[picked], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"median": round(float(np.median(found)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _seconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began
