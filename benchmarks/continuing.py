"""D2 on a real shift, English to German: re-warm, re-decay and replay beside re-training on both; forgetting foretold.

    python -m benchmarks.continuing train --widths 16 24 32      # the ladder
    python -m benchmarks.continuing train --widths 64            # the target, 3.5 times the largest rung's parameters
    python -m benchmarks.continuing told                         # writes benchmarks/results/continuing.json

Byte transformers of depth 2, STAGE steps of 256 tokens on each text, three seeds: a few minutes of one core. A newcomer
would call the old text's loss at the end forgetting; some of it was never learnt: the first stage's end is taken off.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks.common import write
from benchmarks.schedules_runs import BATCH, CONTEXT, CPU, JUDGED, SEEDS, STEP, STORE, TEXTS, english, recipe, rung
from windtunnel.launch.one import execute
from windtunnel.parts.probes import LossOn
from windtunnel.parts.schedules import Rewarmed, cosine_to
from windtunnel.recipe import Judge
from windtunnel.runs import Run, RunSpec
from windtunnel.train.pack import Pack

STAGE, RATE = 200, 2.0**-7
WARMUP = 20 * STEP
LADDER, TARGET = (16, 24, 32), 72
REPLAYS = (0.0, 0.05, 0.25)
OLD = "loss_on_english"


@cache
def german() -> Any:
    """Image descriptions, one a line (Multi30k)."""
    return wt.data.text(TEXTS / "multi30k_captions.de.txt", context=CONTEXT)


def arms() -> dict[str, tuple[Any, Any, int]]:
    """Name to data, schedule and steps. Joint: every second example English, from the second step on."""
    cosine = cosine_to(0.1, warmup_tokens=WARMUP)
    again = Rewarmed(each=cosine, at_tokens=(STAGE * STEP,), warmup_tokens=WARMUP)
    both = {
        f"replay {share:.0%}": (
            wt.data.successive(english(), german(), tokens=STAGE * STEP, replay=share), again, 2 * STAGE,
        )
        for share in REPLAYS
    }  # fmt: skip
    joint = wt.data.successive(english(), german(), tokens=STEP, replay=0.5)
    return {"first stage": (english(), cosine, STAGE), **both, "joint": (joint, cosine, 2 * STAGE)}


def pack(arm: str, width: int) -> Pack:
    """Three seeds of one arm at one width, judged on German and probed on English."""
    data, schedule, steps = arms()[arm]
    judge = Judge(
        data=german(), tokens=JUDGED, evaluations=1, probes=(LossOn(name="english", data=english(), tokens=JUDGED),)
    )
    filled = recipe(schedule, BATCH, data)
    described, judged = filled.describe(), judge.describe()
    specs = tuple(
        RunSpec(recipe=described, rung=rung(width, steps * STEP), hyperparameters={"lr": RATE}, seed=seed,
                judge=judged, base_rung=rung(32, 800 * STEP))
        for seed in SEEDS
    )  # fmt: skip
    labels = ({"study": "continuing", "idea": arm, "stage": ""},) * len(specs)
    return Pack(recipe=filled, specs=specs, judge=judge, labels=labels)


def runs(arm: str, width: int, *, stored: bool = False) -> list[Run]:
    """The runs, trained if the store lacks them; with `stored`, only those that are there."""
    store, asked = wt.Store(STORE), pack(arm, width)
    if not stored:
        execute(asked, store, device=CPU)
    return [store.get(spec.key) for spec in asked.specs if spec.key in store]


def told() -> dict[str, Any]:
    """Losses on both texts by width and arm, D2's two bars, and forgetting foretold at the target."""
    found: dict[str, Any] = {"steps a stage": STAGE, "widths": {}}
    for width in (*LADDER, TARGET):
        losses = {arm: both(runs(arm, width, stored=True)) for arm in arms()}
        if all(len(seeds) == len(SEEDS) for seeds in losses.values()):
            found["widths"][width] = at_width(losses)
    found["foretold"] = {arm: foretold(arm) for arm in list(arms())[1:]}
    return found


def both(ended: Sequence[Run]) -> np.ndarray:
    """German and English loss by seed: (seeds, 2)."""
    return np.array([[run.loss, run.metrics[OLD]] for run in ended])


def at_width(losses: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over seeds; forgetting since the first stage; the mean of both losses over the joint run's, in percent."""
    first, joint = losses["first stage"][:, 1], losses["joint"].mean(axis=1)
    return {
        arm: {
            "german": float(seeds[:, 0].mean()), "english": float(seeds[:, 1].mean()),
            "forgotten": mean_error(seeds[:, 1] - first),
            "mean of both over joint, %": mean_error(100 * (seeds.mean(axis=1) / joint - 1)),
        }
        for arm, seeds in losses.items()
    }  # fmt: skip


def mean_error(values: np.ndarray) -> dict[str, float]:
    """Mean and standard error over seeds."""
    return {"mean": float(values.mean()), "error": float(values.std(ddof=1) / np.sqrt(len(values))), "n": len(values)}


def foretold(arm: str) -> dict[str, Any]:
    """English and German loss at the target's size from the ladder's, beside what was measured there."""
    below = [run for width in LADDER for run in runs(arm, width, stored=True)]
    there = runs(arm, TARGET, stored=True)
    size = pack(arm, TARGET).size()
    said: dict[str, Any] = {"rungs": len(LADDER), "runs": len(below)}
    for name, metric in (("english", OLD), ("german", None)):
        interval = wt.fit(wt.Observations.from_runs(below, metric)).forecast(
            wt.Target(params=size.params, tokens=below[0].spec.rung.tokens)
        )
        truth = [run.metrics[metric] if metric else run.loss for run in there]
        said[name] = {"forecast": interval.loss.to_json(), "caveats": list(interval.caveats)}
        if truth:
            mean = float(np.mean(np.array(truth, float)))
            said[name] |= {"measured": mean, "n": len(truth), "inside": interval.loss.holds(mean)}
    return said


def main() -> None:
    """Train widths, or tell what is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("train", "told"))
    parser.add_argument("--widths", type=int, nargs="+", default=[*LADDER, TARGET])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.act == "told":
        print(write("continuing", told()))
        return
    for width in args.widths:
        for arm in arms():
            ended = both(runs(arm, width))
            print(f"width {width}, {arm}: german, english {ended.mean(axis=0).round(4)}", flush=True)


if __name__ == "__main__":
    main()
