"""Learned optimizers meta-trained from scratch, beside tuned Adam at home, at other widths and over other horizons.

Digits, 64-w-w-10 MLP, batch 64, meta-trained at width 32. Three arms: muP with constant rates (as published), muP with
the schedule in the loop, and the standard parametrization with constant rates, whose failure at other widths is what
muLO (2406.00153) claims. Beside each, Adam in the same parametrization and schedule, rate and beta2 tuned at width 32
on the same objective with seeds of its own. `train ARM SEED` (a few minutes of one core each) keeps the weights,
`told` evaluates all and writes the result.

A newcomer would compare with one meta-training: these differ by seed as runs do, so there are three of each arm.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks.common import interval, runs_of, write
from windtunnel.meta.matrix import losses_of
from windtunnel.meta.task import Task
from windtunnel.meta.training import MetaTraining, Progress
from windtunnel.meta.unroll import Horizons
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.models import MLP
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Constant, Cosine
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run
from windtunnel.scaling.rules.at_base import AtBase
from windtunnel.scaling.rules.standard import Standard

FOLDER = Path(os.environ.get("WINDTUNNEL_LEARNED", "runs/learned"))
HOME, BATCH, STEPS, FAR = 32, 64, 200, 1000
WIDTHS = (32, 128, 512)
META_SEEDS = (0, 1, 2)
SEEDS = {HOME: tuple(range(24))}
FEW = tuple(range(4))
TUNING = tuple(range(900, 908))
RATES, BETAS = tuple(2.0**k for k in range(-9, 1)), (0.9, 0.99, 0.999)
OUTER_STEPS = int(os.environ.get("WINDTUNNEL_OUTER_STEPS", "2500"))
LAST = 10  # steps whose mean is the final training loss


@dataclass(frozen=True)
class Arm:
    """A parametrization, a schedule, and a quarter of tuned Adam's rate for the untrained network's step."""

    rule: Any
    schedule: Any
    step_size: float

    @property
    def horizons(self) -> Horizons:
        scheduled = isinstance(self.schedule, Cosine)
        return Horizons(schedule="cosine") if scheduled else Horizons(low=66, high=200, schedule="constant")


MUP = AtBase(width=HOME, zero_readout=True)
FLAT, FALLING = Constant(warmup=0.0), Cosine(warmup=0.0, floor=0.0)
ARMS = {
    "mup": Arm(MUP, FLAT, 0.008),
    "mup cosine": Arm(MUP, FALLING, 0.008),
    "standard": Arm(Standard(), FLAT, 0.008),
}
# Adam in each parametrization and schedule, tuned on mean or final loss: the learned arms' rivals.
RIVALS = {f"{rule} {way}".strip(): Arm(r, s, 0.0) for rule, r in (("mup", MUP), ("standard", Standard()))
          for way, s in (("", FLAT), ("cosine", FALLING))}  # fmt: skip
TUNED_ON = {name: ("mean", "final") if "cosine" in name else ("mean",) for name in RIVALS}


def recipe(arm: Arm, optimizer: Any) -> Recipe:
    """How the MLP is trained."""
    return Recipe(
        model=MLP(), parametrization=arm.rule, optimizer=optimizer, schedule=arm.schedule,
        batch=FixedBatch(examples=BATCH), data=wt.data.digits(), objective=CrossEntropy(),
    )  # fmt: skip


def rung(width: int, steps: int = STEPS) -> wt.Rung:
    """So many steps at a width."""
    return wt.Rung(width=width, depth=2, heads=1, tokens=steps * BATCH, batch=BATCH)


def meta_trained(name: str, seed: int, steps: int = OUTER_STEPS) -> Weights:
    """The weights of an arm, from their file or trained now."""
    place = trained_file(name, seed, steps)
    if place.exists():
        return Weights.load(place)
    arm = ARMS[name]
    task = Task(name="digits", recipe=recipe(arm, AdamW(lr=1.0)), rung=rung(HOME), base=rung(2 * HOME))
    asked = MetaTraining(tasks=(task,), step_size=arm.step_size, outer_steps=steps, horizons=arm.horizons, seed=seed)
    weights = asked.run(FOLDER / f"{place.stem}-checkpoints", report=_told)
    assert weights is not None
    FOLDER.mkdir(parents=True, exist_ok=True)
    weights.save(place)
    return weights


def trained_file(name: str, seed: int, steps: int = OUTER_STEPS) -> Path:
    """Where an arm's weights are kept."""
    return FOLDER / f"{name.replace(' ', '-')}-{seed}-{steps}.safetensors"


