"""Arms of a check: recipes trained at the same rungs and seeds, each tuned by its own sweep, and compared in pairs.

A newcomer would tune the base and give its learning rate to the idea. Here every arm has its own sweep on seeds that
are judged nowhere else, and what it took is in the arm's own bill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t as student

import windtunnel as wt
from windtunnel.launch.here import Here
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run, RunSpec
from windtunnel.train.pack import Pack

TUNING_SEEDS = (900, 901)


@dataclass(frozen=True)
class Difference:
    """The mean over pairs of an arm minus another, and its 90 % interval (Student's t)."""

    value: float
    low: float
    high: float
    pairs: int


def paired(one: Sequence[float], other: Sequence[float], level: float = 0.9) -> Difference:
    """The mean difference of paired numbers."""
    apart = [a - b for a, b in zip(one, other, strict=True)]
    middle = mean(apart)
    wide = float(student.ppf(0.5 + level / 2, len(apart) - 1)) if len(apart) > 1 else math.nan
    half = wide * stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan  # one pair tells no interval
    return Difference(middle, middle - half, middle + half, len(apart))


def train(
    store: wt.Store, recipe: Recipe, rung: wt.Rung, judge: Judge, asked: Sequence[tuple[Mapping[str, float], int]],
    base: wt.Rung | None = None,
) -> list[Run]:  # fmt: skip
    """Runs of one recipe by hyperparameters and seed, trained if the store does not have them.

    The hyperparameters are those of the rung `base` (None: of this one), carried by the recipe's parametrization.
    """
    rung = recipe.settled(rung)
    described, judged, base = recipe.describe(), judge.describe(), base or rung
    specs = [
        RunSpec(recipe=described, rung=rung, hyperparameters=dict(h), seed=seed, judge=judged, base_rung=base)
        for h, seed in asked
    ]
    missing = [spec for spec in specs if spec.key not in store]
    if missing:
        label = {"study": "gallery checks", "idea": "", "stage": "check"}
        Here(devices=1)([Pack(recipe=recipe, specs=tuple(missing), judge=judge, labels=(label,) * len(missing))], store)
    return [store.get(spec.key) for spec in specs]


def tuned(
    store: wt.Store, recipe: Recipe, rung: wt.Rung, judge: Judge, rates: Sequence[float],
    score: Callable[[Run], float],
) -> float:  # fmt: skip
    """The learning rate with the best mean score (lower is better) over the tuning seeds; a diverged run is worst."""
    runs = train(store, recipe, rung, judge, [({"lr": lr}, seed) for lr in rates for seed in TUNING_SEEDS])
    per = len(TUNING_SEEDS)
    means = [
        mean(score(run) if run.finished else math.inf for run in runs[i * per : (i + 1) * per])
        for i in range(len(rates))
    ]
    return rates[means.index(min(means))]


def arm(
    store: wt.Store, recipe: Recipe, rung: wt.Rung, judge: Judge, seeds: Sequence[int], rates: Sequence[float],
    score: Callable[[Run], float],
) -> list[Run]:  # fmt: skip
    """An arm's runs, one a seed, at its own best learning rate."""
    lr = tuned(store, recipe, rung, judge, rates, score)
    return train(store, recipe, rung, judge, [({"lr": lr}, seed) for seed in seeds])
