"""What can be drawn: a Panel with two axes and marks, in the units of the data.

Plain values, so that what a figure shows can be tested without reading SVG. A `tone` is the name of a CSS colour (base,
idea, truth, mark, alarm, quiet, ramp0 to ramp4), never a colour: the page decides it for light, dark and print. A
`name` puts the mark in the legend, where a reader can hide it; `of` names a series that hides it too. Missing numbers
never get here: use `present`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from windtunnel.report.words import known, plain


class Mark(Protocol):
    """Anything with a legend name and an extent on both axes."""

    @property
    def name(self) -> str: ...
    def xs(self) -> Iterable[float]: ...
    def ys(self) -> Iterable[float]: ...


@dataclass(frozen=True)
class Axis:
    """One axis; `low` and `high` widen the range that the marks need, `ticks` replaces the chosen ones."""

    label: str
    log: bool = True
    text: Callable[[float], str] = plain
    ticks: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """One picture. `description` is read aloud in its place, so it says what is seen."""

    title: str
    description: str
    x: Axis
    y: Axis
    marks: tuple[Any, ...]

    @property
    def empty(self) -> bool:
        """Whether no mark has both coordinates."""
        return not any(tuple(mark.xs()) and tuple(mark.ys()) for mark in self.marks)


@dataclass(frozen=True)
class Dots:
    """One symbol a point (x, y, note); the note shows on hover. Shapes: disc, ring, diamond."""

    points: tuple[tuple[float, float, str], ...]
    tone: str
    shape: str = "disc"
    name: str = ""
    shift: float = 0.0  # pixels to the right, so that two recipes at one size stay apart
    of: str = ""

    def xs(self) -> Iterable[float]:
        return [point[0] for point in self.points]

    def ys(self) -> Iterable[float]:
        return [point[1] for point in self.points]


@dataclass(frozen=True)
class Line:
    """A curve through points (x, y)."""

    points: tuple[tuple[float, float], ...]
    tone: str
    dashed: bool = False
    name: str = ""
    of: str = ""

    def xs(self) -> Iterable[float]:
        return [point[0] for point in self.points]

    def ys(self) -> Iterable[float]:
        return [point[1] for point in self.points]


@dataclass(frozen=True)
class Band:
    """An interval along a curve: points (x, low, high)."""

    points: tuple[tuple[float, float, float], ...]
    tone: str
    name: str = ""
    of: str = ""

    def xs(self) -> Iterable[float]:
        return [point[0] for point in self.points]

    def ys(self) -> Iterable[float]:
        return [value for point in self.points for value in point[1:]]


@dataclass(frozen=True)
class Whisker:
    """An interval of y at one x."""

    x: float
    low: float
    median: float
    high: float
    tone: str
    name: str = ""
    note: str = ""
    shift: float = 0.0
    of: str = ""

    def xs(self) -> Iterable[float]:
        return [self.x]

    def ys(self) -> Iterable[float]:
        return [self.low, self.median, self.high]


@dataclass(frozen=True)
class FlatWhisker:
    """An interval of x at one y."""

    y: float
    low: float
    median: float
    high: float
    tone: str
    name: str = ""
    note: str = ""

    def xs(self) -> Iterable[float]:
        return [self.low, self.median, self.high]

    def ys(self) -> Iterable[float]:
        return [self.y]


@dataclass(frozen=True)
class Lost:
    """Runs without a value to show: crosses along the upper edge at (x, note)."""

    points: tuple[tuple[float, str], ...]
    tone: str = "alarm"
    name: str = ""
    of: str = ""

    def xs(self) -> Iterable[float]:
        return [point[0] for point in self.points]

    def ys(self) -> Iterable[float]:
        return []


@dataclass(frozen=True)
class UprightRule:
    """A thin vertical line with a word at its top."""

    x: float
    text: str
    name: str = ""

    def xs(self) -> Iterable[float]:
        return [self.x]

    def ys(self) -> Iterable[float]:
        return []


@dataclass(frozen=True)
class LevelRule:
    """A thin horizontal line."""

    y: float
    name: str = ""

    def xs(self) -> Iterable[float]:
        return []

    def ys(self) -> Iterable[float]:
        return [self.y]


@dataclass(frozen=True)
class Label:
    """A word in the right margin beside the point where its curve ends."""

    y: float
    text: str
    name: str = ""

    def xs(self) -> Iterable[float]:
        return []

    def ys(self) -> Iterable[float]:
        return [self.y]


def present(row: Mapping[str, Any] | None, *names: str) -> bool:
    """Whether all these values are finite numbers."""
    return row is not None and all(known(row.get(name)) for name in names)


def values(rows: Iterable[Mapping[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    """The named values of the rows that have them all."""
    return [tuple(row[name] for name in names) for row in rows if present(row, *names)]


def share_y(panels: Sequence[Panel]) -> list[Panel]:
    """The same panels with one y range, so that they can be compared by eye."""
    seen = [y for panel in panels for mark in panel.marks for y in mark.ys() if y > 0 or not panel.y.log]
    if not seen:
        return list(panels)
    return [replace(panel, y=replace(panel.y, low=min(seen), high=max(seen))) for panel in panels]