def _told(now: Progress) -> None:
    if now.step % 100 == 0:
        print(f"{now.step} of {now.steps}, meta-loss {now.loss:.4f}, {now.inner_steps / now.seconds:.0f}/s", flush=True)


def trained(
    arm: Arm, optimizer: Any, width: int, steps: int, seeds: Sequence[int], rates: Sequence[float]
) -> list[Run]:
    """Ordinary runs, from the store or trained now, by rate and seed."""
    made = recipe(arm, optimizer)
    judge = Judge(data=made.data, tokens=359, evaluations=1)
    asked = [(rate, seed) for rate in rates for seed in seeds]
    base = rung(HOME if width != HOME else 2 * HOME, steps)
    return runs_of(
        str(FOLDER / "store"), made, rung(width, steps), judge, asked, base=base, study="learned", stored=False
    )


def tuned_adam(arm: Arm, objective: str, steps: int = STEPS) -> tuple[float, float, float]:
    """(rate, beta2, objective) of Adam at home, the best of all by the mean over tuning seeds."""
    best = (float("inf"), 0.0, 0.0)
    for beta2 in BETAS:
        runs = trained(arm, AdamW(lr=wt.tuned(1e-4, 2.0), beta2=beta2), HOME, steps, TUNING, RATES)
        for number, rate in enumerate(RATES):
            value = float(np.mean(losses_of(runs[number * len(TUNING) : (number + 1) * len(TUNING)])[objective]))
            best = min(best, (value, rate, beta2))
    return best[1], best[2], best[0]


def evaluated(arm: Arm, optimizer: Any, rate: float | None) -> dict[str, Any]:
    """Over widths at the home horizon, and at home at five times it."""
    found: dict[str, Any] = {}
    for width, steps in [*((w, STEPS) for w in WIDTHS), (HOME, FAR)]:
        seeds = SEEDS.get(width, FEW) if steps == STEPS else FEW
        runs = trained(arm, optimizer, width, steps, seeds, [rate if rate is not None else 1.0])
        found[f"width {width}, {steps} steps"] = {n: interval(v) for n, v in losses_of(runs).items()}
    return found


def told() -> dict[str, Any]:
    """Everything, as plain data."""
    result: dict[str, Any] = {"outer_steps": OUTER_STEPS, "arms": {}, "adam": {}}
    for name, arm in RIVALS.items():
        for objective in TUNED_ON[name]:
            rate, beta2, _ = tuned_adam(arm, objective)
            part = AdamW(lr=wt.tuned(1e-4, 2.0), beta2=beta2)
            said = {"lr": rate, "beta2": beta2, "tuned_on": objective} | evaluated(arm, part, rate)
            result["adam"][f"{name}, tuned on {objective} loss"] = said
            print(
                name,
                objective,
                {cell: figure["mean"]["mean"] for cell, figure in said.items() if "width" in cell},
                flush=True,
            )
    for name, arm in ARMS.items():
        result["arms"][name] = {}
        for seed in META_SEEDS:
            if not trained_file(name, seed).exists():
                continue
            weights = meta_trained(name, seed)
            part = SmallFC(weights=weights, lr=wt.tuned(0.5, 2.0))
            said = {"hash": weights.hash, "made": dict(weights.card.made)} | evaluated(arm, part, None)
            result["arms"][name][str(seed)] = said
            print(
                name,
                seed,
                {cell: figure["mean"]["mean"] for cell, figure in said.items() if "width" in cell},
                flush=True,
            )
    return result


def main() -> None:
    """`adam` tunes, `train ARM SEED` meta-trains, `told` does what is left and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("adam", "train", "told"))
    parser.add_argument("arm", nargs="?", choices=tuple(ARMS))
    parser.add_argument("seed", nargs="?", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.act == "adam":
        for name, arm in RIVALS.items():
            print(name, {o: tuned_adam(arm, o) for o in TUNED_ON[name]}, flush=True)
    elif args.act == "train":
        print(meta_trained(args.arm or "mup", args.seed))
    else:
        print(write("learned_quality", told()))


if __name__ == "__main__":
    main()
