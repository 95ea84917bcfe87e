"""Run by tests/test_learned_triton.py in a process of its own, with TRITON_INTERPRET=1: the kernels beside torch."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from test_divided import walked

from windtunnel.parts.learned import triton_kernel
from windtunnel.parts.learned.features import Features, Layout, advanced, first_moments, layout_of, seen
from windtunnel.parts.learned.network import _as_written, moved
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import bundled

DECAYS = torch.tensor([[0.9, 0.99, 0.999, 0.999, 0.9, 0.99, 0.999]])
SMALL = Features()
CELO2 = Features(clipped=True, times=(), second_eps=1e-8, normaliser_eps=1e-9)
CASES: dict[str, tuple[tuple[int, ...], Features, int, int, int]] = {  # shape, features, hidden, outputs, networks
    "a vector": ((70,), SMALL, 8, 2, 1),
    "a scalar": ((), SMALL, 4, 2, 1),
    "a wide matrix": ((3, 130), SMALL, 32, 2, 1),
    "a tall matrix": ((9, 2), SMALL, 20, 2, 1),
    "rank four": ((3, 4, 2, 5), SMALL, 8, 2, 1),
    "celo2": ((5, 6), CELO2, 8, 3, 1),
    "velo's vector": ((9,), replace(CELO2, second_eps=1e-6, normaliser_eps=1e-5), 4, 3, 1),
    "scale free": ((4, 7), replace(SMALL, scale_free=True), 8, 2, 1),
    "a network each": ((4, 7), SMALL, 8, 2, 2),
    "64 hidden units": ((2, 5), SMALL, 64, 2, 1),
}


def apart(shape: tuple[int, ...], features: Features, hidden: int, said: int, nets: int) -> float:
    """The largest difference of two tensors' second steps, over the largest step."""
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator)

    net = {"w0": normal(nets, features.count, hidden) / features.count**0.5, "b0": normal(nets, hidden)}
    net |= {"w1": normal(nets, hidden, hidden) / hidden**0.5, "b1": normal(nets, hidden)}
    net |= {"w2": normal(nets, hidden, said) / hidden**0.5, "b2": normal(nets, said)}
    layout: Layout = layout_of(shape)
    param, first, second = (seen(normal(2, *shape), layout) for _ in range(3))
    moments = advanced(DECAYS, first * 1e-2, first_moments(param, layout), layout)
    now: Any = (features, 0.001, second * 1e-2, param, moments, DECAYS, layout, torch.tensor([1.0, 40.0]))
    moved(net, *now)  # the first of a kind is checked, and torch's is what it returns
    before, triton_kernel.step = triton_kernel.step, counted(triton_kernel.step)
    ours = moved(net, *now)[0]
    triton_kernel.step = before
    after = advanced(DECAYS, second * 1e-2, moments, layout)
    wanted = _as_written(net, features, 0.001, second * 1e-2, param, after, layout, now[-1])
    return float((ours - wanted).abs().max() / wanted.abs().max())


CALLS: list[int] = []


def counted(step: Any) -> Any:
    def call(*given: Any) -> Any:
        CALLS.append(1)
        return step(*given)

    return call


def in_parts() -> dict[str, float]:
    """Tensors that two processes share, by the kernels, beside the whole ones."""
    part, found = SmallFC(weights=bundled("mulo-digits")), {}
    for shape in ((7,), (5, 9), (9, 5)):
        whole, pieces, _, _ = walked(part, shape, 0, 2, torch.float32, steps=2)
        found[str(shape)] = float((torch.cat(pieces) - whole).abs().max() / whole.abs().max())
    return found


if __name__ == "__main__":
    found = {name: apart(*case) for name, case in CASES.items()}
    json.dump({"apart": found, "calls": len(CALLS), "in parts": in_parts()}, sys.stdout)
