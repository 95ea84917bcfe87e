"""Tuned at batch B and D tokens, used at 4 B and 4 D: what each rule of batch and horizon costs against tuning again.

    python -m benchmarks.horizon [--store FOLDER] [--seeds 3] [--corners 4,4 1,4 4,1]

A byte-level transformer of width 64 and depth 2, AdamW with weight decay 0.1. At the base the learning rate is tuned;
at every corner each rule's values are used once a seed, and the rate is tuned again with the base's other values.
Corners that the result file has stay, where seeds and base were the same.
Gaps are the loss of a rule's values over the loss with the rate tuned again, and over the lowest mean loss that
anything reached there: a rule that moves the betas too can beat a rate tuned without them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from typing import Any

import numpy as np

import windtunnel as wt
from benchmarks.common import RESULTS, write
from windtunnel.launch.here import Here
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.runs import RunSpec
from windtunnel.scaling.rules.carry import RULES
from windtunnel.train.pack import Pack
from windtunnel.transfers.carried import mean_interval
from windtunnel.transfers.recipes import tried_in
from windtunnel.tune import basin

RATES = [2.0**k for k in range(-10, -3)]
BASE = wt.Rung(width=64, depth=2, heads=4, tokens=122_880, batch=8)


def recipe_of(data: Any, rule: Any) -> wt.Recipe:
    """The base recipe, its values following `rule`."""
    optimizer = AdamW(lr=wt.tuned(min(RATES), max(RATES)), weight_decay=0.1)
    return wt.recipes.transformer_mup_adamw(data=data).but(
        optimizer=optimizer, batch=FixedBatch(examples=BASE.batch or 1, carry=rule)
    )


def packs(recipe: wt.Recipe, judge: wt.Judge, rung: wt.Rung, rates: list[float], seeds: int) -> list[Pack]:
    """One pack a seed where rates are tuned, one pack of all seeds where a single rate is used."""
    asked = {"recipe": recipe.describe(), "rung": rung, "judge": judge.describe(), "base_rung": BASE}
    specs = [[RunSpec(hyperparameters={"lr": lr}, seed=s, **asked) for lr in rates] for s in range(seeds)]
    members = specs if len(rates) > 1 else [[spec for each in specs for spec in each]]
    return [Pack(recipe=recipe, judge=judge, specs=tuple(each)) for each in members]


def main() -> None:
    """Tune, carry, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--corners", nargs="*", default=["4,4", "1,4", "4,1"])
    args = parser.parse_args()
    store = wt.Store(args.store or tempfile.mkdtemp(prefix="horizon-"))
    data = wt.data.text(context=64)
    judge = wt.Judge(data=data, tokens=65_536, evaluations=1)
    at_base = packs(recipe_of(data, None), judge, BASE, RATES, args.seeds)
    Here()(at_base, store)
    tuned = basin("lr", tried_in(store, at_base, "lr"))
    print(f"base: best lr 2^{math.log2(tuned.optimum.median):.2f}, loss {tuned.parabola[0]:.4f}", flush=True)
    result: dict[str, Any] = {"seeds": args.seeds, "base_log2_lr": math.log2(tuned.optimum.median)}
    result["corners"] = earlier(result)
    for corner in args.corners:
        batch, tokens = map(int, corner.split(","))
        rung = BASE.but(batch=(BASE.batch or 1) * batch, tokens=BASE.tokens * tokens)
        result["corners"][corner] = measured(store, judge, data, rung, tuned.optimum.median, args.seeds)
    print(write("horizon", result))


def earlier(result: dict[str, Any]) -> dict[str, Any]:
    """The corners that were measured before with the same seeds and, but for the processor's rounding, base."""
    path = RESULTS / "horizon.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    same = all(math.isclose(kept.get(name, 0.0), value, abs_tol=0.05) for name, value in result.items())
    print(f"{'kept' if same else 'dropped'}: {', '.join(kept.get('corners', {}))}", flush=True)
    return kept["corners"] if same else {}


def measured(store: wt.Store, judge: wt.Judge, data: Any, rung: wt.Rung, lr: float, seeds: int) -> dict[str, Any]:
    """Train and print one corner."""
    used = float(f"{lr:.4g}")
    again = packs(recipe_of(data, None), judge, rung, RATES, seeds)
    carried = {rule.__name__: packs(recipe_of(data, rule), judge, rung, [used], seeds) for rule in RULES}
    Here()([*again, *(pack for each in carried.values() for pack in each)], store)
    tuned = basin("lr", tried_in(store, again, "lr"))
    tried = {name: tried_in(store, each, "lr") for name, each in carried.items()}
    means = {name: float(np.mean([t.loss or math.inf for t in each])) for name, each in tried.items()}
    best = min(tuned.parabola[0], *means.values())
    print(f"{rung}, batch {rung.batch}: tuned again 2^{math.log2(tuned.optimum.median):.2f}, "
          f"{tuned.parabola[0]:.4f}; lowest mean {best:.4f}", flush=True)  # fmt: skip
    rows = {}
    for name, each in tried.items():
        gaps = [mean_interval([(t.loss or math.inf) / level - 1 for t in each]) for level in (tuned.parabola[0], best)]
        rows[name] = {
            "loss": means[name],
            "gap_to_tuned_again": gaps[0].to_json(),
            "gap_to_best": gaps[1].to_json(),
            "losses": [t.loss for t in each],
        }
        shown = [f"{100 * gap.median:+.2f} % [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]" for gap in gaps]
        print(f"  {name:<16} loss {means[name]:.4f}, {shown[0]} to tuned again, {shown[1]} to best", flush=True)
    return {
        "batch": rung.batch, "tokens": rung.tokens, "tuned_again_log2_lr": math.log2(tuned.optimum.median),
        "tuned_again_loss": tuned.parabola[0], "best_loss": best, "rules": rows,
    }  # fmt: skip


if __name__ == "__main__":
    main()
