"""What a device can do: the rate of large matrix products, measured, against which a training loop is set.

A newcomer would take the figure of a data sheet, which no program reaches; the share of a measured rate says how much
of the time the loop spends on something else.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch

ROUNDS = 3  # the best of these, for another program may take the machine for a moment


@lru_cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a square matrix product on a device, the best of a few; some tenths of a second."""
    side, repeats = (8192, 20) if device.type == "cuda" else (768, 3)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    torch.mm(one, other)  # what is done once (kernels chosen, libraries loaded) is not timed
    return max(_rate(one, other, repeats) for _ in range(ROUNDS))


def bfloat16_gain(device: torch.device) -> float:
    """Times as fast as in float32 that a device multiplies large matrices of bfloat16."""
    return matmul_rate(device, "bfloat16") / matmul_rate(device, "float32")


def _rate(one: torch.Tensor, other: torch.Tensor, repeats: int) -> float:
    _wait(one.device)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.mm(one, other)
    _wait(one.device)
    return 2.0 * len(one) ** 3 * repeats / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
