"""Throughput of a pack of 16 members against the same 16 trained alone: one thread, paired, in one process.

    python -m benchmarks.pack [--members 16] [--steps 20] [--pairs 5]

Each pair times the pack and then the 16 solo runs over the same steps; the ratio of tokens per second is taken pair by
pair, so it holds when the machine's speed drifts. Only steps are timed, not building or judging.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

import windtunnel as wt
from benchmarks.common import write
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Recipe
from windtunnel.runs import RunSpec
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack
from windtunnel.train.state import State

CONTEXT, BATCH, DEPTH = 64, 4, 2


def pack_of(recipe: Recipe, width: int, members: int) -> Pack:
    """A pack of `members` learning rates and seeds at one width."""
    rung = wt.Rung(width=width, depth=DEPTH, heads=width // 8, tokens=10**7, batch=BATCH)
    judge = wt.Judge(data=recipe.data, tokens=CONTEXT, evaluations=1)
    described, judged = recipe.describe(), judge.describe()
    specs = tuple(
        RunSpec(
            recipe=described, rung=rung, hyperparameters={"lr": 2 ** (-9 + i % 4)}, seed=i, judge=judged, base_rung=rung
        )
        for i in range(members)
    )
    return Pack(recipe=recipe, specs=specs, judge=judge)


def solo(pack: Pack, member: int) -> Pack:
    """One member of a pack as a pack of its own."""
    return Pack(recipe=pack.recipe, specs=pack.specs[member : member + 1], judge=pack.judge)


def seconds(engine: Engine, state: State, steps: int) -> float:
    """Wall seconds of `steps` steps."""
    began = time.perf_counter()
    for _ in range(steps):
        engine.advance(state)
    return time.perf_counter() - began


def ratios(recipe: Recipe, width: int, members: int, steps: int, pairs: int) -> list[float]:
    """Throughput of the pack over the members alone, pair by pair."""
    whole = pack_of(recipe, width, members)
    engines = [Engine(p, torch.device("cpu"), True) for p in (whole, *(solo(whole, i) for i in range(members)))]
    states = [engine.start() for engine in engines]
    for engine, state in zip(engines, states, strict=True):
        seconds(engine, state, 3)  # warm up
    found = []
    for _ in range(pairs):
        together = seconds(engines[0], states[0], steps)
        alone = sum(seconds(e, s, steps) for e, s in zip(engines[1:], states[1:], strict=True))
        found.append(alone / together)
    return found


def main() -> None:
    """Measure every width and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = wt.data.text(context=CONTEXT)
    recipe = wt.recipes.transformer_mup_adamw(data=data).but(optimizer=AdamW(lr=wt.tuned(2**-9, 2**-4)))
    rows = []
    for width in (16, 32, 64, 128):
        found = ratios(recipe, width, args.members, args.steps, args.pairs)
        params = recipe.model.size(wt.Rung(width=width, depth=DEPTH, tokens=1), data.shape()).params
        rows.append({"width": width, "params": params, "ratio_median": median(found), "ratios": found})
        print(f"width {width}, {params} parameters: pack of {args.members} is {median(found):.2f}x the same alone "
              f"[{min(found):.2f}, {max(found):.2f}], {args.pairs} pairs")  # fmt: skip
    print(write("pack", {"what": "throughput of a pack over its members alone, one thread", "rows": rows,
                         "members": args.members, "steps": args.steps, "pairs": args.pairs}))  # fmt: skip


if __name__ == "__main__":
    main()
