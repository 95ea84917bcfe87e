"""What may be chosen: shares of several data sources, and hyperparameters over their ranges on a log scale.

Inside, a setting is a row of numbers between 0 and 1: the shares as they are, then each hyperparameter's place in the
logarithm of its range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from windtunnel.errors import InputError
from windtunnel.recipe import Tuned


@dataclass(frozen=True, kw_only=True)
class Space:
    """`shares`: names of data sources whose shares sum to 1. `ranges`: name to range of each hyperparameter."""

    shares: tuple[str, ...] = ()
    ranges: Mapping[str, Tuned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.shares, str):
            raise InputError(f"Space shares is {self.shares!r}; give names of data sources, as in ('books', 'web').")
        wrong = [name for name, range_ in self.ranges.items() if not isinstance(range_, Tuned)]
        if wrong:
            raise InputError(
                f"Space ranges has {wrong[0]}={self.ranges[wrong[0]]!r}; give a range, as in "
                f'{{"{wrong[0]}": wt.tuned(1e-3, 1e-1)}}.'
            )
        if len(self.shares) == 1 or not (self.shares or self.ranges) or set(self.shares) & set(self.ranges):
            raise InputError(
                f"Space(shares={self.shares}, ranges={list(self.ranges)}): needed are two sources or more, or one "
                f"hyperparameter, and no name twice."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a setting's numbers, in order."""
        return (*self.shares, *self.ranges)

    def rows(self, points: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Points by name as rows (points, names). Raises InputError where a name is missing."""
        for point in points:
            if set(point) != set(self.names):
                raise InputError(f"A point has {sorted(point)}; this space has {sorted(self.names)}.")
        table = np.array([[point[name] for name in self.names] for point in points], float).reshape(-1, len(self.names))
        for column, range_ in enumerate(self.ranges.values(), len(self.shares)):
            table[:, column] = np.log(table[:, column] / range_.low) / np.log(range_.high / range_.low)
        return table

    def points(self, rows: np.ndarray) -> list[dict[str, float]]:
        """Rows as points by name; four digits, so that equal points are equal on every machine."""
        return [self._point(row) for row in rows]

    def _point(self, row: np.ndarray) -> dict[str, float]:
        count = len(self.shares)
        shares = np.round(row[:count], 4)
        if count:
            shares[np.argmax(shares)] += 1.0 - shares.sum()  # so that they sum to 1 after rounding
        found = {name: float(round(share, 4)) for name, share in zip(self.shares, shares, strict=True)}
        for value, (name, r) in zip(row[count:], self.ranges.items(), strict=True):
            found[name] = float(f"{r.low * (r.high / r.low) ** value:.4g}")
        return found

    def spread(self, count: int, seed: int) -> np.ndarray:
        """Rows spread evenly over the space: a scrambled Sobol sequence, uniform on the simplex of shares."""
        free = max(len(self.shares) - 1, 0)
        drawn = _evenly(count, free + len(self.ranges), seed)
        if not free:
            return drawn
        cuts = np.sort(drawn[:, :free], axis=1)  # spacings of ordered uniform numbers are uniform on the simplex
        ends = np.column_stack([np.zeros(count), cuts, np.ones(count)])
        return np.column_stack([np.diff(ends, axis=1), drawn[:, free:]])


def _evenly(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Numbers in [0, 1) (count, dimensions): an additive recurrence with the roots of x^(d+1) = x + 1, from a random
    start. Its gaps are as small as Sobol's for any count; `scipy.stats.qmc` has no spelling of its seed for all of the
    versions we allow."""
    root = 2.0
    for _ in range(60):  # a contraction: 60 rounds are far beyond float precision
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    start = np.random.default_rng(seed).random(dimensions)
    return (start + np.arange(1, count + 1)[:, None] * steps) % 1.0
