"""Tiny tasks whose answers can be checked: copying, sorting, closing brackets, adding. Loss and score from one model.

An example is a kind, a prompt, `=`, the answer and blanks. Prompts whose hash falls on the held-out side are never
trained on. They are made as they are needed, so there is no corpus; those of addition, ten thousand in all, recur. A
newcomer would hold out examples by number: short prompts would then be in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InputError
from windtunnel.recipe import DataShape

KINDS = ("copy", "sort", "brackets", "add")
EQUALS, BLANK, PLUS = 10, 11, 16  # digits are themselves
OPENS, CLOSES = (12, 14), (13, 15)
FIRST_KIND, CLASSES = 17, 21
LONGEST = 8  # tokens of a prompt, and of an answer
LENGTH = 2 * LONGEST + 3  # kind, prompt, equals, answer, blank
HELD_OUT = 8  # one prompt in so many
VERSION = 1  # of how examples are made


@dataclass(frozen=True)
class Tasks:
    """A DataPlan of tasks; see `tasks`."""

    kinds: tuple[str, ...]
    shortest: int

    repeat = True

    def shape(self) -> DataShape:
        """As many training tokens as anyone can ask for."""
        return DataShape(
            classes=CLASSES, tokens_per_example=LENGTH - 1, train_tokens=1 << 40, example_shape=(LENGTH - 1,)
        )

    def fingerprint(self) -> str:
        """Hash of the kinds, the shortest prompt and how examples are made."""
        return hashlib.sha256(f"tasks {self.kinds} {self.shortest} made {VERSION}".encode()).hexdigest()[:20]

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (size, tokens), int64; a pure function of (seed, step, size)."""
        return _shifted(self._made(np.random.default_rng((seed, step, 1)), size, held_out=False))

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of up to `size` examples, at most `tokens` tokens in all but at least one example."""
        count = max(1, tokens // (LENGTH - 1))
        made = self._made(np.random.default_rng((0, 0, 2)), count, held_out=True)
        for start in range(0, count, size):
            yield _shifted(made[start : start + size])

    def _made(self, chance: np.random.Generator, count: int, held_out: bool) -> np.ndarray:
        """Examples (count, LENGTH) of one side, kinds in turn."""
        found, there = [], 0
        while there < count:
            drawn = self._drawn(chance, 2 * count * (HELD_OUT if held_out else 1))
            kept = drawn[_on_held_out_side(drawn) == held_out]
            found.append(kept)
            there += len(kept)
        return np.concatenate(found)[:count]

    def _drawn(self, chance: np.random.Generator, count: int) -> np.ndarray:
        made = np.full((count, LENGTH), BLANK, dtype=np.int64)
        for place, kind in enumerate(self.kinds):
            rows = np.arange(place, count, len(self.kinds))
            prompts, answers = _MAKERS[kind](chance, len(rows), self.shortest)
            made[rows, 0] = FIRST_KIND + KINDS.index(kind)
            _write(made, rows, prompts, answers)
        return made


def tasks(kinds: tuple[str, ...] = KINDS, *, shortest: int = 4) -> Tasks:
    """Examples of these kinds in equal shares; prompts of `shortest` to 8 tokens (additions always have five).

    Raises InputError for a kind that there is not and for a length outside 1 to 8.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds) or not 1 <= shortest <= LONGEST:
        raise InputError(
            f"tasks(kinds={kinds}, shortest={shortest}): kinds are some of {', '.join(KINDS)}, each once, and the "
            f"shortest prompt has 1 to {LONGEST} tokens."
        )
    return Tasks(tuple(kinds), shortest)


def _write(made: np.ndarray, rows: np.ndarray, prompts: np.ndarray, answers: np.ndarray) -> None:
    """Prompts and answers, blank behind their ends, one after the other with an equals sign between."""
    lengths = (prompts != BLANK).sum(1)
    columns = np.arange(LONGEST)
    made[rows[:, None], 1 + columns] = prompts
    made[rows, 1 + lengths] = EQUALS
    places = 2 + lengths[:, None] + columns
    made[rows[:, None], places] = answers


def _copied(chance: np.random.Generator, count: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    prompts = _digits(chance, count, shortest)
    return prompts, prompts


def _sorted(chance: np.random.Generator, count: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    prompts = _digits(chance, count, shortest)
    return prompts, np.sort(prompts, axis=1)  # a blank is larger than any digit


def _added(chance: np.random.Generator, count: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    one, other = chance.integers(0, 100, count), chance.integers(0, 100, count)
    prompts, answers = (np.full((count, LONGEST), BLANK, dtype=np.int64) for _ in range(2))
    prompts[:, :5] = np.stack([one // 10, one % 10, np.full(count, PLUS), other // 10, other % 10], axis=1)
    whole = one + other
    answers[:, :3] = np.stack([whole // 100, whole // 10 % 10, whole % 10], axis=1)
    return prompts, answers


def _closed(chance: np.random.Generator, count: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """Brackets opened and closed in a prompt that ends with one open; the answer closes what is open, last first."""
    prompts, answers = (np.full((count, LONGEST), BLANK, dtype=np.int64) for _ in range(2))
    lengths, depth = chance.integers(shortest, LONGEST + 1, count), np.zeros(count, dtype=np.int64)
    open_ = np.zeros((count, LONGEST + 1), dtype=np.int64)  # kinds of bracket by depth
    rows = np.arange(count)
    for place in range(LONGEST):
        kind, last = chance.integers(0, 2, count), place == lengths - 1
        closes = (chance.random(count) < 0.4) & (depth > 0) & ~last
        token = np.where(closes, np.take(CLOSES, open_[rows, np.maximum(depth - 1, 0)]), np.take(OPENS, kind))
        within = place < lengths
        prompts[within, place] = token[within]
        opened = within & ~closes
        open_[rows[opened], depth[opened]] = kind[opened]
        depth += np.where(within, np.where(closes, -1, 1), 0)
    for place in range(LONGEST):
        left = depth > place
        answers[left, place] = np.take(CLOSES, open_[rows[left], depth[left] - 1 - place])
    return prompts, answers


_MAKERS = {"copy": _copied, "sort": _sorted, "add": _added, "brackets": _closed}


def _digits(chance: np.random.Generator, count: int, shortest: int) -> np.ndarray:
    lengths = chance.integers(shortest, LONGEST + 1, count)
    drawn = chance.integers(0, 10, (count, LONGEST))
    return np.where(np.arange(LONGEST) < lengths[:, None], drawn, BLANK)


def _on_held_out_side(made: np.ndarray) -> np.ndarray:
    """By the hash of kind and prompt."""
    before = np.cumsum(made == EQUALS, axis=1) == 0
    value = np.zeros(len(made), dtype=np.uint64)
    for column in range(LONGEST + 1):
        token = np.where(before[:, column], made[:, column] + 1, 0).astype(np.uint64)
        value = (value ^ token) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return value % np.uint64(HELD_OUT) == 0


def _shifted(made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(made[:, :-1]), np.ascontiguousarray(made[:, 1:])
