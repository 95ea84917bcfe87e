"""Several data plans mixed by weights: which plan an example comes from is known, and how many come from each is exact.

Plans take turns as evenly as their weights allow, so that after any number of examples none is more than one ahead or
behind (per split of one plan from the rest), and each is read in its own order. A newcomer would draw the plan of every
example at random; then small batches differ in their mixture, and a resumed run must replay the draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.order import check_alike
from windtunnel.recipe import DataShape


@dataclass(frozen=True)
class Mixed:
    """A DataPlan over several; `weights` are each plan's share of the examples, and sum to 1."""

    plans: tuple[Any, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        fit = len(self.weights) == len(self.plans) >= 1 and all(w >= 0 for w in self.weights)
        if not fit or not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
            raise InputError(
                f"mixed was given {len(self.plans)} plans and weights {self.weights}; give one weight for each plan, "
                f"none negative, with the sum 1."
            )
        check_alike(self.plans)

    @property
    def repeat(self) -> bool:
        """Whether every plan that is read may be read more than once."""
        return all(bool(plan.repeat) for plan, _ in self._read())

    def shape(self) -> DataShape:
        """That of the plans; `train_tokens` is where the first of them has been read through."""
        own = self.plans[0].shape()
        tokens = min(plan.shape().train_tokens / weight for plan, weight in self._read())
        return DataShape(
            classes=own.classes,
            tokens_per_example=own.tokens_per_example,
            train_tokens=int(tokens),
            example_shape=own.example_shape,
        )

    def fingerprint(self) -> str:
        """Hash of what the plans are and of their weights."""
        said = f"mixed {[p.fingerprint() for p in self.plans]} {[float(w) for w in self.weights]}"
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a step."""

        def read(plan: int, at: int, count: int) -> tuple[np.ndarray, np.ndarray]:
            return self.plans[plan].batch(seed=seed, step=at, size=count)

        inputs, targets = self._gathered(read, step, size)
        return inputs, targets

    def source(self, *, step: int, size: int) -> np.ndarray:
        """The number of the plan that each example of a step comes from; the same for every seed."""
        return np.array([plan for plan, _ in self._places(step, size)])

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Whole numbers that identify a step's examples, of plans whose own examples have an identity."""
        firsts = (0, *self.ends())

        def read(plan: int, at: int, count: int) -> tuple[np.ndarray]:
            return (self.plans[plan].indices(seed=seed, step=at, size=count) + firsts[plan],)

        return self._gathered(read, step, size)[0]

    def ends(self) -> tuple[int, ...]:
        """The number after each plan's last example: the one called i is of the first plan whose end is above i."""
        return tuple(accumulate(p.shape().train_tokens // p.shape().tokens_per_example for p in self.plans))

    def examples(self) -> int:
        """How many there are in all plans together."""
        return self.ends()[-1]

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets by the numbers of `indices`, of plans that can take theirs."""
        ends = self.ends()
        of = np.searchsorted(ends, indices, side="right")
        parts = {k: self.plans[k].taken(indices[of == k] - (0, *ends)[k]) for k in np.unique(of).tolist()}
        whole = [np.empty((len(indices), *a.shape[1:]), a.dtype) for a in next(iter(parts.values()))]
        for k, pair in parts.items():
            for array, part in zip(whole, pair, strict=True):
                array[of == k] = part
        return whole[0], whole[1]

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each plan's validation examples, in proportion to its weight: their mean is the mixture's loss."""
        for plan, weight in self._read():
            yield from plan.held_out(size=size, tokens=max(1, round(tokens * weight)))

    def _read(self) -> list[tuple[Any, float]]:
        return [(plan, weight) for plan, weight in zip(self.plans, self.weights, strict=True) if weight > 0]

    def _gathered(self, read: Any, step: int, size: int) -> list[np.ndarray]:
        """Arrays of a step's examples, in their order, from `read(plan, step, size) -> arrays` of single plans."""
        places = self._places(step, size)
        sources = np.array([plan for plan, _ in places])
        found: list[np.ndarray] = []
        for plan in dict.fromkeys(sources.tolist()):
            own = sources == plan
            first, count = places[int(np.argmax(own))][1], int(own.sum())  # a plan's numbers follow one another
            for i, array in enumerate(_consecutive(read, plan, first, count)):
                if len(found) <= i:
                    found.append(np.empty((size, *array.shape[1:]), array.dtype))
                found[i][own] = array
        return found

    def _places(self, step: int, size: int) -> list[tuple[int, int]]:
        """Of each example of a step: its plan, and its number among that plan's own."""
        return [self._place(number) for number in range(step * size, (step + 1) * size)]

    def _place(self, number: int) -> tuple[int, int]:
        """One plan after another is split from the rest: it takes every example at which its share reaches a whole."""
        left = 1.0
        last = max(i for i, weight in enumerate(self.weights) if weight > 0)
        for plan, weight in enumerate(self.weights[:last]):
            share = min(1.0, weight / left)
            before = int(number * share)
            if int((number + 1) * share) > before:
                return plan, before
            number, left = number - before, left - weight
        return last, number


def _consecutive(read: Any, plan: int, first: int, count: int) -> list[np.ndarray]:
    """Examples `first` to `first + count` of a plan, from one or two of its own batches of `count`."""
    step, inside = divmod(first, count)
    parts = [read(plan, step, count)] + ([read(plan, step + 1, count)] if inside else [])
    whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return [array[inside : inside + count] for array in whole]


def mixed(*plans: Any, weights: Any) -> Mixed:
    """`plans` mixed by `weights`, their shares of the examples: a number for each plan, with the sum 1.

    A plan of weight 0 is not read at all, and its validation examples are left out too. To judge by a mixture of its
    own, give the judge one: `Judge(data=mixed(english, german, weights=(0.5, 0.5)))`. Raises InputError where plans and
    weights do not fit together.
    """
    return Mixed(tuple(plans), tuple(float(weight) for weight in weights))
