"""From data to pixels: Scale, and ticks a reader can name.

On a logarithmic axis of less than a decade, round numbers in linear steps are the readable ticks (3.2, 3.4, 3.6); over
more decades 1-2-5, then 1-3, then whole powers of ten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        share = (self._unit(value) - self._unit(self.low)) / (self._unit(self.high) - self._unit(self.low))
        return self.start + share * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether the value has a place on this axis."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def _unit(self, value: float) -> float:
        return math.log10(value) if self.log else value


def scale(seen: Iterable[float], *, start: float, end: float, log: bool, pad: float = 0.05) -> Scale:
    """The scale that shows all values seen, with `pad` of its length free at both ends."""
    low, high = _range([v for v in seen if math.isfinite(v) and (v > 0 or not log)], log)
    if log:
        factor = (high / low) ** pad
        return Scale(low / factor, high * factor, start, end, log)
    room = (high - low) * pad
    return Scale(low - room, high + room, start, end, log)


def ticks(axis: Scale, most: int) -> list[float]:
    """At most `most` round values inside the scale, at least two where the scale allows."""
    if not axis.log:
        return _even(axis.low, axis.high, most)
    decades = math.log10(axis.high / axis.low)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        found = _within(axis, mantissas, 1)
        if 3 <= len(found) <= most:
            return found
    if decades < 2:
        return _even(axis.low, axis.high, most)
    return _within(axis, (1,), math.ceil(decades / most))


def _range(seen: list[float], log: bool) -> tuple[float, float]:
    if not seen:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(seen), max(seen)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    return (low / 1.25, high * 1.25) if log else (low - (abs(low) or 1.0) / 4, high + (abs(high) or 1.0) / 4)


def _even(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10, 20)]
    wide = next(i for i, step in enumerate(steps) if step >= rough and i > 2)
    step = next((s for s in reversed(steps[: wide + 1]) if math.floor(high / s) > math.ceil(low / s)), steps[0])
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def _within(axis: Scale, mantissas: tuple[int, ...], stride: int) -> list[float]:
    first, last = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
    powers = [n for n in range(first, last + 1) if n % stride == 0]
    found = [m * 10.0**n for n in powers for m in mantissas]
    return [value for value in found if axis.low <= value <= axis.high]
