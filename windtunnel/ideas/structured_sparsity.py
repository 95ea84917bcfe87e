"""C37: progressive gradient flow for robust N:M sparsity (2402.04744): the pattern is tightened while training.

Read: the abstract and section 3 as restated in our facts: structure decay. Of every `of` weights in a row the largest
few are used, straight-through, first all, then half, and so on down to `kept`. Its mask decay needs a transform that
follows the step, which there is no slot for; stretches give its stepwise twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from windtunnel.ladder import Rung
from windtunnel.parts.schedules.faster import PartOf
from windtunnel.parts.transforms import Mapped
from windtunnel.recipe import Recipe, Stretch, Weights


@dataclass(frozen=True)
class Largest:
    """The `kept` largest of every `of` weights along a row, the others zero; gradients pass to all of them."""

    kept: int
    of: int

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        flat = weight.detach().flatten(1)
        missing = -flat.shape[1] % self.of
        lots = F.pad(flat, (0, missing)).unflatten(1, (-1, self.of))
        least = lots.abs().topk(self.kept, dim=-1).values[..., -1:]
        used = (lots * (lots.abs() >= least)).flatten(1)[:, : flat.shape[1]].view_as(weight)
        return weight + (used - weight.detach())


@dataclass(frozen=True, kw_only=True)
class Tightening:
    """Stretches of equal length in which half as many weights are used as before, down to `kept` of `of`.

    `dense` is the share of the tokens before, `end` that of the last pattern.
    """

    kept: int = 1
    of: int = 8
    dense: float = 0.2
    end: float = 0.4

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """Dense, then each pattern; one schedule over all."""
        counts = [self.of]
        while counts[-1] > self.kept:
            counts.append(max(self.kept, counts[-1] // 2))
        middle = (1 - self.dense - self.end) / max(1, len(counts) - 2)
        shares = [self.dense, *[middle] * (len(counts) - 2), self.end]
        found, begins = [], 0.0
        for index, (count, share) in enumerate(zip(counts, shares, strict=True)):
            ends = 1.0 if index == len(counts) - 1 else begins + share
            sparse = (Mapped(through=Largest(count, self.of)),) if count < self.of else ()
            found.append(
                Stretch(
                    name=f"{count} of {self.of}",
                    recipe=recipe.but(
                        transforms=(*recipe.transforms, *sparse),
                        schedule=PartOf(schedule=recipe.schedule, begins=begins, ends=ends),
                    ),
                    rung=rung.but(tokens=int(ends * rung.tokens) - int(begins * rung.tokens)),
                    start=partial(_handed, previous=found[-1].name) if found else None,
                )
            )
            begins = ends
        return found


def _handed(ended: Mapping[str, Weights], *, previous: str) -> Weights:
    return ended[previous]


def structured_sparsity(base: Recipe) -> Recipe:
    """Tightening an N:M pattern step by step loses less at one weight of eight than having it from the start."""
    return base.but(phases=Tightening())


def sparse_from_the_start(base: Recipe) -> Recipe:
    """One weight of eight from the first step on: the arm that tightening is compared with."""
    return base.but(transforms=(*base.transforms, Mapped(through=Largest(1, 8))))
