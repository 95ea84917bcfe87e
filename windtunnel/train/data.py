"""Batches of a pack: every member's examples at a step, stacked, gathered once for members that share a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.recipe import Judge

JUDGE_CHUNK_TOKENS = 8192  # held-out tokens judged at once: bounds memory (guess)


def pack_batch(data: Any, seeds: Sequence[int], step: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets with a leading member axis; a pure function of the seeds and the step."""
    drawn = {seed: data.batch(seed=seed, step=step, size=size) for seed in dict.fromkeys(seeds)}
    inputs = torch.from_numpy(np.stack([drawn[seed][0] for seed in seeds]))
    targets = torch.from_numpy(np.stack([drawn[seed][1] for seed in seeds]))
    return inputs.to(device), targets.to(device)


def share(count: int, part: int, parts: int) -> slice:
    """The examples of `count` that one of `parts` takes: contiguous, sizes at most one apart."""
    return slice(count * part // parts, count * (part + 1) // parts)


def judge_steps(judge: Judge, steps: int) -> set[int]:
    """The steps of a run of `steps` after which it is judged; the last one is among them."""
    return {math.ceil(steps * (i + 1) / judge.evaluations) for i in range(judge.evaluations)}


def judge_chunk(judge: Judge) -> int:
    """Held-out examples that are judged at once."""
    return max(1, JUDGE_CHUNK_TOKENS // judge.data.shape().tokens_per_example)


def judge_batches(judge: Judge, device: torch.device, most: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """The held-out examples by which every run is judged, in chunks, of at most so many."""
    chunks = judge.data.held_out(size=judge_chunk(judge), tokens=judge.tokens)
    found = [(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for x, y in chunks]
    if most is None:
        return found
    return [both for x, y in found for both in zip(x.split(most), y.split(most), strict=True)]
