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

import numpy as np
import torch

import windtunnel as wt
from windtunnel.launch.one import execute
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data.shards import default_cache
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run, RunSpec
from windtunnel.train.data import judge_batches
from windtunnel.train.engine import Engine
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
    print(f"{type(schedule).__name__}: {len(asked)} runs", flush=True)
    execute(pack, store, device=CPU)
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


def pack_steps(schedule: Any, asked: Sequence[Asked]) -> float:
    """Steps that runs take as one pack, what they share counted once."""
    pack = packed(schedule, asked)
    return pack.trained_tokens / pack.tokens_per_step()


def three_domains(schedule: Any, rate: float, stage: int) -> np.ndarray:
    """Losses on English, German captions and Python after each of three stages of so many steps: (stages, seeds, 3)."""
    german = wt.data.text(TEXTS / "multi30k_captions.de.txt", context=CONTEXT)
    texts = (english(), german, wt.data.text(context=CONTEXT))
    data = wt.data.successive(*texts, tokens=stage * STEP)
    asked = grid(steps=(3 * stage,), rates=(rate,))
    pack = packed(schedule, asked, data)
    held = [judge_batches(Judge(data=text, tokens=JUDGED), CPU) for text in texts]
    engine = Engine(pack, CPU, True)
    state, found = engine.start(), []
    for number in range(3):
        for _ in range(stage):
            params = state.params  # of the last step but one, where the runs end: then they leave the pack
            engine.advance(state)
        params = state.params if number < 2 else params
        found.append([_judged(engine, params, batches) for batches in held])
    return np.moveaxis(np.array(found), 2, 1)


def _judged(engine: Engine, params: list[torch.Tensor], batches: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """Mean loss in nats per token of every row."""
    with torch.no_grad():
        sums = torch.stack([engine.judging.judgement(params, x, y)[0].double() for x, y in batches]).sum(0)
    return (sums / sum(y.numel() for _, y in batches)).numpy()
