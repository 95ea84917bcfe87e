"""Slope of a logarithm against log size, with an interval, and what the interval says beside a bar.

Every value of every seed is a point of one regression; the interval is Student's, with two degrees of freedom fewer
than there are points. A newcomer would look at the slope alone: two sizes and one seed give a slope too, and no
interval, so nothing can be told from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from windtunnel.notebook import printed

FLAT, GROWS, SHRINKS, CANNOT_TELL = "flat", "grows", "shrinks", "cannot tell"
LEVEL = 0.9  # as every interval of the project


@dataclass(frozen=True)
class Slope:
    """d log(value) / d log(size) with an interval of `level`; `points` values went into it. NaN where none can be had.

    The interval is infinite where fewer than three points leave no doubt to be measured.
    """

    value: float
    low: float
    high: float
    points: int
    level: float = LEVEL

    def verdict(self, bar: float, expected: float = 0.0) -> str:
        """FLAT where the whole interval lies within `bar` of `expected`, GROWS or SHRINKS where all of it is beyond."""
        if self.low - expected >= -bar and self.high - expected <= bar:
            return FLAT
        if self.low - expected > bar:
            return GROWS
        return SHRINKS if self.high - expected < -bar else CANNOT_TELL

    def excess(self, expected: float = 0.0) -> float:
        """How far the slope is from `expected`; NaN where there is none."""
        return abs(self.value - expected)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "no slope"
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite is None."""
        return {"value": plain(self.value), "low": plain(self.low), "high": plain(self.high), "points": self.points,
                "level": self.level}  # fmt: skip


def slope_of(sizes: Sequence[float], values: Any) -> Slope:
    """The slope of log `values` (sizes, seeds) over log `sizes`; values that are not positive and finite are left out.

    Who leaves runs out must say so beside the slope.
    """
    table = np.asarray(values, dtype=float).reshape(len(sizes), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(table).ravel()
    x = np.log(np.repeat(np.asarray(sizes, dtype=float), table.shape[1]))
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(set(x)) < 2:
        return Slope(math.nan, math.nan, math.nan, len(x))
    x = x - x.mean()
    value = float(x @ y / (x @ x))
    freedom = len(x) - 2
    if freedom == 0:
        return Slope(value, -math.inf, math.inf, len(x))
    residual = y - y.mean() - value * x
    half = float(special.stdtrit(freedom, 0.5 + LEVEL / 2) * math.sqrt(residual @ residual / freedom / (x @ x)))
    return Slope(value, value - half, value + half, len(x))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One quantity of one module or tensor against size at one step: means over seeds, slope, and what was expected.

    `may_shrink`: only growth speaks against the rule (muP's random logits start as 1/sqrt(width)), and shrinking that
    is steeper than `limit`. `judged`: whether the check's verdict rests on it.
    """

    name: str
    quantity: str
    step: int
    values: tuple[float, ...]
    slope: Slope
    bar: float
    expected: float = 0.0
    may_shrink: bool = False
    limit: float = math.inf
    judged: bool = True

    @property
    def verdict(self) -> str:
        """FLAT (as expected), GROWS, SHRINKS or CANNOT_TELL."""
        return self.slope.verdict(self.bar, self.expected)

    @property
    def right(self) -> bool | None:
        """Whether the line is as it should be; None where the interval cannot tell."""
        low, high = self.slope.low - self.expected, self.slope.high - self.expected
        if self.may_shrink and high <= self.bar:
            return True if low >= -self.limit else False if high < -self.limit else None
        return {FLAT: True, GROWS: False, SHRINKS: None if self.may_shrink else False}.get(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "quantity": self.quantity, "step": self.step, "slope": self.slope.to_json(),
                "values": [plain(v) for v in self.values], "expected": plain(self.expected), "bar": self.bar,
                "judged": self.judged, "verdict": self.verdict}  # fmt: skip


def line_of(
    name: str, quantity: str, step: int, sizes: Sequence[float], rows: Sequence[Sequence[float]], **more: Any
) -> Line:
    """The line of values (sizes, seeds): their means and slope, and `more` of a Line's fields."""
    means = tuple(sum(row) / len(row) for row in rows)
    return Line(name=name, quantity=quantity, step=step, values=means, slope=slope_of(sizes, rows), **more)


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, its standard error, and half of Student's interval at LEVEL; one value has no error, and no end."""
    mean, freedom = float(np.mean(values)), len(values) - 1
    if freedom == 0:
        return mean, math.nan, math.inf
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, error, float(special.stdtrit(freedom, 0.5 + LEVEL / 2)) * error


def worst_first(lines: Sequence[Line]) -> list[Line]:
    """Lines farthest from what was expected first, those that are wrong before those that cannot tell."""
    order = {False: 0, None: 1, True: 2}
    return sorted(lines, key=lambda line: (order[line.right], -_or_zero(line.slope.excess(line.expected))))


def overall(lines: Sequence[Line]) -> bool | None:
    """False where a judged line is wrong, True where all are right, None otherwise."""
    told = [line.right for line in lines if line.judged]
    if any(right is False for right in told):
        return False
    return True if told and all(told) else None


def plain(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
