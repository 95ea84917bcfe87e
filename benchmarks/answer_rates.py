"""Training FLOPs a core second: packs of windtunnel beside a plain loop in torch, in turns in one process.

Core seconds (`process_time`, one thread), because the wall clock of a busy machine measures its other users. The plain
loop is what a study under Optuna would train with: the same module and batches, torch's own fused AdamW, no vmap; where
packs are computed in bfloat16, it is the faster of a loop in float32 and one under autocast. A newcomer would compare
tokens; a share of them that a trunk saves is counted elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from torch.nn import functional

from windtunnel.train.data import pack_batch
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack, build_model
from windtunnel.train.precision import PRECISIONS

CPU = torch.device("cpu")


def plain(pack: Pack, precision: str) -> Callable[[int], None]:
    """A loop over the first member's batches; called with a number of steps."""
    recipe, rung, seed = pack.recipe_of(0), pack.rung, pack.specs[0].seed
    model = build_model(recipe, rung)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def run(steps: int) -> None:
        for step in range(steps):
            inputs, targets = (x[0] for x in pack_batch(recipe.data, [seed], step, rung.batch or 1, CPU))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def ours(pack: Pack) -> Callable[[int], None]:
    """The engine's own steps, as written, as it decides for runs as short as these; nothing is judged so early."""
    engine = Engine(pack, CPU, packed=True, compile=False)
    state = engine.start()

    def run(steps: int) -> None:
        for _ in range(steps):
            engine.advance(state)

    return run


def rates(pack: Pack, *, steps: int = 8, turns: int = 5) -> dict[str, dict[str, float]]:
    """By precision, median FLOPs a core second of the plain loop and of the pack, over turns after one to warm up."""
    torch.set_num_threads(1)
    flops = pack.size().training_flops(pack.tokens_per_step() * steps)
    ways = {("plain", p): (plain(pack, p), flops) for p in PRECISIONS}
    ways |= {("pack", p): (ours(replace(pack, precision=p)), flops * len(pack.specs)) for p in PRECISIONS}
    found: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(turns + 1):
        for way, (run, work) in ways.items():
            found[way].append(work / _core_seconds(partial(run, steps)))
    middle = {way: float(median(values[1:])) for way, values in found.items()}
    allowed = {p: PRECISIONS[: PRECISIONS.index(p) + 1] for p in PRECISIONS}
    return {p: {"plain": max(middle["plain", q] for q in allowed[p]), "pack": middle["pack", p]} for p in PRECISIONS}


def _core_seconds(run: Callable[[], None]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before
