"""What searches inside a run claim: a population beside the best of as many random settings, and its schedule replayed.

The arms of a pair have the same first settings, data and FLOPs. Which member is the result is chosen by training losses
in both arms; the judge only scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import numpy as np

import windtunnel as wt
from studies.gallery.arms import paired, train
from studies.gallery.checks import DIGITS, JUDGE, SEEDS, Line, perceptron
from windtunnel.ideas.population_based_training import population_based_training, random_search
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Constant, Steps
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

TEXT = wt.data.text(context=64)
KEPT = 0.8  # of the gain, at twice the width


def population(store: wt.Store) -> list[Line]:
    """B53: 8 members on bytes and on digits, beside random search; the schedule found, replayed at twice the width."""
    base = wt.recipes.transformer_mup_adamw(data=TEXT).but(
        optimizer=AdamW(lr=wt.tuned(2**-9, 2**-3)), batch=FixedBatch(examples=4)
    )
    judge = Judge(data=TEXT, tokens=65_536, evaluations=1)
    bytes_ = wt.Rung(width=16, depth=2, heads=2, tokens=100_000)
    digits = wt.Rung(width=64, depth=2, tokens=1438 * 20, batch=32)
    return [
        *_lines(store, "bytes, width 16", base, bytes_, judge),
        *_lines(store, "digits, width 64", perceptron(DIGITS), digits, JUDGE),
    ]


def _lines(store: wt.Store, where: str, base: Recipe, rung: wt.Rung, judge: Judge) -> list[Line]:
    claim, who = population_based_training.__doc__ or "", "population_based_training"
    asked = [({}, seed) for seed in SEEDS]
    found, kept = (train(store, idea(base), rung, judge, asked) for idea in (population_based_training, random_search))
    scale = mean(run.loss or 0.0 for run in kept) / 100
    gap = paired(*[[(run.loss or np.inf) / scale for run in runs] for runs in (found, kept)])
    fall = paired([_fall(run) for run in found], [0.0] * len(SEEDS))
    near, far = (_gains(store, base, size, rung, judge, found, kept) for size in (rung, _wider(rung)))
    share = paired([g / scale for g in far], [KEPT * g / scale for g in near])
    told = [paired([g / scale for g in gains], [0.0] * len(gains)) for gains in (near, far)]
    return [
        Line(who, claim, f"{where}: loss over the best of 8 random settings at equal FLOPs, %", gap, "<= 0",
             gap.high <= 0),
        Line(who, claim, f"{where}: log2 of the rate, later half less earlier half", fall, "< 0", fall.high < 0),
        Line(who, claim, f"{where}: its schedule replayed, % below the best constant rate", told[0], "none", None),
        Line(who, claim, f"{where}: the same at twice the width under muP", told[1], "none", None),
        Line(who, claim, f"{where}: gain at twice the width less 0.8 of it here, % of the loss", share, ">= 0",
             share.low >= 0),
    ]  # fmt: skip


def _wider(rung: wt.Rung) -> wt.Rung:
    return rung.but(width=2 * rung.width, heads=2 * rung.heads if rung.heads > 1 else 1)


def _fall(run: Run) -> float:
    rates = np.log2(run.curve["searched_lr"])
    half = len(rates) // 2
    return float(rates[half:].mean() - rates[:half].mean())


def _gains(
    store: wt.Store, base: Recipe, rung: wt.Rung, from_: wt.Rung, judge: Judge,
    found: Sequence[Run], kept: Sequence[Run],
) -> list[float]:  # fmt: skip
    """How much lower the schedule that was found ends than the best constant rate, each trained as one run."""
    gains = []
    for seed, one, other in zip(SEEDS, found, kept, strict=True):
        rates, begins = one.curve["searched_lr"], one.curve["searched_tokens"] / one.spec.rung.tokens
        steps = Steps(begins=tuple(map(float, begins)), factors=tuple(float(r / rates[0]) for r in rates))
        (a,) = train(store, base.but(schedule=steps), rung, judge, [({"lr": float(rates[0])}, seed)], from_)
        constant = float(other.curve["searched_lr"][0])
        (b,) = train(store, base.but(schedule=Constant()), rung, judge, [({"lr": constant}, seed)], from_)
        gains.append((b.loss or np.inf) - (a.loss or np.inf))
    return gains
