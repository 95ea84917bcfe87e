"""Anchors beside EWC and distillation (C15), each with a strength tuned on another shift (C21), on four byte domains.

Two shifts, prose to code each, share no domain: what is tuned on one is judged on the other. A newcomer would report
each method at its best strength; how much that flatters it is a line of its own here, the method's optimism.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

import windtunnel as wt
from studies.gallery.arms import Difference, paired
from studies.gallery.checks import Line
from studies.gallery.domains import CPU, Stage, Weights, decoder, domain, rung, stage, there
from windtunnel.ideas.anchors import PredictionAnchor, WeightAnchor
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.recipe import Judge, Recipe
from windtunnel.runs import RunSpec
from windtunnel.train.data import pack_batch
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack
from windtunnel.train.steps import named_params

SHIFTS = (("shakespeare", "c++"), ("german", "python"))
FIRST = "english"  # what a pre-trained start has learned
SEEDS = (0, 1, 2)
WIDTH, RATE = 16, 2.0**-7
STEPS = {"pretraining": 200, "old": 100, "new": 80}
STRENGTHS = (1e-3, 1e-2, 1e-1)
RATES = (2.0**-9, 2.0**-8, 2.0**-7)
VALUES = {"L2 on attention": STRENGTHS, "EWC": STRENGTHS, "distillation": (0.3, 1.0, 3.0), "fine-tuning": RATES}


@dataclass(frozen=True, kw_only=True)
class FisherAnchor:
    """EWC (1612.00796): cross-entropy and strength * sum of importance (w - w at the start)^2."""

    strength: float
    importance: Mapping[str, Tensor] = field(compare=False, repr=False)

    needs = ("params", "start")

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> Tensor:
        """Losses (examples, tokens), each with the penalty."""
        start, now = given["start"], given["params"]
        far = torch.stack([(self.importance[n] * (now[n] - start[n]).square()).sum() for n in now]).sum()
        return CrossEntropy()(outputs, targets) + self.strength * far


def pretrained(store: wt.Store) -> list[Line]:
    """C15 and C21 from a network that has learned English: mean loss of the old and the new domain after the shift."""
    return _anchors(True, "pre-trained")


def from_scratch(store: wt.Store) -> list[Line]:
    """The same from a network that has learned the old domain alone: the order is to reverse."""
    return _anchors(False, "from scratch")


def _anchors(start: bool, text: str) -> list[Line]:
    if not there(FIRST, *(name for shift in SHIFTS for name in shift)):
        return []
    scores = {m: scored(m, start) for m in VALUES}
    honest = {m: transferred(table) for m, table in scores.items()}
    lines, claim = (
        [],
        "With a pre-trained start, plain L2 on attention beats EWC and distillation; without, it does not.",
    )
    for other in ("EWC", "distillation"):
        value = _percent(honest["L2 on attention"], honest[other])
        holds, bar = (value.high <= 0, "<= 0") if start else (value.low > 0, "> 0")
        told = f"{text}: mean loss of both domains, L2 on attention, % over {other}"
        lines.append(Line("weight_anchor", claim, told, value, bar, holds))
    for method in list(VALUES)[:-1]:
        told = f"{text}: mean loss of both domains, {method}, % over fine-tuning"
        value = _percent(honest[method], honest["fine-tuning"])
        lines.append(Line("anchors, tuned on another shift", claim, told, value, "", None))
    return lines + _optimism(scores, text)


def scored(method: str, pretrained: bool) -> np.ndarray:
    """Mean loss of both domains, (shifts, values, seeds)."""
    return np.array([[_after(method, value, shift, pretrained) for value in VALUES[method]] for shift in SHIFTS])


def transferred(table: np.ndarray) -> np.ndarray:
    """The score on each shift at the value that is best on the other, mean over shifts, by seed."""
    best = table.mean(2).argmin(1)
    return (table[0, best[1]] + table[1, best[0]]) / 2


def own(table: np.ndarray) -> np.ndarray:
    """The score on each shift at the value that is best on it, mean over shifts, by seed."""
    best = table.mean(2).argmin(1)
    return (table[0, best[0]] + table[1, best[1]]) / 2


def _optimism(tables: Mapping[str, np.ndarray], text: str) -> list[Line]:
    claim, who = "Values tuned on what is judged flatter a method, some more than others.", "tuned on another shift"
    lines = [
        Line(who, claim, f"{text}: optimism of {m}, % of its loss", _percent(transferred(t), own(t)), "", None)
        for m, t in tables.items()
    ]
    scores = [{m: way(t) for m, t in tables.items()} for way in (own, transferred)]
    swapped = [(scores[0][a] < scores[0][b]) != (scores[1][a] < scores[1][b]) for a, b in combinations(tables, 2)]
    count = paired(np.sum(swapped, axis=0).astype(float).tolist(), [0.0] * len(SEEDS))
    told = f"{text}: pairs of {len(swapped)} methods that swap rank when each is tuned on another shift"
    return [*lines, Line(who, claim, told, count, ">= 1", count.low >= 1)]


def _after(method: str, value: float, shift: tuple[str, str], pretrained: bool) -> np.ndarray:
    old, new = shift
    start = learned(old, pretrained)
    made = _changed(method, value, domain(new))
    rate, size = (value if method == "fine-tuning" else RATE), rung(WIDTH, STEPS["new"])
    if method != "EWC":
        done = stage(made(None), size, rate, SEEDS, shift, start=start.weights, number=2)
        return np.mean([done.losses[name] for name in shift], axis=0)
    pieces = [
        stage(made(important), size, rate, (seed,), shift, start=[weights], number=2)
        for seed, weights, important in zip(SEEDS, start.weights, importances(old, pretrained), strict=True)
    ]
    return np.array([np.mean([piece.losses[name][0] for name in shift]) for piece in pieces])


def _changed(method: str, value: float, data: Any) -> Callable[[Any], Recipe]:
    base = decoder(data)
    if method == "fine-tuning":
        return lambda _: base
    if method == "EWC":
        return lambda important: base.but(objective=FisherAnchor(strength=value, importance=important))
    if method == "distillation":
        return lambda _: base.but(objective=PredictionAnchor(strength=value))
    return lambda _: base.but(
        objective=WeightAnchor(strength=value, where="attention" if "attention" in method else "")
    )


@cache
def learned(old: str, pretrained: bool) -> Stage:
    """Networks that have learned the old domain, from English or from nothing."""
    start: Sequence[Weights] = ()
    if pretrained:
        start = stage(decoder(domain(FIRST)), rung(WIDTH, STEPS["pretraining"]), RATE, SEEDS, (FIRST,)).weights
    return stage(decoder(domain(old)), rung(WIDTH, STEPS["old"]), RATE, SEEDS, (old,), start=start, number=1)


@cache
def importances(old: str, pretrained: bool) -> list[Weights]:
    """Each seed's mean square of single examples' gradients on the old domain, over its mean over all weights."""
    found, recipe, size = [], decoder(domain(old)), rung(WIDTH, STEPS["old"]).but(batch=1)
    for seed, weights in zip(SEEDS, learned(old, pretrained).weights, strict=True):
        judge = Judge(data=recipe.data, tokens=64, evaluations=1)
        spec = RunSpec(recipe=recipe.describe(), rung=size, hyperparameters={"lr": RATE}, seed=seed,
                       judge=judge.describe(), base_rung=rung(32, 1))  # fmt: skip
        engine = Engine(Pack(recipe=recipe, specs=(spec,), judge=judge), CPU, False)
        state = engine.start(weights=[weights])
        squares = [torch.zeros_like(p) for p in state.params]
        for step in range(128):
            batch = pack_batch(recipe.data, [seed], step, 1, CPU)
            squares = [s + g.square() for s, g in zip(squares, engine.gradient(state.params, *batch)[0], strict=True)]
        (named,) = named_params(engine.groups, squares)
        mean = sum(float(t.sum()) for t in named.values()) / sum(t.numel() for t in named.values())
        found.append({name: t / mean for name, t in named.items()})
    return found


def _percent(one: np.ndarray, other: np.ndarray) -> Difference:
    return paired((100 * (one / other - 1)).tolist(), [0.0] * len(one))


CHECKS: dict[str, Callable[[wt.Store], list[Line]]] = {
    "anchors pretrained": pretrained,
    "anchors from scratch": from_scratch,
}
