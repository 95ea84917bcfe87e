"""Is an order of methods stable (C20)? AdamW, momentum SGD and LAMB on three tiny workloads, rates drawn at random.

    python -m benchmarks.fair STORE [PAGE]          # PAGE: where the profiles are drawn
    python -m benchmarks.fair STORE train WORKLOAD # train one workload's runs and stop

Every method is trained with POOL rates, drawn log-uniformly over the range its part declares: the same range on every
workload. The goal is AdamW's own: its best rate repeated over seeds, the median of the best loss. Bar of the check: the
order by profiles is the same in at least 80 % of bootstrap draws over studies, while the order by the best of all runs
changes with their number.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks.common import write
from windtunnel.fair import EXTERNAL, Goal, Timed, goals_from, in_studies, scores, timed
from windtunnel.launch.one import execute
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import CNN, MLP
from windtunnel.parts.optimizers import LAMB, SGD, AdamW
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run, RunSpec
from windtunnel.train.pack import Pack

POOL, REFERENCE_SEEDS, LONGER = 15, 6, 4 / 3
DRAWS = 2000
WORKLOADS = ("bytes transformer", "digits perceptron", "digits convolution")
OPTIMIZERS = {"AdamW": AdamW(), "momentum SGD": SGD(), "LAMB": LAMB()}


def workload(name: str) -> tuple[Recipe, wt.Rung]:
    """Recipe and rung: bytes of the standard library, digits for a perceptron and a convolutional network."""
    data = wt.data.stdlib(context=32) if name == "bytes transformer" else replace(wt.data.digits(), repeat=True)
    base = wt.recipes.transformer_mup_adamw(data=data).but(schedule=Constant(), batch=FixedBatch(examples=16))
    images = base.but(batch=FixedBatch(examples=64))
    return {
        "bytes transformer": (base, wt.Rung(width=16, depth=2, heads=2, tokens=60_000)),
        "digits perceptron": (images.but(model=MLP()), wt.Rung(width=32, depth=2, tokens=16_000)),
        "digits convolution": (images.but(model=CNN()), wt.Rung(width=8, depth=1, tokens=12_000)),
    }[name]


def trained(store: wt.Store, recipe: Recipe, rung: wt.Rung, asked: Sequence[tuple[float, int]]) -> list[Run]:
    """Runs of (learning rate, seed), from the store or trained as packs of up to 6."""
    judge = Judge(data=recipe.data, tokens=2048, evaluations=40)
    settled = recipe.settled(rung)
    specs = [
        RunSpec(recipe=recipe.describe(), rung=settled, hyperparameters={"lr": rate}, seed=seed,
                judge=judge.describe(), base_rung=rung)
        for rate, seed in asked
    ]  # fmt: skip
    missing = [spec for spec in specs if spec.key not in store]
    for first in range(0, len(missing), 6):
        pack = Pack(recipe=recipe, specs=tuple(missing[first : first + 6]), judge=judge)
        execute(pack, store, device=torch.device("cpu"))
    return [store.get(spec.key) for spec in specs]


def rates(optimizer: Any, count: int, seed: int) -> list[float]:
    """Log-uniform over the declared range, the same on every workload."""
    drawn = np.random.default_rng(seed).uniform(np.log(optimizer.lr.low), np.log(optimizer.lr.high), count)
    return [float(f"{rate:.4g}") for rate in np.exp(drawn)]


def pools(store: wt.Store, only: str = "") -> tuple[dict[str, Goal], dict[tuple[str, str], list[Timed]]]:
    """Goals from AdamW's repeated best, and every method's runs on every workload."""
    found: dict[tuple[str, str], list[Timed]] = {}
    reference: list[Timed] = []
    for name in [only] if only else WORKLOADS:
        recipe, rung = workload(name)
        longer = rung.but(tokens=int(rung.tokens * LONGER))
        for place, (method, optimizer) in enumerate(OPTIMIZERS.items()):
            asked = list(zip(rates(optimizer, POOL, place), range(POOL), strict=True))
            runs = trained(store, recipe.but(optimizer=optimizer), longer, asked)
            found[method, name] = timed(runs, method=method, workload=name)
            print(name, method, f"{np.median([run.best('loss') for run in found[method, name]]):.4f}", flush=True)
        searched = found["AdamW", name]
        at = int(np.argmin([run.best("loss") for run in searched]))
        best = rates(OPTIMIZERS["AdamW"], POOL, 0)[at]
        again = trained(store, recipe, rung, [(best, 1000 + seed) for seed in range(REFERENCE_SEEDS)])
        reference += timed(again, method="AdamW", workload=name)
    return goals_from(reference, longer=LONGER), found


def order(times: np.ndarray) -> tuple[int, ...]:
    """Methods by their score, best first."""
    return tuple(np.argsort(-scores(times), kind="stable").tolist())


def best_of_all(pool: dict[tuple[str, str], list[Timed]], goals: dict[str, Goal], unit: str) -> dict[str, Any]:
    """The order by each method's single best run among the first `count`, and among `count` drawn by chance."""
    reached = np.array(
        [[[run.reached(goals[w], unit) for run in pool[m, w]] for w in goals] for m in OPTIMIZERS]
    )  # methods, workloads, runs
    whole, draw = order(reached.min(axis=2)), np.random.default_rng(0)
    counts = (1, 2, 3, 5, 8, 10, 12, POOL)
    first = {count: order(reached[:, :, :count].min(axis=2)) for count in counts}
    agree = {
        count: float(np.mean([order(_drawn(reached, count, draw).min(axis=2)) == whole for _ in range(DRAWS)]))
        for count in counts
    }
    parted = [_median_of_bests(_drawn(reached, POOL, draw)) for _ in range(DRAWS)]
    names = list(OPTIMIZERS)
    return {
        "order_by_best_of_first": {count: [names[i] for i in found] for count, found in first.items()},
        "distinct_orders": len(set(first.values())),
        "best_of_some_agrees_with_best_of_all": agree,
        "same_order_however_parted_into_studies": max(parted.count(o) for o in set(parted)) / DRAWS,
    }


def _drawn(reached: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` runs of each method and workload without repetition."""
    places = draw.permuted(np.broadcast_to(np.arange(reached.shape[2]), reached.shape), axis=2)[:, :, :count]
    return np.take_along_axis(reached, places, axis=2)


def _median_of_bests(runs: np.ndarray) -> tuple[int, ...]:
    studies = runs.reshape(*runs.shape[:2], EXTERNAL.studies, EXTERNAL.runs)
    return order(np.median(studies.min(axis=3), axis=2))


def main() -> None:
    """Train what is missing, compare, and write."""
    if sys.argv[2:3] == ["train"]:
        pools(wt.Store(sys.argv[1]), sys.argv[3])
        return
    goals, pool = pools(wt.Store(sys.argv[1]))
    result: dict[str, Any] = {"goals": {w: {"loss": g.value, "limit": g.limits["flops"]} for w, g in goals.items()}}
    kept = [run for runs in pool.values() for run in in_studies(runs, EXTERNAL.runs)]
    for name, charged in {"best run": False, "tuning charged": True}.items():
        found = wt.compare_fairly(kept, goals, unit="flops", charge_tuning=charged)
        print(found, "\n", flush=True)
        result[name] = found.to_json()
        if not charged and len(sys.argv) > 2:
            Path(sys.argv[2]).write_text(found.figure())
    result |= best_of_all(pool, goals, "flops")
    print({name: result[name] for name in list(result)[-4:]})
    print(write("fair", result | {"runs": POOL, "draws": DRAWS}))


if __name__ == "__main__":
    main()
