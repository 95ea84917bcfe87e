"""Learned optimizers meta-trained from scratch, beside tuned Adam at home, at other widths and over other horizons.

Digits, 64-w-w-10 MLP, batch 64, meta-trained at width 32. Five arms: muP with constant rates (as published), muP with
the schedule in the loop, the same with a validation batch's loss as meta-loss, the same with Celo2, whose network
learns directions of hidden matrices alone, and the standard parametrization with constant rates, whose failure at
other widths is what muLO (2406.00153) claims. Beside each, Adam in the same parametrization and schedule, rate and
beta2 tuned at width 32 on the same objective with seeds of its own. `whole` trains and evaluates the three published
arms on all cores, in less than twenty minutes of two, and writes the result with the time it took; what its folder
has is not made again. `validation` and `directions` do so with one of the other two beside the cosine's. `quick` does
what `whole` does in three minutes of one core with a sixteenth of the meta-training and one seed of it, prints the same
table, and writes nothing.

A newcomer would compare with one meta-training: these differ by seed as runs do, so there are three of each arm.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

import windtunnel as wt
from benchmarks.common import interval, runs_of, write
from windtunnel.meta.matrix import losses_of
from windtunnel.meta.rules import Direction, part_of
from windtunnel.meta.task import Task
from windtunnel.meta.training import MetaTraining, Progress
from windtunnel.meta.unroll import Horizons
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.models import MLP
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Constant, Cosine
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run
from windtunnel.scaling.rules.at_base import AtBase
from windtunnel.scaling.rules.standard import Standard

HOME, BATCH = 32, 64
TRUNCATION = 50  # steps, as published; with 20 the gradients of long trainings were noisier (seen on meta-seed 10)
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is spent, and where runs and weights are kept. Seeds of tuning are never those of judging."""

    folder: Path
    outer_steps: int
    meta_seeds: int = 3
    home: int = 24  # runs of each rule at home
    elsewhere: int = 4  # and in every other cell
    tuning: int = 8  # runs of each rate of Adam
    rates: tuple[float, ...] = tuple(2.0**k for k in range(-9, 1))
    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    widths: tuple[int, ...] = (HOME, 128, 512)
    steps: int = 200
    far: int = 1000

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Width and steps of what is judged."""
        return [*((width, self.steps) for width in self.widths), (HOME, self.far)]

    def seeds(self, width: int, steps: int) -> range:
        """Of the runs in a cell."""
        return range(self.home if (width, steps) == (HOME, self.steps) else self.elsewhere)


WHOLE = Extent(
    folder=Path(os.environ.get("WINDTUNNEL_LEARNED", "runs/learned")),
    outer_steps=int(os.environ.get("WINDTUNNEL_OUTER_STEPS", "1600")),
)
SHORTER = replace(WHOLE, outer_steps=1000, widths=(HOME, 128))  # of the validation arm, and of rules that are judged
# elsewhere (learned_generalisation.py): 800,000 inner steps


@dataclass(frozen=True)
class Arm:
    """A parametrization, a schedule, and a quarter of tuned Adam's rate for the untrained network's step."""

    rule: Any
    schedule: Any
    step_size: float
    validation: float = 0.0  # share of the training examples whose loss is the meta-loss
    direction: Direction | None = None  # of Celo2; `step_size` is then the rate at which it trains

    @property
    def horizons(self) -> Horizons:
        scheduled = isinstance(self.schedule, Cosine)
        return Horizons(schedule="cosine") if scheduled else Horizons(low=66, high=200, schedule="constant")


MUP = AtBase(width=HOME, zero_readout=True)
DIRECTIONAL = Features(scale_free=True, square_axes="oi", clipped=True, times=())  # what Celo2 looks at
FLAT, FALLING = Constant(warmup=0.0), Cosine(warmup=0.0, floor=0.0)
ARMS = {
    "mup": Arm(MUP, FLAT, 0.008),
    "mup cosine": Arm(MUP, FALLING, 0.008),
    "mup cosine validation": Arm(MUP, FALLING, 0.008, validation=0.2),
    "standard": Arm(Standard(), FLAT, 0.008),
    "celo2 cosine": Arm(MUP, FALLING, 0.008, direction=Direction(others_rate=4.0)),  # others at tuned Adam's own rate
}
PUBLISHED = ("mup", "mup cosine", "standard")  # what the claims are about
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


def rung(width: int, steps: int = 200) -> wt.Rung:
    """So many steps at a width."""
    return wt.Rung(width=width, depth=2, heads=1, tokens=steps * BATCH, batch=BATCH)


def question(name: str, seed: int, extent: Extent = WHOLE) -> MetaTraining:
    """How an arm is meta-trained."""
    arm = ARMS[name]
    task = Task(name="digits", recipe=recipe(arm, AdamW(lr=1.0)), rung=rung(HOME), base=rung(2 * HOME))
    return MetaTraining(
        tasks=(task,), step_size=arm.step_size, outer_steps=extent.outer_steps, horizons=arm.horizons, seed=seed,
        validation=arm.validation, warmup=min(100, extent.outer_steps // 10), direction=arm.direction,
        truncation=TRUNCATION,
        features=Features(scale_free=True, square_axes="oi") if arm.direction is None else DIRECTIONAL,
    )  # fmt: skip


def meta_trained(name: str, seed: int, extent: Extent = WHOLE) -> Weights:
    """The weights of an arm, from their file or trained now."""
    place, asked = trained_file(name, seed, extent), question(name, seed, extent)
    if place.exists():
        weights = Weights.load(place)
        if weights.card.made["key"] != asked.key:
            raise SystemExit(f"{place} holds weights of another meta-training; give another WINDTUNNEL_LEARNED.")
        return weights
    weights = asked.run(extent.folder / f"{place.stem}-checkpoints", report=partial(_told, f"{name}, seed {seed}"))
    assert weights is not None
    extent.folder.mkdir(parents=True, exist_ok=True)
    weights.save(place)
    return weights


def trained_file(name: str, seed: int, extent: Extent = WHOLE) -> Path:
    """Where an arm's weights are kept."""
    return extent.folder / f"{name.replace(' ', '-')}-{seed}-{extent.outer_steps}.safetensors"


