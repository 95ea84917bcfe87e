"""B9: a multigrid method for efficiently training video models (1912.00998), on text: short contexts first.

Read: the abstract and public summaries. Mini-batches run from coarse grids with many clips to fine ones with few; the
long cycle once, without the short cycle inside. Here a coarse example is a piece of a whole one, so every step sees the
base's very tokens; the paper's faster rate for more clips is not taken over, since a step has as many predictions as
before. A newcomer would draw coarse examples anew: then data order and shape change together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.schedules.faster import PartOf
from windtunnel.recipe import DataShape, Recipe, Stretch, Weights


@dataclass(frozen=True)
class Pieces:
    """Every example of `data` cut into so many `parts`, in the order of `data` from its step `skipped` on.

    A step of a multiple of `parts` examples holds just what a step of `data` with that many times fewer holds.
    """

    data: Any
    parts: int
    skipped: int = 0

    @property
    def repeat(self) -> bool:
        """As the data."""
        return self.data.repeat

    def shape(self) -> DataShape:
        """That of the data with a shorter context."""
        whole = self.data.shape()
        length = whole.tokens_per_example // self.parts
        return replace(whole, tokens_per_example=length, example_shape=(length,))

    def fingerprint(self) -> str:
        """Of the data, and how it is cut."""
        said = f"pieces {self.data.fingerprint()} {self.parts} {self.skipped}"
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (size, context / parts); a pure function of (seed, step, size)."""
        whole = self.data.batch(seed=seed, step=step + self.skipped, size=-(-size // self.parts))
        return self._of(whole, size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the data, cut likewise."""
        for whole in self.data.held_out(size=-(-size // self.parts), tokens=tokens):
            yield self._of(whole, len(whole[0]) * self.parts)

    def _of(self, whole: tuple[np.ndarray, np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
        length = self.shape().tokens_per_example
        inputs, targets = (array.reshape(-1, length)[:size] for array in whole)
        return inputs, targets


@dataclass(frozen=True)
class LongEnough:
    """A model part that is built for contexts up to `context`, and costs what the data's own context costs."""

    model: Any
    context: int

    @property
    def roles(self) -> Mapping[str, Any]:
        """The model's."""
        return getattr(self.model, "roles", {})

    @property
    def needs(self) -> tuple[str, ...]:
        """What the model is told while it is trained."""
        return getattr(self.model, "needs", ())

    @property
    def cost(self) -> float:
        """The model's factor on a token's FLOPs."""
        return getattr(self.model, "cost", 1.0)

    def build(self, rung: Rung, data: DataShape) -> nn.Module:
        """The model with positions for the longest context: it is judged on that."""
        return self.model.build(rung, replace(data, tokens_per_example=self.context, example_shape=(self.context,)))

    def size(self, rung: Rung, data: DataShape) -> Size:
        """The model's at the context it is trained on."""
        return self.model.size(rung, data)


@dataclass(frozen=True, kw_only=True)
class Multigrid:
    """Equal shares of the steps at contexts that double, the last at the data's own; as many tokens in every step."""

    doublings: int = 3  # 32, 64, 128 to 256: the facts' proposal

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """One stretch a context; each goes on with the weights and the schedule of the last, its optimizer is new."""
        shape, batch = recipe.data.shape(), rung.batch or 1
        if shape.tokens_per_example % 2**self.doublings:
            raise InputError(
                f"Multigrid(doublings={self.doublings}) begins at 1/{2**self.doublings} of the context, which is "
                f"{shape.tokens_per_example} here; give data whose context is a multiple of {2**self.doublings}."
            )
        steps = -(-rung.tokens // (batch * shape.tokens_per_example))
        ends = [round(steps * i / (self.doublings + 1)) for i in range(self.doublings + 2)]
        found: list[Stretch] = []
        for i, (begin, end) in enumerate(pairwise(ends)):
            if begin < end:
                before = found[-1].name if found else None
                found.append(self._at(recipe, rung, 2 ** (self.doublings - i), begin, end, steps, before))
        return found

    def _at(
        self, recipe: Recipe, rung: Rung, parts: int, begin: int, end: int, steps: int, before: str | None
    ) -> Stretch:
        shape, batch = recipe.data.shape(), (rung.batch or 1)
        here = recipe.but(
            data=Pieces(recipe.data, parts, begin),
            model=LongEnough(recipe.model, shape.tokens_per_example),
            batch=FixedBatch(examples=batch * parts),
            schedule=PartOf(schedule=recipe.schedule, begins=begin / steps, ends=end / steps),
        )
        return Stretch(
            name=f"context {shape.tokens_per_example // parts}",
            recipe=here,
            rung=rung.but(batch=batch * parts, tokens=(end - begin) * batch * shape.tokens_per_example),
            start=partial(_last_of, before) if before else None,
        )


def multigrid(base: Recipe) -> Recipe:
    """Short contexts first, as many tokens in every step, reach the loss of the whole context with fewer FLOPs."""
    return base.but(phases=Multigrid())


def _last_of(name: str, ended: Mapping[str, Weights]) -> Weights:
    return ended[name]
