"""Several data plans mixed by shares: every block of 200 examples holds each source's share of them, in an order drawn.

So a source's share is exact to half a percent in any stretch of a run, and which of its examples comes next needs no
history. A newcomer would draw every example's source by a coin; then two runs that differ in seed differ in shares too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.order import permuted
from windtunnel.recipe import DataShape

BLOCK = 200


@dataclass(frozen=True)
class Mixed:
    """A DataPlan over several; see `mixed` for what the fields mean."""

    plans: tuple[Any, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        whole = abs(sum(self.shares) - 1) < 1e-6 and all(share > 0 for share in self.shares)
        if len(self.plans) < 2 or len(self.plans) != len(self.shares) or not whole:
            raise InputError(
                f"mixed was given {len(self.plans)} plans and the shares {self.shares}; give two plans or more and a "
                f"share above 0 for each, together 1."
            )
        shapes = {(p.shape().classes, p.shape().example_shape) for p in self.plans}
        if len(shapes) > 1:
            raise InputError(
                f"The plans have different vocabularies or contexts, {sorted(shapes)}; one model reads them all, so "
                f"give them the same tokenizer and context."
            )
        if min(self._in_block()) < 1:
            raise InputError(f"A share of {min(self.shares)} is less than one example in {BLOCK}; give at least that.")

    @property
    def repeat(self) -> bool:
        """Whether every source may be read more than once."""
        return all(plan.repeat for plan in self.plans)

    def shape(self) -> DataShape:
        """That of the plans; as many training tokens as there are before the first source begins again."""
        own = self.plans[0].shape()
        blocks = min(count // each for count, each in zip(self._counts(), self._in_block(), strict=True))
        return DataShape(
            classes=own.classes,
            tokens_per_example=own.tokens_per_example,
            train_tokens=max(1, blocks) * BLOCK * own.tokens_per_example,
            example_shape=own.example_shape,
        )

    def fingerprint(self) -> str:
        """Hash of what the plans are and their shares."""
        said = f"mixed {[p.fingerprint() for p in self.plans]} {self.shares} {BLOCK}"
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    def examples(self) -> int:
        """How many there are in all sources together."""
        return sum(self._counts())

    def ends(self) -> tuple[int, ...]:
        """The number after each source's last example: example i is of the first source whose end is above i."""
        return tuple(accumulate(self._counts()))

    def indices(self, *, seed: int, step: int, size: int) -> np.ndarray:
        """Which examples a batch holds, counted through all sources."""
        numbers = np.arange(step * size, (step + 1) * size)
        found, begin = np.empty(size, dtype=np.int64), 0
        places, of = self._drawn(seed, numbers)
        for source, (count, each) in enumerate(zip(self._counts(), self._in_block(), strict=True)):
            mine = of == source
            passes, offsets = np.divmod(numbers[mine] // BLOCK * each + places[mine], count)
            for number in np.unique(passes):
                inside = passes == number
                chosen = permuted(offsets[inside].astype(np.uint64), count, key=(seed, int(number)))
                found[np.flatnonzero(mine)[inside]] = begin + chosen
            begin += count
        return found

    def taken(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets by the numbers of `indices`."""
        ends = self.ends()
        of = np.searchsorted(ends, indices, side="right")
        parts = {k: self.plans[k].taken(indices[of == k] - (0, *ends)[k]) for k in np.unique(of)}
        first = next(iter(parts.values()))
        whole = [np.empty((len(indices), *array.shape[1:]), dtype=array.dtype) for array in first]
        for k, pair in parts.items():
            for array, part in zip(whole, pair, strict=True):
                array[of == k] = part
        return whole[0], whole[1]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets; a pure function of (seed, step, size)."""
        return self.taken(self.indices(seed=seed, step=step, size=size))

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every plan's validation examples, its share of the tokens."""
        for plan, share in zip(self.plans, self.shares, strict=True):
            yield from plan.held_out(size=size, tokens=round(tokens * share))

    def _counts(self) -> list[int]:
        return [plan.examples() for plan in self.plans]

    def _in_block(self) -> list[int]:
        """How many examples of each source a block holds: what rounding leaves goes to the largest remainders."""
        exact = np.array(self.shares) * BLOCK
        found = np.floor(exact + 1e-9).astype(int)
        for source in np.argsort(found - exact, kind="stable")[: BLOCK - found.sum()]:
            found[source] += 1
        return found.tolist()

    def _drawn(self, seed: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of some examples of the stream, the place among those of their source in the block, and the source."""
        blocks = {int(b): _block(tuple(self._in_block()), seed, int(b)) for b in np.unique(numbers // BLOCK)}
        places, of = np.concatenate(list(blocks.values()), axis=1)[:, numbers - min(blocks) * BLOCK]
        return places, of


def mixed(*plans: Any, shares: Any) -> Mixed:
    """`plans` mixed, `shares` of the examples from each, together 1 and rounded to 1/200.

    Raises InputError where the plans do not fit together.
    """
    return Mixed(tuple(plans), tuple(float(share) for share in shares))


@lru_cache(maxsize=64)
def _block(each: tuple[int, ...], seed: int, block: int) -> np.ndarray:
    """Place within its source and source of every example of a block, (2, BLOCK)."""
    ordered = np.concatenate([np.stack([np.arange(count), np.full(count, k)]) for k, count in enumerate(each)], axis=1)
    return ordered[:, np.random.default_rng([abs(seed), block]).permutation(BLOCK)]
