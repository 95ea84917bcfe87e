"""Which examples a step sees: an endless stream of passes, each its own permutation, computed and never stored.

Step s takes positions s*size to (s+1)*size-1 of the stream, so another batch size reads the same stream, and a resumed
run needs only its step. A newcomer would shuffle an index array; that needs memory of the size of the corpus and a
history to replay. A keyed bijection of [0, n) (a Feistel network with cycle walking: Black and Rogaway, Ciphers with
Arbitrary Finite Domains, 2002) needs neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError

if TYPE_CHECKING:
    from windtunnel.recipe import DataPlan

# Part of every fingerprint: raise it when the same seed would give another order.
VERSION = 1
# Half-rounds of the Feistel network. 4 full rounds suffice for a pseudorandom permutation of a large domain (Luby and
# Rackoff 1988); 12 half-rounds are a margin for the small domains here (guess; the tests look for bias at n = 5 to 7).
_ROUNDS = 12
# A pass is computed in blocks of so many places, which takes hardly longer than a batch's share of them, and so many
# blocks are kept: 64 MiB at most. With more seeds at once than blocks kept, each draw computes a block anew.
BLOCK, KEPT_BLOCKS = 1 << 11, 4096


def draw(count: int, *, seed: int, step: int, size: int) -> np.ndarray:
    """The `size` example indices of a step: a pure function, without replacement within a pass over `count`."""
    if step < 0 or size < 1:
        raise InputError(
            f"Step {step} of {size} examples was asked for; steps count from 0 and a batch holds at least 1."
        )
    position, parts = step * size, []
    while size:
        number, offset = divmod(position, count)
        block, first = divmod(offset, BLOCK)
        parts.append(_block(count, (seed, number), block)[first : first + size])
        position, size = position + len(parts[-1]), size - len(parts[-1])
    return np.concatenate(parts)


@lru_cache(maxsize=KEPT_BLOCKS)
def _block(count: int, key: tuple[int, int], block: int) -> np.ndarray:
    """What places block * BLOCK to (block + 1) * BLOCK - 1 of a pass hold, as far as there are so many."""
    places = np.arange(block * BLOCK, min((block + 1) * BLOCK, count), dtype=np.uint64)
    return permuted(places, count, key=key)


def permuted(offsets: np.ndarray, count: int, *, key: tuple[int, int]) -> np.ndarray:
    """Where the keyed permutation of [0, count) sends each offset."""
    bits = (count - 1).bit_length()
    if bits == 0:
        return np.zeros(len(offsets), dtype=np.int64)
    keys = _round_keys(key)
    values = _scramble(offsets.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(values >= count)
    while outside.size:  # walk the cycle until it is back inside; under 2 steps on average, as 2^bits < 2 * count
        values[outside] = _scramble(values[outside], bits, keys)
        outside = outside[values[outside] >= count]
    return values.astype(np.int64)


def spread(available: int, wanted: int) -> np.ndarray:
    """`wanted` indices (at least one, at most all) spread evenly over [0, available), always the same."""
    chosen = max(1, min(available, wanted))
    return (2 * np.arange(chosen, dtype=np.int64) + 1) * available // (2 * chosen)


def required_passes(data: DataPlan, tokens: float) -> float:
    """How often the training tokens of `data` must be read to supply `tokens`."""
    return tokens / data.shape().train_tokens


def check_length(data: DataPlan, tokens: float) -> None:
    """Raise InputError if `tokens` would need more than one pass and the data plan does not allow it."""
    passes = required_passes(data, tokens)
    if passes <= 1 or data.repeat:
        return
    unique = data.shape().train_tokens
    raise InputError(
        f"{tokens:,.0f} training tokens are asked for, which needs {passes:.3g} passes over the {unique:,} there are. "
        f"Repeated tokens are worth less than new ones; allow them with repeat=True, give more text, or ask for at "
        f"most {unique:,} tokens."
    )


def check_alike(plans: Sequence[DataPlan]) -> None:
    """Raise InputError if data plans that one model is to read differ in vocabulary or context."""
    shapes = {(p.shape().classes, p.shape().tokens_per_example, p.shape().example_shape) for p in plans}
    if len(shapes) > 1:
        raise InputError(
            f"The plans have different vocabularies or contexts, {sorted(shapes)}; one model reads them all, so "
            f"give them the same tokenizer and context."
        )


def check_first_pass(data: Any, *, count: int, step: int, size: int) -> None:
    """Raise InputError if a whole batch lies behind the first pass of a plan that may not repeat.

    A batch that straddles the end is let through: horizons are rounded up to whole steps.
    """
    if not data.repeat and step * size >= count:
        raise InputError(
            f"Step {step} of {size} examples starts after the last of {count:,} training examples; allow more than "
            f"one pass with repeat=True, give more text, or train on fewer tokens."
        )


def _scramble(values: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """An unbalanced Feistel network on `bits`-bit numbers: each half-round changes one part by a hash of the other."""
    low_bits = np.uint64((bits + 1) // 2)
    high_mask, low_mask = _mask(bits - int(low_bits)), _mask(int(low_bits))
    high, low = values >> low_bits, values & low_mask
    for i in range(0, len(keys), 2):
        high = high ^ (_mix(low, keys[i : i + 1]) & high_mask)
        low = low ^ (_mix(high, keys[i + 1 : i + 2]) & low_mask)
    return (high << low_bits) | low


def _mix(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele, Lea, Flood 2014) of value + key; arrays, so that 64-bit overflow wraps."""
    x = values + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


@lru_cache(maxsize=256)
def _round_keys(key: tuple[int, int]) -> np.ndarray:
    seed, number = key
    digests = [hashlib.sha256(f"order {seed} {number} {i}".encode()).digest() for i in range(_ROUNDS)]
    return np.array([int.from_bytes(d[:8], "little") for d in digests], dtype=np.uint64)
