"""Local training on digits: a learned outer step beside averaging and the best of 48 SlowMo settings.

64-w-10 MLP, 4 workers of 4 local SGD steps on 16 examples each a round, 100 rounds. SlowMo's local rate, momentum and
outer rate and the averages' local rate are chosen at width 32 by the mean loss of seeds of their own; the learned rules
are meta-trained at width 32 with the local rates of GAMMAS and chosen by the same seeds. All are then judged on others,
at width 32 and, nothing chosen again, at 128. `train FORM SEED`, then `told`.

A newcomer would give the learned rule a local rate of its own and the baselines one of theirs found elsewhere: here
every rule has the same list.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks.common import interval, write
from windtunnel.meta.local import Local, bytes_per_round, simulated
from windtunnel.meta.task import Task
from windtunnel.meta.training import MetaTraining, Progress
from windtunnel.meta.unroll import Horizons
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.outer import STATISTICS, LearnedOuter, SlowMo
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.models import MLP
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import SGD
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import Recipe
from windtunnel.scaling.rules.at_base import AtBase

FOLDER = Path(os.environ.get("WINDTUNNEL_LOCAL", "runs/local"))
HOME, WIDE, ROUNDS, WORKERS, STEPS, BATCH = 32, 128, 100, 4, 4, 16
GAMMAS = (2.0, 1.0, 0.5, 0.3)
MOMENTA, SLOW = (0.5, 0.7, 0.8, 0.9), (1.0, 0.7, 0.5)  # with GAMMAS: 48 settings
FORMS = {"residual": (True, False), "plain": (False, False), "statistics": (True, True)}
META_SEEDS = (0, 1, 2)
TUNING, JUDGED = tuple(range(900, 908)), tuple(range(24))
OUTER_STEPS = int(os.environ.get("WINDTUNNEL_OUTER_STEPS", "600"))
STEP_SIZE = 0.008  # as in benchmarks/learned_quality.py
LAST = 10


def task(gamma: float, width: int = HOME) -> Task:
    """The task with this local rate."""
    recipe = Recipe(
        model=MLP(), parametrization=AtBase(width=HOME, zero_readout=True), optimizer=SGD(lr=gamma, momentum=0.0),
        schedule=Constant(), batch=FixedBatch(examples=BATCH), data=wt.data.digits(), objective=CrossEntropy(),
    )  # fmt: skip
    rungs = [wt.Rung(width=w, depth=1, heads=1, tokens=BATCH, batch=BATCH) for w in (width, 2 * width)]
    return Task(name="digits", recipe=recipe, rung=rungs[0], base=rungs[1])


def local(form: str = "residual") -> Local:
    """Workers and steps; the form of the learned rule."""
    residual, statistics = FORMS[form]
    return Local(workers=WORKERS, steps=STEPS, residual=residual, statistics=statistics)


def meta_trained(form: str, gamma: float, seed: int) -> Weights:
    """The outer rule's weights, from their file or trained now."""
    place = FOLDER / f"{form}-{gamma}-{seed}-{OUTER_STEPS}.safetensors"
    if place.exists():
        return Weights.load(place)
    more = len(STATISTICS) if FORMS[form][1] else 0
    asked = MetaTraining(
        tasks=(task(gamma),), step_size=STEP_SIZE, outer_steps=OUTER_STEPS, seed=seed, local=local(form),
        features=Features(scale_free=True, square_axes="oi", more=more),
        horizons=Horizons(low=50, high=100, schedule="constant"),
    )  # fmt: skip
    weights = asked.run(FOLDER / f"{place.stem}-checkpoints", report=_told)
    assert weights is not None
    return Weights.load(weights.save(place))


def _told(now: Progress) -> None:
    if now.step % 100 == 0:
        print(f"{now.step} of {now.steps}, meta-loss {now.loss:.4f}, {now.seconds:.0f} s", flush=True)


