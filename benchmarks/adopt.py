"""What do scales by name cost a training step? An adopted model beside the same model untouched, in one process.

    python -m benchmarks.adopt [--pairs 60]        # writes benchmarks/results/adopt.json

Steps of the two alternate, so that a noisy machine disturbs both; the figure is the median ratio of a pair, eager and
compiled. A newcomer would time one after the other and measure the machine. The decoder is Hugging Face's Llama.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import windtunnel as wt
from benchmarks.common import write

WIDTH, BASE, VOCABULARY, TOKENS = 256, 32, 256, (8, 128)
STEPS = 3  # in one turn


def build(width: int) -> nn.Module:
    """A decoder of four blocks."""
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 16}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=4, **sizes, use_cache=False)
    )


def stepper(adopted: bool, compiled: bool) -> Callable[[], None]:
    """One training step of a new model."""
    torch.manual_seed(0)
    model, groups = build(WIDTH), None
    if adopted:
        scales = wt.adopt(build, base=BASE, target=WIDTH, optimizer=torch.optim.AdamW)
        scales.initialize(model, seed=0)
        groups = scales.groups(scales.attach(model), 1e-3, eps=1e-8)
    optimizer = torch.optim.AdamW(groups or model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(VOCABULARY, TOKENS, generator=torch.Generator().manual_seed(0))
    forward: Any = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        forward(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()

    return step


def ratios(pairs: int, compiled: bool) -> dict[str, float]:
    """Seconds of the adopted model over those of the plain one: median and quartiles over pairs of turns."""
    steps = stepper(True, compiled), stepper(False, compiled)
    for _ in range(3):
        for step in steps:
            step()
    found = []
    for pair in range(pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        seconds = {which: turn(steps[which]) for which in order}
        found.append(seconds[0] / seconds[1])
    low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
    return {"median": round(float(median), 4), "quarter": round(float(low), 4), "three_quarters": round(float(high), 4)}


def turn(step: Callable[[], None]) -> float:
    """Seconds of a few steps."""
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return time.perf_counter() - began


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"pairs": args.pairs, "steps_a_turn": STEPS, "transformers": transformers.__version__}
    for name, compiled in (("eager", False), ("compiled", True)):
        result[name] = ratios(args.pairs, compiled)
        print(name, result[name], flush=True)
    print(write("adopt", result))


if __name__ == "__main__":
    main()
