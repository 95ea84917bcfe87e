"""One muLO step beside one of fused AdamW, on the tensors of a GPT with 355 million parameters, on a GPU.

    python -m benchmarks.learned_gpu [--steps 20]

Gradients are drawn once: only `optimizer.step()` is timed, from an idle device to an idle device. PyLO's own table has
319 ms for this model (A100, small_fc, its CUDA kernels; Adam is not in it). Where there is no GPU it says so and ends
well; the bar of the project is three times AdamW's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks.common import write
from windtunnel.bridge.optimizer import TorchOptimizer
from windtunnel.parts.learned import network
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import Card, Weights
from windtunnel.scaling.adopt import adopt

WIDTH, LAYERS, TOKENS, CONTEXT = 1024, 24, 50257, 1024  # GPT-2 medium
BAR = 3.0
WARM_UPS = 3


class GPT(nn.Module):
    """The tensors of a GPT-2; it is never run."""

    def __init__(self, width: int, layers: int = LAYERS, tokens: int = TOKENS) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(nn.ModuleDict(_block(width)) for _ in range(layers))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.tokens.weight


def _block(width: int) -> dict[str, nn.Module]:
    linear = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    norms: dict[str, nn.Module] = {name: nn.LayerNorm(width) for name in ("first", "second")}
    return norms | {name: nn.Linear(*sides) for name, sides in linear.items()}


def weights_of(hidden: int) -> Weights:
    """Random ones: what they say does not change what they cost."""
    features, generator = Features(), torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "w0": (features.count, hidden), "b0": (hidden,), "w1": (hidden, hidden), "b1": (hidden,), "w2": (hidden, 2),
        "b2": (2,),
    }  # fmt: skip
    card = Card(
        rule="small_fc", features=features, step_size=0.001, magnitude=0.001, horizon=1000,
        parametrization={"rule": "mup", "width": 32},
        decays={"momentum": (0.9, 0.99, 0.999), "rms": (0.999,), "factored": (0.9, 0.99, 0.999)},
    )  # fmt: skip
    return Weights.of(card, {n: torch.randn(s, generator=generator) / s[0] ** 0.5 for n, s in shapes.items()})


def measured(device: torch.device, width: int, layers: int, tokens: int, steps: int, hidden: int) -> dict[str, Any]:
    """Milliseconds a step, median and all, and bytes of state a parameter, of each way."""
    part = SmallFC(weights=weights_of(hidden))
    scales = adopt(lambda w: GPT(w, layers, tokens), base=width // 2, target=width, optimizer=part)
    with device:
        model = GPT(width, layers, tokens)
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 1e-3
    count = sum(p.numel() for p in model.parameters())
    fused: Any = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    found: dict[str, Any] = {"parameters": count, "hidden": hidden, "adamw_fused": _timed(fused, device, steps)}
    del fused
    learned = TorchOptimizer(part, model, scales, pretrained=True)
    found["mulo"] = _timed(learned, device, steps)
    found["mulo_without_kernels"] = _eager(lambda: _timed(learned, device, max(1, steps // 4)))
    found["ratio"] = found["mulo"]["median_ms"] / found["adamw_fused"]["median_ms"]
    found["kernels"] = network._on_gpu(next(iter(model.parameters()))) is not None
    return found


def _timed(optimizer: Any, device: torch.device, steps: int) -> dict[str, Any]:
    times = []
    for _ in range(WARM_UPS + steps):
        _wait(device)
        before = time.perf_counter()
        optimizer.step()
        _wait(device)
        times.append(1e3 * (time.perf_counter() - before))
    state = sum(t.nbytes for held in optimizer.state.values() for t in held.values() if isinstance(t, torch.Tensor))
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    kept = times[WARM_UPS:]
    return {"median_ms": statistics.median(kept), "all_ms": kept, "state_bytes_a_parameter": state / count}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _eager(call: Callable[[], Any]) -> Any:
    """As if triton were not installed."""
    with _without():
        return call()


@contextmanager
def _without() -> Iterator[None]:
    before, network._triton = network._triton, lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        network._triton = before


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write benchmarks/results/learned_gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured.")
        return 0
    os.environ.pop("TRITON_INTERPRET", None)
    device = torch.device("cuda")
    found = [measured(device, WIDTH, LAYERS, TOKENS, asked.steps, hidden) for hidden in (8, 32)]
    for one in found:
        print(
            f"hidden {one['hidden']}: AdamW (fused) {one['adamw_fused']['median_ms']:.2f} ms, muLO "
            f"{one['mulo']['median_ms']:.2f} ms ({one['ratio']:.1f} times; the bar is {BAR:g}), without kernels "
            f"{one['mulo_without_kernels']['median_ms']:.1f} ms; medians of {asked.steps} steps, "
            f"{one['parameters']:,} parameters"
        )
    write("learned_gpu", {"gpu": torch.cuda.get_device_name(), "bar": BAR, "steps": asked.steps, "found": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