def losses(outer: Any, gamma: float, seeds: tuple[int, ...], width: int = HOME) -> dict[str, list[float]]:
    """Mean over the rounds and mean of the last ones, by seed; infinite where it diverged."""
    form = "statistics" if getattr(outer, "statistics", False) else "residual"
    found = simulated(task(gamma, width), local(form), outer, rounds=ROUNDS, seeds=seeds).double().numpy()
    found = np.where(np.isfinite(found), found, np.inf)
    return {"mean": found.mean(0).tolist(), "final": found[-LAST:].mean(0).tolist()}


def chosen(options: dict[str, tuple[Any, float]]) -> tuple[str, Any, float]:
    """The option with the lowest mean loss over the tuning seeds."""
    scored = {name: float(np.mean(losses(*option, TUNING)["mean"])) for name, option in options.items()}
    best = min(scored, key=lambda name: scored[name])
    print(f"{best}: {scored[best]:.4f}", flush=True)
    return best, *options[best]


def judged(outer: Any, gamma: float) -> dict[str, Any]:
    """On the other seeds, at both widths: mean and 90 % interval, and each seed's mean loss for pairs."""
    said: dict[str, Any] = {}
    for width in (HOME, WIDE):
        found = losses(outer, gamma, JUDGED, width)
        said[f"width {width}"] = {name: interval(values) for name, values in found.items()} | {"by_seed": found["mean"]}
    return said


def told() -> dict[str, Any]:
    """Everything, as plain data; learned rules beside the best SlowMo in pairs of seeds."""
    averages = {f"averaging, local rate {g}": (SlowMo(lr=1.0, momentum=0.0), g) for g in GAMMAS}
    slow = {
        f"SlowMo, local rate {g}, momentum {m}, rate {s}": (SlowMo(lr=s, momentum=m), g)
        for g, m, s in itertools.product(GAMMAS, MOMENTA, SLOW)
    }
    result: dict[str, Any] = {"settings": len(slow), "outer_steps": OUTER_STEPS, "rules": {}, "less_than_slowmo": {}}
    for name, options in (("averaging", averages), ("SlowMo", slow)):
        best, outer, gamma = chosen(options)
        result["rules"][name] = {"chosen": best} | judged(outer, gamma)
    reference = result["rules"]["SlowMo"]
    for form, seed in itertools.product(FORMS, META_SEEDS):
        there = [g for g in GAMMAS if (FOLDER / f"{form}-{g}-{seed}-{OUTER_STEPS}.safetensors").exists()]
        if not there:
            continue
        options = {f"local rate {g}": (LearnedOuter(weights=meta_trained(form, g, seed)), g) for g in there}
        best, outer, gamma = chosen(options)
        count = sum(
            p.numel() for p in task(1.0).recipe.model.build(task(1.0).rung, wt.data.digits().shape()).parameters()
        )
        said = {"chosen": best, "hash": outer.weights.hash, "bytes_per_round": bytes_per_round(count, outer)}
        result["rules"][f"{form} {seed}"] = said | judged(outer, gamma)
        pairs = {
            width: interval(
                (np.subtract(result["rules"][f"{form} {seed}"][width]["by_seed"], reference[width]["by_seed"])).tolist()
            )
            for width in (f"width {HOME}", f"width {WIDE}")
        }
        result["less_than_slowmo"][f"{form} {seed}"] = pairs
    return result


def main() -> None:
    """`train FORM SEED [RATE]` meta-trains for a local rate or all, `told` chooses, judges and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("train", "told"))
    parser.add_argument("form", nargs="?", choices=tuple(FORMS), default="residual")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("rate", nargs="*", type=float)
    args = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if args.act == "told":
        print(write("local_sgd", told()))
        return
    for gamma in args.rate or GAMMAS:
        print(meta_trained(args.form, gamma, args.seed), flush=True)


if __name__ == "__main__":
    main()
