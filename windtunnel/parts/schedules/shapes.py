"""How a decay falls: its done share, 0 to 1, to what is left of the height it fell from.

A shape is any frozen dataclass with `__call__(done) -> left` that is 1 at 0; a schedule puts floor and length around
it. A newcomer would think of the shape as a detail: the published 1-sqrt falls faster at the start than a line and ends
lower in loss at long runs (2405.18392), and where it does not is to be measured (docs/schedules.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Protocol

from windtunnel.errors import InputError
from windtunnel.recipe import is_open


class Shape(Protocol):
    """What is left, 1 at `done` 0 and not below 0, when the share `done` of a decay is behind."""

    def __call__(self, done: float) -> float: ...


@dataclass(frozen=True)
class Linear:
    """A straight line to zero."""

    def __call__(self, done: float) -> float:
        """1 - done."""
        return 1 - done


@dataclass(frozen=True)
class OneMinusSqrt:
    """1 - sqrt(done), the shape of 2405.18392 (abstract and reviews read): steep first, flat at the end."""

    def __call__(self, done: float) -> float:
        """1 - sqrt(done)."""
        return 1 - sqrt(done)


@dataclass(frozen=True)
class HalfCosine:
    """Half a period of a cosine, flat at both ends (1608.03983)."""

    def __call__(self, done: float) -> float:
        """(1 + cos(pi done)) / 2."""
        return 0.5 * (1 + cos(pi * done))


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """0.5^(halvings x done): MiniCPM's decay 0.5^((s - T) / tau) over a stretch of `halvings` x tau (2404.06395; a
    page that states its formula was read). It never reaches zero; 5 halvings, a thirty-second, are a guess."""

    halvings: float = 5.0

    def __post_init__(self) -> None:
        if not is_open(self) and not 0 < self.halvings < 1000:
            raise InputError(f"Exponential(halvings={self.halvings}): give how often the rate halves, above 0.")

    def __call__(self, done: float) -> float:
        """0.5^(halvings x done)."""
        return 0.5 ** (self.halvings * done)


def check_shape(owner: str, shape: Shape) -> None:
    """Raise InputError for what is no shape: not callable with a share, or not 1 at its beginning."""
    first = shape(0.0) if callable(shape) and not isinstance(shape, type) else None
    if not isinstance(first, int | float) or abs(first - 1) > 1e-6:
        raise InputError(
            f"{owner} shape is {shape!r}; it is a part that says what is left of a decay's height at a done share, 1 "
            f"at 0, such as Linear(), OneMinusSqrt(), HalfCosine() or Exponential(halvings=5)."
        )


def fallen(shape: Shape, done: float, height: float, floor: float) -> float:
    """From `height` at done 0 down to `floor`, along the shape; a floor above the height is the height."""
    low = min(floor, height)
    return low + (height - low) * shape(min(1.0, max(0.0, done)))
