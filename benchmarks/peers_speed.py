"""What a tool adds to a training step: the decoder of benchmarks/peers.py plain and as each tool makes it, in turns.

One thread, and processor time instead of the clock, so that neighbours on the machine count little; a tool's step and
the plain one's alternate, and the figure is the median of their ratios. A newcomer would train at each one's usual
rate: the plain model's attention saturates there, and what is nearly zero is slow to compute (9 % of a step here).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.peers_models import CONTEXT, VOCABULARY, Tool

WIDTH, BATCH, WARM, DRAWS, LEVEL = 256, 16, 3, 1000, 0.9
SLOWER = 2.0**-6  # of the rate at which a search begins: nothing saturates


def stepper(tool: Tool, compiled: bool) -> Callable[[], None]:
    """One training step of a new model, with fused AdamW."""
    model, beside = tool.made(WIDTH)
    optimizer = tool.adamw(model, beside, SLOWER * 2.0**tool.start, fused=True)
    tokens = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    forward: Any = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        tool.layers.loss(forward(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()

    return step


def ratios(tools: dict[str, Tool], rounds: int, compiled: bool) -> dict[str, dict[str, float]]:
    """Processor time of a step over that of the plain model beside it: median over rounds, 90 % bootstrap interval."""
    steps = {name: stepper(tool, compiled) for name, tool in tools.items()}
    for _ in range(WARM):
        for step in steps.values():
            step()
    found: dict[str, list[float]] = {name: [] for name in steps if name != "plain"}
    for number in range(rounds):
        for name, over in found.items():
            order = (name, "plain") if number % 2 else ("plain", name)
            seconds = {which: _seconds(steps[which]) for which in order}
            over.append(seconds[name] / seconds["plain"])
    return {name: _median(np.array(over)) for name, over in found.items()}


def _median(found: Any) -> dict[str, float]:
    picked = np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found)))
    low, high = np.quantile(np.median(found[picked], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"median": round(float(np.median(found)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _seconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began