def _told(who: str, now: Progress) -> None:
    if now.step % 500 == 0:
        print(f"{who}: {now.step} of {now.steps}, meta-loss {now.loss:.4f}, {now.inner_steps / now.seconds:.0f}/s")


def trained(
    arm: Arm, optimizer: Any, cell: tuple[int, int], seeds: Sequence[int], rates: Sequence[float], extent: Extent
) -> list[Run]:
    """Ordinary runs of a cell (width, steps), from the store or trained now, by rate and seed."""
    width, steps = cell
    made = recipe(arm, optimizer)
    judge = Judge(data=made.data, tokens=359, evaluations=1)
    asked = [(rate, seed) for rate in rates for seed in seeds]
    base = rung(HOME if width != HOME else 2 * HOME, steps)
    return runs_of(
        str(extent.folder / "store"), made, rung(width, steps), judge, asked, base=base, study="learned", stored=False
    )


def tuned_adam(arm: Arm, objective: str, extent: Extent = WHOLE) -> tuple[float, float, float]:
    """(rate, beta2, objective) of Adam at home, the best of all by the mean over tuning seeds."""
    best, seeds = (float("inf"), 0.0, 0.0), range(900, 900 + extent.tuning)
    for beta2 in extent.betas:
        part = AdamW(lr=wt.tuned(1e-4, 2.0), beta2=beta2)
        runs = trained(arm, part, (HOME, extent.steps), seeds, extent.rates, extent)
        for number, rate in enumerate(extent.rates):
            value = float(np.mean(losses_of(runs[number * len(seeds) : (number + 1) * len(seeds)])[objective]))
            best = min(best, (value, rate, beta2))
    return best[1], best[2], best[0]


