"""Ideas that adapt a pre-trained network: LoRA-SB beside LoRA, and how many random directions a task needs.

    python -m studies.gallery --only "silver bullet" intrinsic

Byte transformers pre-trained on English prose (WikiText), adapted to the standard library's source. The pre-training is
the same for every arm; the rate that is swept is the adaptation's. A newcomer would compare arms at one rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import log, prod
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import windtunnel as wt
from studies.gallery.arms import TUNING_SEEDS, paired, train
from studies.gallery.checks import Line
from studies.gallery.networks import CONTEXT, bytes_base, judge, loss, over
from windtunnel.ideas.lora_sb import lora_sb, low_rank_adaptation, random_basis
from windtunnel.ideas.random_subspace import random_subspace
from windtunnel.parts.phases import Adapting
from windtunnel.recipe import Recipe
from windtunnel.runs import Run

SEEDS = (0, 1, 2)
RATES = tuple(2.0**-n for n in range(8, 2, -1))
PROSE = Path(__file__).parents[3] / "shared" / "data" / "text" / "wikitext2_valid_test.en.txt"
RANKS = (4, 8, 32)
DIMENSIONS = (64, 512, 4096)


@cache
def prose() -> Any:
    """The text that networks are pre-trained on."""
    return wt.data.text(PROSE, context=CONTEXT)


def adapted(recipe: Recipe, tokens: int, before: int) -> Recipe:
    """The recipe's phases with so many of the tokens spent on prose first."""
    change = {"first": prose(), "share": before / tokens} if before else {"first": None, "share": 0.0}
    return recipe.but(phases=replace(recipe.phases or Adapting(), **change))


def _rate(store: wt.Store, recipe: Recipe, size: wt.Rung) -> float:
    """The best rate of one seed that is judged nowhere else."""
    runs = train(store, recipe, size, judge(recipe.data), [({"lr": lr}, TUNING_SEEDS[0]) for lr in RATES])
    return min(zip(RATES, runs, strict=True), key=lambda pair: loss(pair[1]) if pair[1].finished else float("inf"))[0]


def trained_numbers(recipe: Recipe, rung: wt.Rung) -> int:
    """How many numbers the last stretch trains."""
    from windtunnel.train.pack import build_model

    stretch = list(recipe.phases.stretches(recipe.but(phases=None), rung))[-1]
    sites = {name: p for name, p in build_model(stretch.recipe, rung).named_parameters()}
    chosen = stretch.recipe.optimizer.numbers(sites, 0, 0)
    return sum(prod(sites[name].shape) for name, said in chosen.items() if said["trained"])


def silver_bullet(store: wt.Store) -> list[Line]:
    """C43: a core of 8 x 8 in the first step's plane beside LoRA of rank 8 and a random plane; best rates by rank."""
    base, tokens, before = bytes_base(), 76_800, 51_200
    size = base.settled(wt.Rung(width=32, depth=2, heads=4, tokens=tokens))
    arms = {"lora": low_rank_adaptation(base), "random": random_basis(base), "full": base}
    arms |= {f"sb {rank}": lora_sb(base, rank) for rank in RANKS}
    arms = {name: adapted(recipe, tokens, before) for name, recipe in arms.items()}
    at = judge(base.data)
    best = {name: _rate(store, recipe, size) for name, recipe in arms.items()}
    runs = {
        name: train(store, arms[name], size, at, [({"lr": best[name]}, seed) for seed in SEEDS])
        for name in ("lora", "random", "full", "sb 8")
    }
    fewer = trained_numbers(arms["lora"], size) / trained_numbers(arms["sb 8"], size)
    claim, who = lora_sb.__doc__ or "", "lora_sb"
    first, plane, whole = (over(runs["sb 8"], runs[other]) for other in ("lora", "random", "full"))
    steps = [log(best[f"sb {rank}"] / best["sb 8"], 2) for rank in RANKS]
    spread = max(map(abs, steps))
    told = (
        f"loss adapted from prose to code with {fewer:.0f} times fewer numbers, % over LoRA of rank 8; bytes, width 32"
    )
    seen = ", ".join(f"{rank}: 2^{log(best[f'sb {rank}'], 2):.0f}" for rank in RANKS)
    return [
        Line(who, claim, told, first, "<= 0, >= 10 times fewer", first.high <= 0 and fewer >= 10),
        Line(who, claim, "the same, % over a core in a random plane", plane, "< 0", plane.high < 0),
        Line(who, claim, "the same, % over full fine-tuning", whole, "none", None),
        Line(who, claim, f"steps of a grid of doublings from rank 8's best rate to the farthest ({seen})",
             paired([spread], [0.0]), "<= 1", spread <= 1),
    ]  # fmt: skip


