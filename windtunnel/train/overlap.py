"""Whether examples that judge are among those that a data plan trains on: text is found wherever it is cut.

Windows of a text are looked up in all that is held out, and what recurs by chance is measured on the judge's own
training side. A newcomer would compare examples; text that is cut one token later shares none, and is the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from windtunnel.recipe import DataShape, Judge
from windtunnel.train.data import judge_chunk

Batch = tuple[np.ndarray, np.ndarray]
BEYOND_CHANCE = 0.04  # a share of examples that is more than this over chance, and than 4 standard errors, is no chance
WINDOW = 64  # tokens by which a longer text is known (guess)
MARK = 1  # tokens that may stand before each shorter row; with two, examples of `wt.data.tasks` were taken for others
MOST_TOKENS, MOST_BYTES = 1 << 20, 1 << 26  # held out that are looked at: about a second, and bounded memory
DRAWN = [(seed, step) for step in (0, 1, 2, 20, 60, 250, 1000, 5000) for seed in (0, 1)]
A_STEP = 32  # examples of each
REFERENCE = 256  # of each, for what recurs by chance: 4096 examples
CHUNK = 256  # examples that are read at once


def drawn(data: Any, size: int = A_STEP) -> Iterator[Batch]:
    """Training examples of a few seeds and steps, early and late; none where the data end before, or fail."""
    for seed, step in DRAWN:
        with suppress(Exception):  # their runs will tell
            yield data.batch(seed=seed, step=step, size=size)


class Overlap(NamedTuple):
    """The share of examples that are held out, and the share by chance."""

    share: float
    chance: float
    examples: int
    reference: int

    @property
    def leaked(self) -> bool:
        """Whether the share is clearly more than chance."""
        if not self.examples or not self.reference:
            return False
        error = np.sqrt(self.chance * (1 - self.chance) * (1 / self.examples + 1 / self.reference))
        return bool(self.share > self.chance + max(BEYOND_CHANCE, 4 * error))


class Known:
    """What a judge's data hold out, and how much of it recurs in other examples.

    Of text up to a million tokens are known, the judge's own first: where more are held out, data that train on all of
    it show that part of it alone.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._hashes: dict[int, np.ndarray] = {}
        self._by_chance: dict[int, tuple[float, int]] = {}

    def overlap(self, examples: Iterable[Batch]) -> Overlap:
        """How many of the examples are held out, in whole or with a window at their start, middle or end."""
        both = _joined(examples)
        chance, reference = self._chance(both[0].shape[1] if both[0].ndim == 2 else 0)
        return Overlap(self._found(both), chance, len(both[0]), reference)

    def _chance(self, width: int) -> tuple[float, int]:
        """The share of the judge's own training examples, cut to a width (0: whole), and of how many."""
        if width not in self._by_chance:
            size = _rows(self.judge.data.shape(), REFERENCE) if self._text else A_STEP
            xs, ys = _joined(drawn(self.judge.data, size))
            if self._text and width and xs.ndim == 2:  # a shorter window recurs more often
                xs = xs[:, :width]
            self._by_chance[width] = self._found((xs, ys)), len(xs)
        return self._by_chance[width]

    def _found(self, both: Batch) -> float:
        xs, ys = both
        inputs, _ = self.held_out
        if not len(xs) or not len(inputs):
            return 0.0
        if not (self._text and xs.ndim == 2 and xs.dtype.kind in "iu"):
            return float(np.mean([_bytes(*each) in self._whole for each in zip(xs, ys, strict=True)]))
        width = min(xs.shape[1], inputs.shape[1])
        length = min(WINDOW, max(width - MARK, 1))
        starts = {0, (xs.shape[1] - length) // 2, xs.shape[1] - length}
        dull = np.median(_distinct(inputs[:, :length])) / 2  # rows of blanks are everywhere
        windows = [xs[:, at : at + length] for at in starts]
        known = self._windows(length)
        found = [_among(_hashed(window), known) & (_distinct(window) > dull) for window in windows]
        return float(np.mean(np.any(found, axis=0)))

    @cached_property
    def held_out(self) -> Batch:
        """What is known; of text more than the judge looks at, for it may be cut elsewhere in the same files."""
        found = list(_bounded(self._read(self.judge.tokens)))
        shape = self.judge.data.shape()
        if len(shape.example_shape) == 1 and shape.tokens_per_example > 1 and self.judge.tokens < MOST_TOKENS:
            with suppress(Exception):  # a plan may refuse more than it holds
                found += _bounded(self._read(MOST_TOKENS))
        return _joined(found)

    @cached_property
    def _whole(self) -> set[bytes]:
        """The examples themselves, where they are no text."""
        return {_bytes(*each) for each in zip(*self.held_out, strict=True)}

    @cached_property
    def _text(self) -> bool:
        """Whether an example is a row of tokens, each of which is foretold."""
        inputs, targets = self.held_out
        return inputs.ndim == 2 and inputs.dtype.kind in "iu" and inputs.shape == targets.shape

    def _read(self, tokens: int) -> Iterator[Batch]:
        yield from self.judge.data.held_out(size=min(judge_chunk(self.judge), CHUNK), tokens=tokens)

    def _windows(self, length: int) -> np.ndarray:
        """Sorted hashes of all windows, of rows that go on where the last one ends and of rows alone."""
        inputs, targets = self.held_out
        if length not in self._hashes:
            both = (inputs, np.column_stack([inputs, targets[:, -1]]))
            found = [np.unique(_hashed(sliding_window_view(rows.ravel(), length))) for rows in both]
            self._hashes[length] = np.unique(np.concatenate(found))
        return self._hashes[length]


def _rows(shape: DataShape, most: int) -> int:
    """Examples of each draw, fewer of long ones."""
    return max(1, min(most, MOST_TOKENS // (len(DRAWN) * shape.tokens_per_example)))


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