def evaluated(arm: Arm, optimizer: Any, rate: float, extent: Extent) -> dict[str, Any]:
    """Over widths at the home horizon, and at home over a far one."""
    found: dict[str, Any] = {}
    for cell in extent.cells:
        runs = trained(arm, optimizer, cell, extent.seeds(*cell), [rate], extent)
        found[_named(*cell)] = {n: interval(v) for n, v in losses_of(runs).items()}
    return found


def _named(width: int, steps: int) -> str:
    return f"width {width}, {steps} steps"


def told(extent: Extent = WHOLE, arms: Sequence[str] = PUBLISHED, processes: int = 1) -> dict[str, Any]:
    """Everything of these arms and of their rivals, trained where it lacks, as plain data."""
    schedules = [ARMS[name].schedule for name in arms]
    learned = [(name, seed) for seed in range(extent.meta_seeds) for name in arms]
    rivals = [name for name, arm in RIVALS.items() if arm.schedule in schedules]
    asked = [partial(told_of, *one, extent) for one in learned] + [partial(told_of_adam, one, extent) for one in rivals]
    said = dict(zip([*learned, *rivals], _each(asked, processes), strict=True))
    return {
        "outer_steps": extent.outer_steps,
        "arms": {name: {str(seed): said[name, seed] for seed in range(extent.meta_seeds)} for name in arms},
        "adam": {f"{name}, tuned on {on} loss": found for name in rivals for on, found in said[name].items()},
    }


def _each(asked: Sequence[Callable[[], dict[str, Any]]], processes: int) -> list[dict[str, Any]]:
    """What each call finds, in order; the calls on so many processes of one thread."""
    if processes < 2:
        return [call() for call in asked]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [found.result() for found in [pool.submit(call) for call in asked]]


def told_of(name: str, seed: int, extent: Extent) -> dict[str, Any]:
    """One meta-training's weights in every cell."""
    weights = meta_trained(name, seed, extent)
    part: Any = part_of(weights)
    part, rate = replace(part, lr=wt.tuned(part.lr / 2, 2 * part.lr)), part.lr
    return {"hash": weights.hash, "made": dict(weights.card.made)} | evaluated(ARMS[name], part, rate, extent)


def told_of_adam(name: str, extent: Extent) -> dict[str, dict[str, Any]]:
    """Adam tuned at home on each objective of a rival, in every cell."""
    found: dict[str, dict[str, Any]] = {}
    for objective in TUNED_ON[name]:
        rate, beta2, _ = tuned_adam(RIVALS[name], objective, extent)
        part = AdamW(lr=wt.tuned(1e-4, 2.0), beta2=beta2)
        chosen = {"lr": rate, "beta2": beta2, "tuned_on": objective}
        found[objective] = chosen | evaluated(RIVALS[name], part, rate, extent)
    return found


def beside(other: str, extent: Extent) -> dict[str, Any]:
    """An arm and the one with the cosine: what the other changes, in pairs of meta-seeds."""
    result = told(extent, ("mup cosine", other), processes=CORES)
    plain, changed = (result["arms"][name] for name in ("mup cosine", other))
    result["changed"] = {
        _named(*cell): {
            what: interval(
                [changed[s][_named(*cell)][what]["mean"] - plain[s][_named(*cell)][what]["mean"] for s in sorted(plain)]
            )
            for what in ("mean", "final", "test")
        }
        for cell in extent.cells
    }
    return result


