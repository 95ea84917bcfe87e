"""What searches inside a run claim: a population beside the best of as many random settings, and its schedule replayed.

The arms of a pair have the same first settings, data and FLOPs. Which member is the result is chosen by training losses
in both arms; the judge only scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import torch
from torch import nn

import windtunnel as wt
from studies.gallery.arms import Difference, arm, paired, train
from studies.gallery.checks import DIGITS, JUDGE, RATES, SEEDS, Line, perceptron
from windtunnel.ideas.population_based_training import population_based_training, random_search
from windtunnel.ideas.self_tuning import SelfTuning, self_tuning
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data.altered import Drawn, Subset
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Constant, Steps
from windtunnel.parts.transforms import Dropout
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import Run

TEXT = wt.data.text(context=64)
KEPT = 0.8  # of the gain, at twice the width
FIXED = (0.0, 0.1, 0.2, 0.3, 0.5)  # dropout rates that a learned one is compared with


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


@dataclass(frozen=True)
class Rate:
    """`rate`: the dropout rate that a self-tuned network has come to."""

    def __call__(self, model: nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Mapping[str, float]:
        """The number, where there is one."""
        tuned = next((m for m in model.modules() if isinstance(m, SelfTuning)), None)
        return {} if tuned is None else {"rate": float(torch.sigmoid(tuned.logit().detach()))}


def learned_rate(store: wt.Store) -> list[Line]:
    """C2: on 1,000 digits, a dropout rate learned in one run against the best fixed one of five; its course; its width.

    The best fixed rate is chosen by the judge's own loss, which favours it.
    """
    base, claim, who = perceptron(Subset(DIGITS, Drawn(1000))), self_tuning.__doc__ or "", "self_tuning"
    judge, size = replace(JUDGE, probes=(Rate(),)), wt.Rung(width=64, depth=2, tokens=40_000, batch=32)
    idea = self_tuning(base)
    found, short = (arm(store, idea, s, judge, SEEDS, RATES, _loss) for s in (size, size.but(tokens=10_000)))
    fixed = _best_fixed(store, base, size, judge)
    learned = [run.metrics["rate"] for run in found]
    rise = paired(learned, [run.metrics["rate"] for run in short])
    wide, lr = size.but(width=128), fixed[0].spec.hyperparameters["lr"]
    carried = train(store, _dropped(base, mean(learned)), wide, judge, [({"lr": lr}, seed) for seed in SEEDS], size)
    best = _best_fixed(store, base, wide, judge)
    times = found[0].cost.flops / fixed[0].cost.flops
    cost = Difference(times, times, times, len(SEEDS))
    over, wider = _percent_over(found, fixed), _percent_over(carried, best)
    return [
        Line(who, claim, "held-out loss on 1,000 labels, % over the best fixed rate's", over, "<= 1", over.high <= 1),
        Line(who, claim, "FLOPs over those of one run at a fixed rate", cost, "<= 2", times <= 2),
        Line(who, claim, "rate learned in 40,000 examples less that in 10,000", rise, "> 0", rise.low > 0),
        Line(who, claim, "the mean rate learned, fixed at twice the width: loss, % over the best there", wider, "<= 1",
             wider.high <= 1),
    ]  # fmt: skip


def _best_fixed(store: wt.Store, base: Recipe, size: wt.Rung, judge: Judge) -> list[Run]:
    arms = [arm(store, _dropped(base, rate), size, judge, SEEDS, RATES, _loss) for rate in FIXED]
    return min(arms, key=lambda runs: mean(map(_loss, runs)))


def _dropped(base: Recipe, rate: float) -> Recipe:
    return base.but(transforms=(Dropout(rate=rate, where=("layers.*",)),)) if rate else base


def _loss(run: Run) -> float:
    return run.loss if run.loss is not None else np.inf


def _percent_over(one: Sequence[Run], other: Sequence[Run]) -> Difference:
    scale = mean(map(_loss, other)) / 100
    return paired([_loss(run) / scale for run in one], [_loss(run) / scale for run in other])


SEARCHES: dict[str, Callable[[wt.Store], list[Line]]] = {"population": population, "learned rate": learned_rate}
