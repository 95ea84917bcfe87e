"""D2: simple and scalable strategies to continually pre-train language models (2403.08763), its replay.

Read: the abstract and public summaries: 5 % of old data suffice for a weak shift, 25 % and more for another language,
and the share is taken out of the new data's tokens, so that compute is equal. Data in stages (`wt.data.successive`)
replay those before; a single plan replays the run's own beginning. A newcomer would judge this by the new data alone,
where it can only cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.successive import Successive
from windtunnel.recipe import DataShape, Recipe

SHARE = 0.05  # the paper's for a weak shift


@dataclass(frozen=True)
class Replayed:
    """`data` with a `share` of the examples from the beginning of the run's own stream, in order and evenly spread."""

    data: Any
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.5:
            raise InputError(f"Replayed share is {self.share}; it is a share of the examples, above 0 and at most 0.5.")

    @property
    def repeat(self) -> bool:
        """As the data: what is replayed is meant to be."""
        return self.data.repeat

    def shape(self) -> DataShape:
        """That of the data, whose tokens last longer."""
        whole = self.data.shape()
        return replace(whole, train_tokens=int(whole.train_tokens / (1 - self.share)))

    def fingerprint(self) -> str:
        """Of the data and the share."""
        return hashlib.sha256(f"replayed {self.data.fingerprint()} {self.share!r}".encode()).hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets; a pure function of (seed, step, size)."""
        pairs = [self._example(number, seed) for number in range(step * size, (step + 1) * size)]
        inputs, targets = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        return inputs, targets

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the data."""
        return self.data.held_out(size=size, tokens=tokens)

    def _example(self, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The `number`-th example: old where the replayed share passes a whole number there."""
        old = int(number * self.share)
        new = int((number + 1) * self.share) == old
        return self.data.batch(seed=seed, step=number - old if new else old, size=1)


def replay(base: Recipe) -> Recipe:
    """Keeping 5 % of the old data while going on with new ones forgets several times less, at equal compute."""
    if isinstance(base.data, Successive):
        return base.but(data=replace(base.data, replay=SHARE))
    return base.but(data=Replayed(base.data, SHARE))
