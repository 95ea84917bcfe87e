"""Training examples set aside, to tune by within a run: a batch ends with some of them, which the rest never trains on.

A newcomer would take the judge's held-out examples; what tunes by those has seen the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.order import draw, permuted
from windtunnel.recipe import DataShape

SHARE_OF_BATCH = 1 / 3


@dataclass(frozen=True)
class SetAside:
    """A data plan whose batches end with a third of examples that the rest of no batch holds: a `share` of the data."""

    data: Any
    share: float = 0.2

    repeat = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"SetAside share is {self.share}; it is a share of the examples, between 0 and 1.")

    def shape(self) -> DataShape:
        """That of the data, with the training tokens that are left."""
        whole = self.data.shape()
        return replace(whole, train_tokens=(self.data.examples() - self._aside()) * whole.tokens_per_example)

    def fingerprint(self) -> str:
        """Of the data and of the share."""
        return hashlib.sha256(f"aside {self.data.fingerprint()} {self.share!r}".encode()).hexdigest()[:20]

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Training examples first, then those set aside."""
        tuning = max(1, int(size * SHARE_OF_BATCH))
        fixed, whole = self._aside(), self.data.examples()
        trained = fixed + draw(whole - fixed, seed=seed, step=step, size=size - tuning)
        places = np.concatenate([trained, draw(fixed, seed=seed, step=step, size=tuning)])
        return permuted(places.astype(np.uint64), whole, key=(0, -2))

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets; a pure function of (seed, step, size)."""
        return self.data.taken(self.indices(seed=seed, step=step, size=size))

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the data."""
        return self.data.held_out(size=size, tokens=tokens)

    def _aside(self) -> int:
        return max(1, int(self.share * self.data.examples()))
