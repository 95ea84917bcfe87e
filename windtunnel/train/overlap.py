"""Whether examples that judge are among those that a data plan trains on: text is found wherever it is cut.

Windows of a text are looked up in all that is held out, and what recurs by chance is measured on the judge's own
training side. A newcomer would compare examples; text that is cut one token later shares none, and is the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from windtunnel.recipe import Judge
from windtunnel.train.data import judge_chunk

Batch = tuple[np.ndarray, np.ndarray]
BEYOND_CHANCE = 0.04  # a share of examples that is more than this over chance, and than 4 standard errors, is no chance
WINDOW = 64  # tokens by which a longer text is known (guess)
COMMON = 3  # a window that is held out more often is a row of dashes or a licence, and tells nothing (guess); nor does
# one of fewer different tokens than half of what is usual: rows of blanks are everywhere
MOST_TOKENS, MOST_BYTES = 1 << 18, 1 << 26  # held out that are looked at: half a second, and bounded memory
DRAWN = [(seed, step) for step in (0, 1, 2, 20, 60, 250, 1000, 5000) for seed in (0, 1)]
A_STEP = 32  # examples of each
REFERENCE = 256  # of each, for what recurs by chance: 4096 examples


def drawn(data: Any, size: int = A_STEP) -> Iterator[Batch]:
    """Training examples of a few seeds and steps, early and late; none where the data end before, or fail."""
    for seed, step in DRAWN:
        with suppress(Exception):  # their runs will tell
            yield data.batch(seed=seed, step=step, size=size)


class Known:
    """What a judge's data hold out, and how much of it recurs in other examples."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def share(self, examples: Iterable[Batch]) -> float:
        """The share of examples that are held out, in whole or with a window at their start, middle or end."""
        return self._found(_joined(examples))

    def leaked(self, examples: Iterable[Batch]) -> tuple[float, float] | None:
        """That share and the one by chance, where it is clearly more; None where it is not."""
        both, text = _joined(examples), _is_text(*self.held_out)
        xs, ys = _joined(drawn(self.judge.data, REFERENCE if text else A_STEP))
        if not len(both[0]) or not len(xs):
            return None
        if text and both[0].ndim == 2:  # cut alike: a shorter window recurs more often
            xs = xs[:, : both[0].shape[1]]
        share, chance = self._found(both), self._found((xs, ys))
        error = np.sqrt(chance * (1 - chance) * (1 / len(both[0]) + 1 / len(xs)))
        return (share, chance) if share > chance + max(BEYOND_CHANCE, 4 * error) else None

    def _found(self, both: Batch) -> float:
        xs, ys = both
        inputs, targets = self.held_out
        if not len(xs) or not len(inputs):
            return 0.0
        if not (_is_text(inputs, targets) and xs.ndim == 2 and xs.dtype.kind in "iu"):
            held = {_bytes(*each) for each in zip(inputs, targets, strict=True)}
            return float(np.mean([_bytes(*each) in held for each in zip(xs, ys, strict=True)]))
        length = min(WINDOW, -(-3 * min(xs.shape[1], inputs.shape[1]) // 4))  # a mark before each row hides little
        known = self._windows(length)
        if not len(known):
            return 0.0
        starts = {0, (xs.shape[1] - length) // 2, xs.shape[1] - length}
        dull = np.median(_distinct(inputs[:, :length])) / 2
        windows = [xs[:, at : at + length] for at in starts]
        found = [_among(_hashed(window), known) & (_distinct(window) > dull) for window in windows]
        return float(np.mean(np.any(found, axis=0)))

    @cached_property
    def held_out(self) -> Batch:
        """What is known; of text more than the judge looks at, for it may be cut elsewhere in the same files."""
        shape, wanted = self.judge.data.shape(), self.judge.tokens
        if len(shape.example_shape) == 1 and shape.tokens_per_example > 1:
            wanted = max(wanted, MOST_TOKENS)
        found: list[Batch] = []
        with suppress(Exception):  # a plan may refuse more than it holds
            found = list(_bounded(self._read(wanted)))
        return _joined(found or _bounded(self._read(self.judge.tokens)))

    def _read(self, tokens: int) -> Iterator[Batch]:
        yield from self.judge.data.held_out(size=judge_chunk(self.judge), tokens=tokens)

    def _windows(self, length: int) -> np.ndarray:
        """Sorted hashes of windows that are not common, of rows that go on where the last ends and of rows alone."""
        inputs, targets = self.held_out
        if length not in self._known:
            found = []
            for rows in (inputs, np.column_stack([inputs, targets[:, -1]])):
                hashes, count = np.unique(_hashed(sliding_window_view(rows.ravel(), length)), return_counts=True)
                found.append(hashes[count <= COMMON])
            self._known[length] = np.unique(np.concatenate(found))
        return self._known[length]

    @cached_property
    def _known(self) -> dict[int, np.ndarray]:
        return {}


def _bounded(batches: Iterable[Batch]) -> Iterator[Batch]:
    held = 0
    for inputs, targets in batches:
        yield inputs, targets
        held += inputs.nbytes + targets.nbytes
        if held > MOST_BYTES:
            return


def _joined(batches: Iterable[Batch]) -> Batch:
    found = list(batches)
    if not found:
        return np.zeros(0), np.zeros(0)
    inputs, targets = zip(*found, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def _is_text(inputs: np.ndarray, targets: np.ndarray) -> bool:
    """Whether an example is a row of tokens, each of which is foretold."""
    return inputs.ndim == 2 and inputs.dtype.kind in "iu" and inputs.shape == targets.shape


def _distinct(rows: np.ndarray) -> np.ndarray:
    """How many different tokens each row has."""
    return 1 + np.count_nonzero(np.diff(np.sort(rows, axis=1), axis=1), axis=1)


def _hashed(windows: np.ndarray) -> np.ndarray:
    """A number for each window (windows, tokens), equal for equal ones."""
    found = np.zeros(len(windows), np.uint64)
    for column in windows.T:
        found = found * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64)  # modulo 2^64
    return found


def _among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which are among the known, which are sorted and not none."""
    return known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes


def _bytes(x: np.ndarray, y: np.ndarray) -> bytes:
    return x.tobytes() + y.tobytes()
