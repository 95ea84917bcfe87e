"""B3 on digits: hard batches where five classes have a tenth of their examples, or where a fifth of labels is wrong.

Both arms take equal gradient steps. A newcomer would expect hard batches to help with wrong labels too; there the
highest losses are the wrong labels', and the expected finding is harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import windtunnel as wt
from studies.gallery.arms import arm, paired, train
from studies.gallery.checks import DIGITS, SEEDS, Line, error, perceptron
from windtunnel.ideas.hard_batches import hard_batches
from windtunnel.parts.data.altered import NoisyLabels, Subset
from windtunnel.recipe import Judge
from windtunnel.runs import Run

RATES = (0.001, 0.003, 0.01, 0.03)
TAIL = (5, 6, 7, 8, 9)
BATCH, PASSES = 32, 12


@dataclass(frozen=True)
class LongTail:
    """All examples of most classes, every tenth of the `tail`'s: for `Subset(by=...)`."""

    tail: tuple[int, ...] = TAIL

    def __call__(self, data: Any) -> np.ndarray:
        """The numbers of the examples."""
        labels = data.taken(np.arange(data.examples()))[1][:, 0]
        kept = [np.flatnonzero(labels == c)[:: 10 if c in self.tail else 1] for c in range(data.shape().classes)]
        return np.sort(np.concatenate(kept))


@dataclass(frozen=True)
class TailAccuracy:
    """`tail_accuracy`: the share of right answers on the `classes`."""

    classes: tuple[int, ...] = TAIL

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """On the judge's examples."""
        right = count = 0
        with torch.no_grad():
            for inputs, targets in batches:
                wanted = targets.flatten()
                rare = torch.isin(wanted, torch.tensor(self.classes, device=wanted.device))
                right += int(((model(inputs).flatten(0, 1).argmax(-1) == wanted) & rare).sum())
                count += int(rare.sum())
        return {"tail_accuracy": right / count}


JUDGE = Judge(data=DIGITS, tokens=359, evaluations=1, probes=(TailAccuracy(),))


def imbalanced(store: wt.Store) -> list[Line]:
    """Classes 1:10: rare classes at equal steps, and all classes with 80 % of the steps."""
    data = Subset(DIGITS, LongTail())
    size = wt.Rung(width=64, depth=2, tokens=data.examples() * PASSES, batch=BATCH)
    plain, hard = (arm(store, recipe, size, JUDGE, SEEDS, RATES, error) for recipe in _both(perceptron(data)))
    rate = hard[0].spec.hyperparameters["lr"]
    shorter = train(
        store, hard_batches(perceptron(data)), size.but(tokens=round(0.8 * size.tokens)), JUDGE,
        [({"lr": rate}, seed) for seed in SEEDS],
    )  # fmt: skip
    claim = hard_batches.__doc__ or ""
    rare, whole, early = _points(hard, plain, "tail_accuracy"), _points(hard, plain), _points(shorter, plain)
    told = "classes 1:10, points over ordinary passes: accuracy"
    return [
        Line("hard_batches", claim, f"{told} on rare classes at equal steps", rare, ">= 3", rare.low >= 3),
        Line("hard_batches", claim, f"{told} with 80 % of the steps", early, ">= 0", early.low >= 0),
        Line("hard_batches", claim, f"{told} at equal steps", whole, "", None),
    ]


def mislabelled(store: wt.Store) -> list[Line]:
    """A fifth of the labels wrong: the harm that must show."""
    data = NoisyLabels(DIGITS, 0.2, seed=0)
    size = wt.Rung(width=64, depth=2, tokens=data.examples() * PASSES, batch=BATCH)
    plain, hard = (arm(store, recipe, size, JUDGE, SEEDS, RATES, error) for recipe in _both(perceptron(data)))
    value, claim = _points(hard, plain), "Hard batches hurt where labels are wrong (a guard-rail, not a claim)."
    told = "20 % of the labels wrong: accuracy at equal steps, points over ordinary passes"
    return [Line("hard_batches", claim, told, value, "< 0", value.high < 0)]


def _both(base: wt.Recipe) -> tuple[wt.Recipe, wt.Recipe]:
    return base, hard_batches(base)


def _points(one: Sequence[Run], other: Sequence[Run], metric: str = "accuracy"):
    return paired([100 * run.metrics[metric] for run in one], [100 * run.metrics[metric] for run in other])


CHECKS: dict[str, Callable[[wt.Store], list[Line]]] = {"imbalanced": imbalanced, "mislabelled": mislabelled}
