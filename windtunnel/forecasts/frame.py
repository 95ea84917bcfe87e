"""Where sizes lie, as a difference law sees them: coordinates in e-folds, from the ladder's middle.

What a newcomer would get wrong: a ladder along one line (20 tokens a parameter, or one size at many horizons) says
nothing about the direction across it. That direction is a coordinate too, on which no pair has ever moved: a target
off the line gets the doubt that it deserves (measured: `gap.USUAL`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from windtunnel.forecasts.pairs import Pairs
from windtunnel.laws.law import Sizes

APART = 0.15  # parameters and tokens vary apart when they leave their common line by this much in log, rms

Pace = Callable[[Sizes], np.ndarray]  # how fast the base's log loss falls with log compute at sizes: positive, (n,)


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates of sizes: logs of `columns` times `turn` (columns, coordinates), then the log of the base's pace.

    All start at `origin`, the ladder's middle. The pairs tell the first `known` coordinates apart, so only along those
    may a gap fade; the pace is zero where it is None.
    """

    columns: tuple[str, ...]
    turn: np.ndarray
    known: int
    origin: np.ndarray
    pace: Pace | None = None

    @property
    def count(self) -> int:
        """How many coordinates there are before the pace."""
        return self.turn.shape[1]

    def place(self, sizes: Sizes) -> np.ndarray:
        """Coordinates, (runs, count + 1)."""
        placed = logs_of(sizes, self.columns) @ self.turn
        last = np.zeros(len(placed)) if self.pace is None else np.log(self.pace(sizes))
        return np.column_stack([placed, last]) - self.origin


def frame_of(pairs: Pairs, pace: Pace | None) -> Frame:
    """Parameters and tokens where they vary apart; else along their line (e-folds of what grows most) and across it."""
    sizes = Sizes.of(pairs.sizes, np.unique(pairs.rung, return_index=True)[1])
    last = 0.0 if pace is None else float(np.mean(np.log(pace(sizes))))
    columns = tuple(name for name in ("params", "tokens") if getattr(sizes, name) is not None)
    if len(columns) < 2:
        columns, turn, known = (axis_of(sizes),), _one(sizes, columns), 1
    else:
        turn, known = _two(logs_of(sizes, columns))
    middle = np.mean(logs_of(sizes, columns) @ turn, axis=0)
    return Frame(columns, turn, known, np.append(middle, last), pace)


def _two(logs: np.ndarray) -> tuple[np.ndarray, int]:
    """Turn of log parameters and tokens (rungs, 2), and how many coordinates the rungs tell apart."""
    away = logs - logs.mean(axis=0)
    values, axes = np.linalg.svd(away)[1:]
    if len(values) == 2 and values[1] > APART * np.sqrt(len(logs)):
        return np.eye(2), 2
    along, across = axes
    return np.stack([along * along[np.argmax(np.abs(along))], across], axis=1), 1


def _one(sizes: Sizes, columns: tuple[str, ...]) -> np.ndarray:
    """Turn of the one size that is known, (1, 1): FLOPs count as the parameters beside them grow."""
    reach = float(np.ptp(np.log(getattr(sizes, axis_of(sizes)))))
    beside = float(np.ptp(logs_of(sizes, columns))) if columns else 0.0
    return np.array([[beside / reach if beside > APART else 1.0]])


def logs_of(sizes: Sizes, columns: tuple[str, ...]) -> np.ndarray:
    """Logarithms of some columns, (runs, columns)."""
    return np.stack([np.log(getattr(sizes, name)) for name in columns], axis=1)


def axis_of(sizes: Sizes) -> str:
    """The column that orders sizes by cost: flops, else params, else tokens."""
    return next(name for name in ("flops", "params", "tokens") if getattr(sizes, name) is not None)
