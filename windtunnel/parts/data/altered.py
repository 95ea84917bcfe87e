"""Data plans made of another one: some of its training examples, or some of its labels wrong.

The held-out side stays what it is, so a run is judged as one on the whole data would be. A newcomer would cut the file;
then the judge's examples would change with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.meaning import describe, now
from windtunnel.parts.data.order import draw, permuted
from windtunnel.recipe import DataShape


@dataclass(frozen=True)
class Subset:
    """Training on some examples of `data`: those that `by(data)` names, whole numbers below `data.examples()`.

    `by` is a part (a frozen dataclass); what it chooses must depend on nothing but itself and the data. Passes repeat.
    """

    data: Any
    by: Any

    repeat = True

    def shape(self) -> DataShape:
        """That of the data, with fewer training tokens."""
        whole = self.data.shape()
        return replace(whole, train_tokens=self.examples() * whole.tokens_per_example)

    def fingerprint(self) -> str:
        """Of the data and of which examples were chosen."""
        return _hashed("subset", self.data.fingerprint(), hashlib.sha256(self._chosen().tobytes()).hexdigest())

    def examples(self) -> int:
        """How many there are."""
        return len(self._chosen())

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Which of the chosen examples a batch holds, counted among the chosen."""
        return draw(self.examples(), seed=seed, step=step, size=size)

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of chosen examples by their numbers."""
        return self.data.taken(self._chosen()[indices])

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets; a pure function of (seed, step, size)."""
        return self.taken(self.indices(seed=seed, step=step, size=size))

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the data."""
        return self.data.held_out(size=size, tokens=tokens)

    def _chosen(self) -> np.ndarray:
        return _chosen(self.data, self.by, now(self.by))


@dataclass(frozen=True)
class Drawn:
    """`count` examples, drawn by `seed`: for `Subset(by=...)`."""

    count: int
    seed: int = 0

    def __call__(self, data: Any) -> np.ndarray:
        """The numbers of the examples."""
        if not 0 < self.count <= data.examples():
            raise InputError(f"Drawn count is {self.count}; the data have {data.examples():,} training examples.")
        return permuted(np.arange(self.count, dtype=np.uint64), data.examples(), key=(self.seed, -1))


def limited(data: Any, unique_tokens: int) -> Subset:
    """Training on `unique_tokens` of the data's tokens, whole examples, drawn once for all seeds and then repeated.

    Raises InputError where the data have not so many, or one example has more.
    """
    shape = data.shape()
    count = unique_tokens // shape.tokens_per_example
    if count < 1 or unique_tokens > shape.train_tokens:
        raise InputError(
            f"unique_tokens is {unique_tokens:,}; the data have {shape.train_tokens:,} training tokens in examples of "
            f"{shape.tokens_per_example:,}, so give a number between the two."
        )
    return Subset(data, Drawn(count))


@dataclass(frozen=True)
class NoisyLabels:
    """`share` of the training targets replaced by another class, drawn by `seed`; the same ones in every pass."""

    data: Any
    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"NoisyLabels share is {self.share}; it is a share of the labels, from 0 to 1.")

    @property
    def repeat(self) -> bool:
        """As the data."""
        return self.data.repeat

    def shape(self) -> DataShape:
        """That of the data."""
        return self.data.shape()

    def fingerprint(self) -> str:
        """Of the data and of the noise."""
        return _hashed("noisy", self.data.fingerprint(), self.share, self.seed)

    def examples(self) -> int:
        """As many as the data has."""
        return self.data.examples()

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """As the data says."""
        return self.data.indices(seed=seed, step=step, size=size)

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, and targets with the wrong ones among them."""
        inputs, targets = self.data.taken(indices)
        wrong, further = self._noise(len(targets[0]))
        moved = (targets + further[indices]) % self.shape().classes
        return inputs, np.where(wrong[indices], moved, targets)

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets; a pure function of (seed, step, size)."""
        return self.taken(self.indices(seed=seed, step=step, size=size))

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Those of the data, with their true labels."""
        return self.data.held_out(size=size, tokens=tokens)

    def _noise(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        return _noise(self.examples(), tokens, self.shape().classes, self.share, self.seed)


@lru_cache(maxsize=8)
def _chosen(data: Any, by: Any, means: str) -> np.ndarray:
    found = np.asarray(by(data), dtype=np.int64)
    if not len(found) or found.min() < 0 or found.max() >= data.examples() or len(np.unique(found)) < len(found):
        raise InputError(
            f"{type(by).__name__} chose {len(found)} examples; it must name at least one, each once, by numbers from 0 "
            f"to {data.examples() - 1:,}."
        )
    return found


@lru_cache(maxsize=8)
def _noise(examples: int, tokens: int, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    wrong = generator.random((examples, tokens)) < share
    return wrong, generator.integers(1, classes, (examples, tokens))


def _hashed(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(describe(list(facts))).encode()).hexdigest()[:20]
