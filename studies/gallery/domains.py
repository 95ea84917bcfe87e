"""Byte domains of real text, and a network trained on one after another: what the continual checks share.

Each stage is a run of its own from the last stage's weights, with its own schedule and a new optimizer, so that one
start serves every method that goes on from it. A newcomer would train each method from scratch: then the methods'
starts differ too, and most of the time goes into what is the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.probes import LossOn
from windtunnel.parts.schedules import Cosine
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import RunSpec
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack

TEXTS = Path(os.environ.get("WINDTUNNEL_TEXTS", Path(__file__).parents[3] / "shared" / "data" / "text"))
FILES = {
    "english": TEXTS / "wikitext2_valid_test.en.txt",
    "shakespeare": TEXTS / "tinyshakespeare.en.txt",
    "german": TEXTS / "multi30k_captions.de.txt",
    "python": None,  # the standard library
    "c++": Path(torch.__file__).parent / "include" / "ATen" / "core" / "*.h",
}
CONTEXT, BATCH, JUDGED = 64, 4, 16_384
STEP = CONTEXT * BATCH
CPU = torch.device("cpu")

Weights = Mapping[str, Tensor]


@cache
def domain(name: str) -> Any:
    """Bytes of one domain."""
    return wt.data.text(FILES[name], context=CONTEXT, repeat=True)


def there(*names: str) -> bool:
    """Whether the texts are on this machine; says which is not."""
    missing = [path for name in names if (path := FILES[name]) and not list(path.parent.glob(path.name))]
    if missing:
        print(f"skipped: {missing[0]} is not there; say where the texts are with WINDTUNNEL_TEXTS")
    return not missing


def decoder(data: Any, *, schedule: Any = None) -> Recipe:
    """The stock decoder under muP and AdamW, its learning rate open."""
    return wt.recipes.transformer_mup_adamw(data=data).but(
        optimizer=AdamW(lr=wt.tuned(2.0**-12, 1.0)), batch=FixedBatch(examples=BATCH),
        schedule=schedule or Cosine(warmup=0.1, floor=0.1),
    )  # fmt: skip


def rung(width: int, steps: int) -> wt.Rung:
    """A size, so many steps."""
    return wt.Rung(width=width, depth=2, heads=width // 8, tokens=steps * STEP, batch=BATCH)


@dataclass(frozen=True)
class Stage:
    """What a stage left: weights by seed, and the loss on each domain by name, nats per token, by seed."""

    weights: Sequence[Weights]
    losses: dict[str, np.ndarray] = field(default_factory=dict)


def stage(
    recipe: Recipe, size: wt.Rung, rate: float, seeds: Sequence[int], judged: Sequence[str], *,
    start: Sequence[Weights] = (), number: int = 0,
) -> Stage:  # fmt: skip
    """Train all seeds on the recipe's data from `start` (its initial values if none) and judge them on domains.

    `number` counts the stages; masks are drawn by it. A loss that is not finite raises an error: none is expected.
    """
    probes = tuple(LossOn(name=_word(name), data=domain(name), tokens=JUDGED) for name in judged)
    judge = Judge(data=domain(judged[0]), tokens=CONTEXT, evaluations=1, probes=probes)
    described, told = recipe.describe(), judge.describe()
    specs = tuple(
        RunSpec(recipe=described, rung=size, hyperparameters={"lr": rate}, seed=seed, judge=told, base_rung=rung(32, 1))
        for seed in seeds
    )
    engine = Engine(Pack(recipe=recipe, specs=specs, judge=judge), CPU, len(seeds) > 1)
    engine.stretch, engine.keeps = number, True
    state = engine.start(weights=start)
    while state.alive:
        engine.advance(state)
    if state.retired:
        raise ArithmeticError(f"{recipe.optimizer} at {rate}: {state.retired}")
    members = range(len(seeds))
    losses = {n: np.array([state.probed[m][f"loss_on_{_word(n)}"] for m in members]) for n in judged}
    return Stage([engine.last[m] for m in members], losses)


def _word(name: str) -> str:
    return name.replace("+", "p")