def intrinsic(store: wt.Store) -> list[Line]:
    """C17: the dimensions that reach nine tenths of full fine-tuning's gain and accuracy, by pre-training and width."""
    claim, who, lines = random_subspace.__doc__ or "", "random_subspace", list[Line]()
    cases = {f"{before // 1000}k tokens, width 32": (before, 32) for before in (0, 12_800, 51_200)}
    cases |= {f"51k tokens, width {width}": (51_200, width) for width in (16, 64)}
    found = {name: dimension(store, *case) for name, case in cases.items()}
    for measure in ("accuracy", "gain"):
        for name, each in found.items():
            value = paired([log(d, 10) for d in each[measure]], [0.0] * len(SEEDS))
            told = f"log10 of the dimensions for 90 % of full fine-tuning's {measure}, pre-trained on {name}"
            told += f" ({log(each['params'][0], 10):.2f}: all weights)"
            lines.append(Line(who, claim, told, value, "none", None))
        for which, told in enumerate(("tokens of pre-training", "width")):
            names = [name for name in cases if cases[name][1 - which] == (32, 51_200)[which]]
            names.sort(key=lambda name: cases[name][which])
            rows = [[log(found[n][measure][i], 10) for n in names] for i in range(len(SEEDS))]
            across = [cases[n][which] for n in names]
            slopes = paired([_slope(across, row) for row in rows], [0.0] * len(SEEDS))
            means = [mean(column) for column in zip(*rows, strict=True)]
            falls = all(a > b for a, b in pairwise(means))
            told = f"slope of log dimensions ({measure}) in log {told}{'' if falls else '; not at every step down'}"
            lines.append(Line(who, claim, told, slopes, "< 0, every step", slopes.high < 0 and falls))
    return lines


def _slope(across: Sequence[float], values: Sequence[float]) -> float:
    pairs = [(log(x, 10), y) for x, y in zip(across, values, strict=True) if x > 0]
    return float(np.polyfit([x for x, _ in pairs], [y for _, y in pairs], 1)[0])


def dimension(store: wt.Store, before: int, width: int) -> dict[str, list[float]]:
    """Seed by seed, the dimensions (between those tried, straight in their logarithm) that do nine tenths."""
    base, after = bytes_base(), 25_600
    tokens = before + after
    size = base.settled(wt.Rung(width=width, depth=1, heads=width // 8, tokens=tokens))
    full = _best(store, adapted(base, tokens, before), size, (2**-8, 2**-6))
    quick = (2**-6, 2**-4)  # the rates of numbers that move weights in units of their initial size
    arms = [_best(store, adapted(random_subspace(base, d), tokens, before), size, quick) for d in DIMENSIONS]
    from_ = _best(store, adapted(base, tokens, before), size, (1e-9,))
    found: dict[str, list[float]] = {"accuracy": [], "gain": [], "params": [float(base.size(size).total)]}
    for i in range(len(SEEDS)):
        right = [runs[i].metrics["accuracy"] for runs in arms]
        found["accuracy"].append(_least(right, 0.9 * full[i].metrics["accuracy"]))
        gain = [loss(from_[i]) - loss(runs[i]) for runs in arms]
        found["gain"].append(_least(gain, 0.9 * (loss(from_[i]) - loss(full[i]))))
    return found


def _best(store: wt.Store, recipe: Recipe, size: wt.Rung, rates: Sequence[float]) -> list[Run]:
    at = judge(recipe.data)
    asked = [({"lr": lr}, seed) for seed in (*SEEDS, *TUNING_SEEDS[:1]) for lr in rates]
    runs = train(store, recipe, size, at, asked)  # one pack: the pre-training of a seed is shared by its rates
    tuning = runs[-len(rates) :]
    best = min(range(len(rates)), key=lambda i: loss(tuning[i]) if tuning[i].finished else float("inf"))
    return [runs[seed * len(rates) + best] for seed in range(len(SEEDS))]


def _least(scores: Sequence[float], bar: float) -> float:
    """The dimensions at which scores pass the bar; ten times the most that were tried where none does."""
    for i, score in enumerate(scores):
        if score >= bar:
            if i == 0:
                return float(DIMENSIONS[0])
            part = (bar - scores[i - 1]) / (score - scores[i - 1])
            return float(DIMENSIONS[i - 1] * (DIMENSIONS[i] / DIMENSIONS[i - 1]) ** part)
    return 10.0 * DIMENSIONS[-1]


ADAPTED: dict[str, Callable[[wt.Store], list[Line]]] = {"silver bullet": silver_bullet, "intrinsic": intrinsic}
