"""Does the learning rate of LoRA adapters transfer over width? The table's rule beside one rate for both matrices.

    python -m benchmarks.adapters [--seeds 3]   # writes benchmarks/results/adapters.json; ten minutes on one core

A frozen Llama of random values learns a permutation of its tokens through adapters of rank 4 alone. The rate is swept
in powers of two at every width; the optimum is the bottom of a parabola through the best three. A newcomer would give
both matrices 1/width as the model's own: those runs are the ones of one rate, read at another rate, so they cost none.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import windtunnel as wt
from benchmarks.common import write

BASE, WIDTHS, VOCABULARY = 32, (32, 64, 128, 256), 64
POWERS = np.arange(-9, 0)  # of two: the rates
STEPS, BATCH = 40, (16, 16)
ROLES = {"*.lora_A.*": "hidden"}
SAME = "one rate"


def plain(width: int) -> nn.Module:
    """A decoder of two blocks."""
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": width // 8}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=2, **sizes, use_cache=False)
    )


def adapted(model: nn.Module) -> nn.Module:
    """The model frozen, with adapters at every linear layer."""
    rank = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    return peft.get_peft_model(model, rank)  # pyright: ignore[reportArgumentType]


def factors(width: int, rule: str) -> Mapping[str, float]:
    """Factor on the rate by name: the table's, or one."""
    scales = wt.adopt(
        lambda size: adapted(plain(size)), base=BASE, target=width, optimizer=torch.optim.AdamW, roles=ROLES
    )
    return {name: 1.0 if rule == SAME else scale.lr for name, scale in scales.table.scales.items()}


def loss(width: int, rate: float, by: Mapping[str, float], seed: int) -> float:
    """Mean loss of the last five steps."""
    torch.manual_seed(seed)  # peft draws A
    model, base = plain(width), wt.adopt(plain, base=BASE, target=width, optimizer=torch.optim.AdamW)
    base.initialize(model, seed=seed)
    model = adapted(base.attach(model))
    groups = [{"params": [p], "lr": rate * by[n]} for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=STEPS)
    permutation = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(9))
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(STEPS):
        tokens = torch.randint(VOCABULARY, BATCH, generator=generator)
        value = F.cross_entropy(model(input_ids=tokens).logits.flatten(0, 1), permutation[tokens].flatten())
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(value.detach()))
    return float(np.mean(losses[-5:]))


def optimum(losses: np.ndarray) -> float:
    """log2 of the best rate."""
    best = int(np.clip(losses.argmin(), 1, len(losses) - 2))
    square, linear, _ = np.polyfit(POWERS[best - 1 : best + 2], losses[best - 1 : best + 2], 2)
    return float(-linear / (2 * square))


def measured(rule: str, seeds: int) -> dict[str, Any]:
    """Optimum by width and seed, its drift, and what the base's best rate costs at the largest width, in per cent."""
    found = []
    for width in WIDTHS:
        by = factors(width, rule)
        found.append([[loss(width, 2.0**power, by, seed) for power in POWERS] for seed in range(seeds)])
        print(rule, width, [round(optimum(np.array(each)), 2) for each in found[-1]], flush=True)
    losses = np.array(found)  # width, seed, rate
    best = np.apply_along_axis(optimum, 2, losses)
    at_base = losses[0].mean(axis=0).argmin()
    costs = 100 * (losses[-1, :, at_base] / losses[-1].min(axis=1) - 1)
    return {
        "log2_optimum": {str(width): each.round(2).tolist() for width, each in zip(WIDTHS, best, strict=True)},
        "drift_log2": (best[-1] - best[0]).round(2).tolist(),
        "cost_of_the_bases_rate_percent": costs.round(2).tolist(),
        "best_loss": losses.min(axis=2).mean(axis=1).round(3).tolist(),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # peft reads a property that transformers has renamed
    result: dict[str, Any] = {"seeds": args.seeds, "peft": peft.__version__, "transformers": transformers.__version__}
    result |= {rule: measured(rule, args.seeds) for rule in ("the table", SAME)}
    octaves = np.log2(WIDTHS[-1] / BASE)
    result["1/width for both"] = {"drift_log2": (np.array(result[SAME]["drift_log2"]) + octaves).round(2).tolist()}
    print(write("adapters", result))


if __name__ == "__main__":
    main()