def table(result: Mapping[str, Any], extent: Extent = WHOLE) -> str:
    """The result as lines: mean losses by width, then final, test and far losses at home."""
    rules = {f"{name}, seed {seed}": said for name, by in result["arms"].items() for seed, said in by.items()}
    rules |= {f"Adam, {name}": said for name, said in result["adam"].items()}
    head = [f"mean, {width}" for width in extent.widths]
    head += ["final", "test", f"mean, {extent.far}", f"final, {extent.far}", f"test, {extent.far}"]
    home, far = _named(HOME, extent.steps), _named(HOME, extent.far)
    lines = [f"{'nats':<44}" + "".join(f"{h:>13}" for h in head)]
    for name, said in rules.items():
        values = [said[_named(width, extent.steps)]["mean"]["mean"] for width in extent.widths]
        values += [said[home][what]["mean"] for what in ("final", "test")]
        values += [said[far][what]["mean"] for what in ("mean", "final", "test")]
        lines.append(f"{name:<44}" + "".join(f"{value:>13.4f}" for value in values))
    return "\n".join(lines)


def claims(result: Mapping[str, Any], extent: Extent = WHOLE) -> str:
    """Each claim with its figures, means over the seeds of meta-training, a line each."""
    home, wide, far = _named(HOME, extent.steps), _named(extent.widths[-1], extent.steps), _named(HOME, extent.far)

    def of(arm: str, cell: str, what: str) -> float:
        return float(np.mean([said[cell][what]["mean"] for said in result["arms"][arm].values()]))

    adam = {name: said[home] for name, said in result["adam"].items()}
    rival, scheduled = adam["mup, tuned on mean loss"]["mean"], adam["mup cosine, tuned on final loss"]["final"]
    mup, standard = (of(arm, wide, "mean") / of(arm, home, "mean") for arm in ("mup", "standard"))
    ours, final, ends = of("mup", home, "mean"), of("mup cosine", home, "final"), of("mup cosine", far, "final")
    found = [
        (ours <= rival["mean"], f"(a) muLO at home {ours:.4f}, tuned Adam under muP {rival['mean']:.4f}"),
        (mup <= 1.15, f"(b) muLO at width {extent.widths[-1]} is {mup:.2f} of home; at most 1.15"),
        (standard >= 3, f"(c) without a width rule {standard:.2f} of home; at least 3"),
        (
            final <= scheduled["mean"] and ends <= final,
            f"(d) with the cosine ends at {final:.4f}, tuned Adam at {scheduled['mean']:.4f}; "
            f"over {extent.far} steps at {ends:.4f}",
        ),
    ]
    return "\n".join(f"{'holds' if holds else 'does not hold':<15}{said}" for holds, said in found)


# The same in three minutes of one core.
QUICK = {"outer_steps": 100, "meta_seeds": 1, "home": 8, "elsewhere": 2, "tuning": 2, "betas": (0.99,)}


def quick(folder: Path, **changed: Any) -> tuple[dict[str, Any], Extent]:
    """The quick version's result, from scratch, and its extent."""
    extent = Extent(folder=folder, **(QUICK | changed))
    return told(extent), extent


def main() -> None:
    """`whole` from scratch, `validation` and `directions` write their results; `quick` writes none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("whole", "validation", "directions", "quick"))
    act = parser.parse_args().act
    torch.set_num_threads(1)
    began = time.monotonic()
    if act == "quick":
        with tempfile.TemporaryDirectory() as folder:
            result, extent = quick(Path(folder))
        print(f"{table(result, extent)}\n\n{claims(result, extent)}")
        print(f"the quick version, {time.monotonic() - began:.0f} s: a sixteenth of the meta-training, one seed of it")
    elif act in ("validation", "directions"):
        extent = SHORTER if act == "validation" else WHOLE
        result = beside("mup cosine validation" if act == "validation" else "celo2 cosine", extent)
        print(f"{table(result, extent)}\n{json.dumps(result['changed'], indent=1)}")
        print(write(f"learned_{act}", result))
    else:
        afresh = not any(trained_file(name, 0).exists() for name in PUBLISHED)
        result = told(processes=CORES)
        seconds = time.monotonic() - began
        print(f"{table(result)}\n\n{claims(result)}\n{seconds:.0f} s on {CORES} cores")
        if afresh:  # a figure of a whole run alone is worth keeping
            print(write("learned_quality", result | {"seconds": seconds}))


if __name__ == "__main__":
    main()
