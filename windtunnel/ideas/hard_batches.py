"""B3: can we learn better with hard samples? (2304.03486): after a pass, its hardest batches once more.

Read: the abstract and introduction. Batches are ranked by the loss that they had before the network learned from them,
and the `share` of them with the highest is trained on again (the paper's delta counts them); then comes the next pass.
All steps are paid: more of them on hard batches means fewer passes. A newcomer would rank by the judge's loss; a search
is told the training batches' alone. A text too long to be read once counts a quarter of the horizon as a pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.schedules.faster import PartOf
from windtunnel.recipe import DataShape, Recipe, Stretch, Told

Piece = tuple[str, int, int, int]  # "pass" or "hard", first and last step of the run, first step of the data


@dataclass(frozen=True)
class Batches:
    """Some steps of `data` again, in this order; the batches are those that the steps had."""

    data: Any
    steps: tuple[int, ...]

    repeat = True

    def shape(self) -> DataShape:
        """That of the data."""
        return self.data.shape()

    def fingerprint(self) -> str:
        """Of the data and the steps."""
        return hashlib.sha256(f"batches {self.data.fingerprint()} {self.steps}".encode()).hexdigest()[:20]

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """As the data says of that step."""
        return self.data.indices(seed=seed, step=self.steps[step % len(self.steps)], size=size)

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The data's batch of that step."""
        return self.data.batch(seed=seed, step=self.steps[step % len(self.steps)], size=size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the data."""
        return self.data.held_out(size=size, tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class HardBatches:
    """A pass, then the hardest `share` of its batches again, until the tokens are used up."""

    share: float = 0.2  # guess: the paper finds small ones as accurate and faster

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"HardBatches share is {self.share}; it is a share of a pass's batches, in (0, 1].")

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """All of them with the first batches for the hardest: what it will cost."""
        pieces = self._pieces(recipe, rung)
        return [self._stretch(recipe, rung, n, range(end - begin)) for n, (_, begin, end, _) in enumerate(pieces)]

    def ask(self, recipe: Recipe, rung: Rung, told: Sequence[Told], seed: int) -> Sequence[Stretch]:
        """The next pass, or the hardest batches of the last one."""
        pieces, number = self._pieces(recipe, rung), len(told)
        if number == len(pieces) or (told and told[-1].diverged):
            return []
        kind, begin, end, first = pieces[number]
        hardest: Sequence[int] = ()
        if kind == "hard":
            order = np.argsort(-told[-1].losses, kind="stable")[: end - begin]
            hardest = [first + int(step) for step in np.sort(order)]
        return [self._stretch(recipe, rung, number, hardest, told[-1].stretch.name if told else None)]

    def chosen(self, told: Sequence[Told]) -> str:
        """The last one."""
        return told[-1].stretch.name

    def _pieces(self, recipe: Recipe, rung: Rung) -> list[Piece]:
        shape = recipe.data.shape()
        a_step = (rung.batch or 1) * shape.tokens_per_example
        steps = -(-rung.tokens // a_step)
        a_pass = max(1, min(shape.train_tokens // a_step, -(-steps // 4)))
        found, begin, read = list[Piece](), 0, 0
        while begin < steps:
            end = min(begin + a_pass, steps)
            again = min(end + max(1, round(self.share * a_pass)), steps)
            found.append(("pass", begin, end, read))
            if again > end:
                found.append(("hard", end, again, read))
            begin, read = again, read + end - begin
        return found

    def _stretch(
        self, recipe: Recipe, rung: Rung, number: int, hardest: Sequence[int], fork: str | None = None
    ) -> Stretch:
        pieces = self._pieces(recipe, rung)
        kind, begin, end, _ = pieces[number]
        steps, a_step = pieces[-1][2], (rung.batch or 1) * recipe.data.shape().tokens_per_example
        here = recipe.but(schedule=PartOf(schedule=recipe.schedule, begins=begin / steps, ends=end / steps))
        if kind == "hard":
            here = here.but(data=Batches(recipe.data, tuple(hardest)))
        return Stretch(
            name=f"{kind} {number // 2}", recipe=here, rung=rung.but(tokens=(end - begin) * a_step), fork=fork
        )


def hard_batches(base: Recipe) -> Recipe:
    """Training again on the hardest batches of every pass learns rare classes better, in fewer steps."""
    return base.but(phases=HardBatches())
