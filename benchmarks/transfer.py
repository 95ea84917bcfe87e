"""Does the best learning rate stay where it is as the model grows 8x in width? muP against standard parametrization.

    python -m benchmarks.transfer [--tokens 60000] [--seeds 2] [--store FOLDER]

The same byte-level transformers, learning rates, seeds and data for both. For every width a basin is fitted; the drift
is the move of its optimum in log2 from the smallest width to each other one, with its 90 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

import windtunnel as wt
from benchmarks.common import write
from windtunnel.launch.here import Here
from windtunnel.parts.optimizers import AdamW
from windtunnel.runs import RunSpec
from windtunnel.train.pack import Pack
from windtunnel.tune import Basin, Tried, basin, transfer

CONTEXT, DEPTH, HEAD, WIDTHS = 64, 2, 8, (16, 32, 64, 128)
RATES = [2.0**k for k in (-10, -9, -8, -7, -6, -5, -4)]


def packs(recipe: wt.Recipe, judge: wt.Judge, tokens: int, seeds: int) -> dict[int, list[Pack]]:
    """For every width one pack a seed with all learning rates."""
    described, judged = recipe.describe(), judge.describe()
    shape = recipe.data.shape()
    rungs = [wt.Rung(width=w, depth=DEPTH, heads=w // HEAD, tokens=tokens) for w in WIDTHS]
    rungs = [rung.but(batch=recipe.batch(rung, shape)) for rung in rungs]

    def spec(rung: wt.Rung, lr: float, seed: int) -> RunSpec:
        return RunSpec(
            recipe=described, rung=rung, hyperparameters={"lr": lr}, seed=seed, judge=judged, base_rung=rungs[0]
        )

    def pack(rung: wt.Rung, seed: int) -> Pack:
        return Pack(recipe=recipe, judge=judge, specs=tuple(spec(rung, lr, seed) for lr in RATES))

    return {rung.width: [pack(rung, seed) for seed in range(seeds)] for rung in rungs}


def basins(store: wt.Store, asked: Mapping[int, list[Pack]]) -> dict[int, Basin]:
    """The learning-rate basin of every width."""
    found = {}
    for width, members in asked.items():
        runs = [store.get(spec.key) for pack in members for spec in pack.specs]
        found[width] = basin("lr", [Tried(r.spec.hyperparameters["lr"], r.spec.seed, r.loss) for r in runs])
    return found


def main() -> None:
    """Train both ladders, print the drift of each and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--store", default=None)
    args = parser.parse_args()
    data = wt.data.text(context=CONTEXT)
    judge = wt.Judge(data=data, tokens=65_536, evaluations=1)
    store = wt.Store(args.store or tempfile.mkdtemp(prefix="transfer-"))
    optimizer = AdamW(lr=wt.tuned(min(RATES), max(RATES)))
    result: dict[str, Any] = {"tokens": args.tokens, "seeds": args.seeds, "rates": RATES, "widths": WIDTHS}
    kinds = {"muP": wt.recipes.transformer_mup_adamw, "standard": wt.recipes.transformer_standard_adamw}
    asked = {
        n: packs(make(data=data).but(optimizer=optimizer), judge, args.tokens, args.seeds) for n, make in kinds.items()
    }
    Here()(sorted((p for a in asked.values() for ps in a.values() for p in ps), key=lambda p: -p.rung.width), store)
    for name in kinds:
        result[name] = measured(name, basins(store, asked[name]))
    result["losses"] = losses(store, asked)
    print(write("transfer", result))


def measured(name: str, found: Mapping[int, Basin]) -> list[dict[str, Any]]:
    """Print and return the optimum and drift at every width."""
    rows = []
    for width, there in found.items():
        moved = transfer(found[WIDTHS[0]], there, from_width=WIDTHS[0], to_width=width)
        best = there.optimum
        logs = [float(np.log2(v)) for v in (best.median, best.low, best.high)]
        rows.append({"width": width, "log2_lr": logs, "drift_log2": moved.moved.to_json(), "cost": moved.cost.to_json(),
                     "at_edge": there.at_edge})  # fmt: skip
        print(f"{name:<9} width {width:>4}: best log2 lr {logs[0]:+.2f} [{logs[1]:+.2f}, {logs[2]:+.2f}], drift "
              f"{moved.moved.median:+.2f} [{moved.moved.low:+.2f}, {moved.moved.high:+.2f}], cost of the base value "
              f"{100 * moved.cost.median:.2f} % [{100 * moved.cost.low:.2f}, {100 * moved.cost.high:.2f}]")  # fmt: skip
    return rows


def losses(store: wt.Store, asked: Mapping[str, Mapping[int, list[Pack]]]) -> list[dict[str, Any]]:
    """Every run's loss, for whoever wants to fit the basins otherwise."""
    return [
        {
            "rule": name,
            "width": width,
            "lr": spec.hyperparameters["lr"],
            "seed": spec.seed,
            "loss": store.get(spec.key).loss,
        }
        for (name, widths), width in product(asked.items(), WIDTHS)
        for pack in widths[width]
        for spec in pack.specs
    ]


if __name__ == "__main__":
    main()
