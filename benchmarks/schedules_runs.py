"""The runs behind `schedules.py`: byte transformers of width 32 and 64, in a store, so that a stopped script goes on.

Everything is trained once and asked for by what it is. A newcomer would train a run for each horizon; members of a pack
that agree so far share a row, so a trunk with its branches costs little more than itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data.shards import default_cache
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run, RunSpec
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack

TEXTS = Path(os.environ.get("WINDTUNNEL_TEXTS", Path(__file__).parents[2] / "shared" / "data" / "text"))
STORE = Path(os.environ.get("WINDTUNNEL_SCHEDULES", default_cache() / "benchmark-schedules"))
CONTEXT, BATCH, DEPTH, HEAD = 64, 4, 2, 16
STEP = CONTEXT * BATCH  # tokens of a step at the base
WARMUP = 40 * STEP
JUDGED, EVALUATIONS = 8_192, 10  # the last tenth, a decay of a tenth, lies between the last two judgements
SEEDS = (0, 1, 2)
RATES = tuple(2.0**-k for k in (9, 8, 7, 6, 5))
CPU = torch.device("cpu")


@cache
def english() -> Any:
    """Bytes of Wikipedia articles (WikiText-2's validation and test texts, 2.2 M training tokens)."""
    return wt.data.text(TEXTS / "wikitext2_valid_test.en.txt", context=CONTEXT)


@dataclass(frozen=True)
class Asked:
    """One run: width, examples a step, horizon in tokens, the numbers of its optimizer and schedule, seed."""

    width: int
    batch: int
    tokens: int
    numbers: tuple[tuple[str, float], ...]
    seed: int


def recipe(schedule: Any, batch: int = BATCH, data: Any = None) -> Recipe:
    """The stock decoder under muP and AdamW, its learning rate open."""
    return wt.recipes.transformer_mup_adamw(data=data or english()).but(
        optimizer=AdamW(lr=wt.tuned(2.0**-12, 1.0)), batch=FixedBatch(examples=batch), schedule=schedule
    )


def rung(width: int, tokens: int, batch: int = BATCH) -> wt.Rung:
    """A size of the ladder."""
    return wt.Rung(width=width, depth=DEPTH, heads=width // HEAD, tokens=int(tokens), batch=batch)


def packed(schedule: Any, asked: Sequence[Asked], data: Any = None) -> Pack:
    """Runs of one width and batch as one pack."""
    filled = recipe(schedule, asked[0].batch, data)
    judge = Judge(data=english(), tokens=JUDGED, evaluations=EVALUATIONS)
    described, judged, base = filled.describe(), judge.describe(), rung(32, 800 * STEP)
    specs = tuple(
        RunSpec(recipe=described, rung=rung(a.width, a.tokens, a.batch), hyperparameters=dict(a.numbers), seed=a.seed,
                judge=judged, base_rung=base)
        for a in asked
    )  # fmt: skip
    return Pack(
        recipe=filled, specs=specs, judge=judge, labels=({"study": "schedules", "idea": "", "stage": ""},) * len(specs)
    )


def runs(schedule: Any, asked: Sequence[Asked]) -> list[Run]:
    """The runs asked for, in order; those that the store lacks are trained, as one pack."""
    store, pack = wt.Store(STORE), packed(schedule, asked)
    missing = [i for i, spec in enumerate(pack.specs) if spec.key not in store]
    if missing:
        part = pack.part(missing)
        steps = part.trained_tokens / part.tokens_per_step()
        print(f"{type(schedule).__name__}: {len(missing)} runs, {steps:,.0f} steps", flush=True)
        for run in train(part, device=CPU):
            store.add(run)
    return [store.get(spec.key) for spec in pack.specs]


def grid(
    *, width: int = 32, batch: int = BATCH, steps: Sequence[int], rates: Sequence[float], seeds: Sequence[int] = SEEDS,
    **numbers: float,
) -> list[Asked]:  # fmt: skip
    """Every learning rate, seed and horizon (in steps of this batch); `numbers` are other tuned fields."""
    return [
        Asked(width, batch, s * batch * CONTEXT, tuple(sorted({"lr": r, **numbers}.items())), seed)
        for r in rates for seed in seeds for s in steps
    ]  # fmt: skip
