"""How many examples of one data plan are found in another: text is found wherever a window of it begins.

A newcomer would compare examples; text that is cut one token later shares none, and is the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from windtunnel.recipe import Judge
from windtunnel.train.data import judge_chunk

Batch = tuple[np.ndarray, np.ndarray]
# Of the standard library's training examples 2.3 % recur in what is held out (measured, 512 examples of 32 bytes), so
# another draw of them differs by 0.9 % (standard deviation): more than this over what recurs by chance is none.
BEYOND_CHANCE = 0.04
WINDOW = 64  # tokens by which a longer text is known (guess)
VARIOUS = 4  # tokens for each different one, at most: rows of blanks or dashes are everywhere (guess)
DRAWN = [(seed, step) for step in (0, 1, 2, 20, 60, 250, 1000, 5000) for seed in (0, 1)]
A_STEP = 32  # examples of each
MOST_TOKENS = 1 << 20


def drawn(data: Any) -> Iterator[Batch]:
    """Training examples of a few seeds and steps, early and late; none where the data end before, or fail."""
    for seed, step in DRAWN:
        with suppress(Exception):  # their runs will tell
            yield data.batch(seed=seed, step=step, size=A_STEP)


def set_aside(judge: Judge) -> list[Batch]:
    """What the judge's data hold out, not only what it looks at; of very much the first million tokens."""
    return list(judge.data.held_out(size=judge_chunk(judge), tokens=max(judge.tokens, MOST_TOKENS)))


def found_in(examples: Iterable[Batch], known: Iterable[Batch]) -> float:
    """The share of examples that are among the known ones; 0 where there are none."""
    (xs, ys), (inputs, targets) = _joined(examples), _joined(known)
    if not len(xs) or not len(inputs):
        return 0.0
    if not (_is_text(xs) and _is_text(inputs)):
        held = {x.tobytes() + y.tobytes() for x, y in zip(inputs, targets, strict=True)}
        return sum(x.tobytes() + y.tobytes() in held for x, y in zip(xs, ys, strict=True)) / len(xs)
    length = min(WINDOW, xs.shape[1], inputs.shape[1])
    texts = [inputs]  # of rows that go on where the last one ends, and of rows that their last target goes on
    if targets.shape == inputs.shape:
        texts.append(np.column_stack([inputs, targets[:, -1]]))
    held = np.concatenate([_hashes(rows.ravel(), length) for rows in texts])
    rows = xs[:, :length]
    various = np.array([len(set(row)) * VARIOUS >= length for row in rows.tolist()])
    return float(np.mean(np.isin(_hashes(rows.ravel(), length)[::length], held) & various))


def _joined(batches: Iterable[Batch]) -> Batch:
    found = list(batches)
    if not found:
        return np.zeros(0), np.zeros(0)
    inputs, targets = zip(*found, strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


def _is_text(inputs: np.ndarray) -> bool:
    """Whether an example is a row of tokens."""
    return inputs.ndim == 2 and inputs.dtype.kind in "iu"


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """A number for every window of so many tokens, equal for equal windows, wherever they begin."""
    count, tokens = len(tokens) - length + 1, tokens.astype(np.uint64)
    found = np.zeros(count, np.uint64)
    for i in range(length):
        found = found * np.uint64(0x9E3779B97F4A7C15) + tokens[i : i + count]  # modulo 2^64
    return found
