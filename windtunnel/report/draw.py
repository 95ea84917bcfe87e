"""How any panel is drawn: SVG whose colours are CSS classes and whose text is text.

All text and every attribute passes `element`, which escapes it and refuses a number that is not finite. Values that
have no place on an axis (zero on a logarithmic one) are left out, not moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import Any

from markupsafe import Markup, escape

from windtunnel.report.marks import (
    Axis,
    Band,
    Dots,
    FlatWhisker,
    Label,
    LevelRule,
    Line,
    Lost,
    Panel,
    UprightRule,
    Whisker,
)  # fmt: skip
from windtunnel.report.scales import Scale, scale, ticks
from windtunnel.report.words import si

LETTER = 7.0  # width of a letter at 12 px, in pixels: the average of DejaVu Sans, the widest of the usual system faces
FIXED = {Lost: "y", UprightRule: "y", LevelRule: "x"}  # where a mark lies at the edge of the picture, or spans it
HOVER_LIMIT = 400  # more dots than this have no hover note: the page would double in size


def draw(panel: Panel, width: float, height: float, series: Sequence[str] = ()) -> Markup:
    """The panel as an inline SVG of this natural size, in pixels.

    `series` are the names of its figure's legend, in order; marks then say which they belong to, for figures.js.
    """
    labels = [mark for mark in panel.marks if isinstance(mark, Label)]
    top, bottom = 26.0, height - 42.0
    y = scale(_reach(panel, "ys", panel.y), start=bottom, end=top, log=panel.y.log, pad=0.07)
    levels = [(v, panel.y.text(v)) for v in (panel.y.ticks or ticks(y, max(3, int((bottom - top) / 46))))]
    left = 14 + LETTER * max((len(text) for _, text in levels), default=2)
    right = width - max(14.0, 12 + LETTER * max((len(_short(m.text)) for m in labels), default=0))
    x = scale(_reach(panel, "xs", panel.x), start=left, end=right, log=panel.x.log)
    steps = [(v, panel.x.text(v)) for v in (panel.x.ticks or ticks(x, min(9, max(2, int((right - left) / 60)))))]
    body = [
        _grid(x, y, _spaced(steps, x), levels, panel),
        element("g", *(_placed(mark, x, y, series) for mark in panel.marks), class_="marks"),
        _labels(labels, right, y),
    ]
    size = f"0 0 {width:g} {height:g}"
    axes = {"data_x": _said(x, panel.x), "data_y": _said(y, panel.y)}
    return element("svg", *body, viewBox=size, role="img", class_="plot", aria_label=panel.description, **axes)


def legend(panels: Sequence[Panel]) -> list[tuple[Markup, str]]:
    """One small picture for every named mark, in order of first use."""
    found: dict[str, Markup] = {}
    for mark in (mark for panel in panels for mark in panel.marks if mark.name):
        found.setdefault(mark.name, element("svg", _key(mark), viewBox="0 0 26 14", class_="key", aria_hidden="true"))
    return [(picture, name) for name, picture in found.items()]


def element(name: str, *children: Any, **attributes: Any) -> Markup:
    """One SVG element, escaped; `class_` is class and an underscore is a hyphen. None leaves an attribute out."""
    shown = ((_attribute(key), _value(value)) for key, value in attributes.items() if value is not None)
    opening = f"<{name}" + "".join(f' {key}="{escape(value)}"' for key, value in shown)
    inner = "".join(str(escape(child)) for child in children)
    return Markup(f"{opening}>{inner}</{name}>" if inner else f"{opening}/>")


def _placed(mark: Any, x: Scale, y: Scale, series: Sequence[str]) -> Markup:
    """The mark, with the series that hide it and the axes that do not move it where the reader zooms."""
    names = [str(series.index(name)) for name in (mark.name, getattr(mark, "of", "")) if name in series]
    fixed = FIXED.get(type(mark))
    shape = _shape(mark, x, y)
    return element("g", shape, data_s=" ".join(names) or None, data_fix=fixed) if shape and (names or fixed) else shape


def _said(axis: Scale, of: Axis) -> str:
    """An axis for figures.js: pixels at its ends, values there, how it is spaced and how its numbers are written."""
    ends = f"{_value(axis.start)} {_value(axis.end)} {axis.low:.9g} {axis.high:.9g}"
    return f"{ends} {'log' if axis.log else 'even'} {'si' if of.text is si else 'plain'}"


@singledispatch
def _shape(mark: Any, x: Scale, y: Scale) -> Markup:
    raise TypeError(f"{type(mark).__name__} is no mark that draw.py can draw; add its `_shape`.")


@_shape.register
def _(mark: Dots, x: Scale, y: Scale) -> Markup:
    noted = len(mark.points) <= HOVER_LIMIT
    seen = [point for point in mark.points if x.holds(point[0]) and y.holds(point[1])]
    symbols = (_symbol(mark.shape, x(px), y(py), note if noted else "") for px, py, note in seen)
    return element("g", *symbols, class_=f"{mark.shape} {mark.tone}", transform=_aside(mark.shift))


@_shape.register
def _(mark: Line, x: Scale, y: Scale) -> Markup:
    return _path(_pixels(mark.points, x, y), class_=f"line {mark.tone}{' dashed' if mark.dashed else ''}")


@_shape.register
def _(mark: Band, x: Scale, y: Scale) -> Markup:
    lower = _pixels(((px, low) for px, low, _ in mark.points), x, y)
    upper = _pixels(((px, high) for px, _, high in mark.points), x, y)
    return _path([*lower, *reversed(upper)], close=True, class_=f"band {mark.tone}")


@_shape.register
def _(mark: Whisker, x: Scale, y: Scale) -> Markup:
    if not (x.holds(mark.x) and all(y.holds(v) for v in mark.ys())):
        return Markup("")
    at, low, middle, high = x(mark.x), y(mark.low), y(mark.median), y(mark.high)
    ends = [(at, low), (at, high)]
    return _whisker(ends, "m-5 0h10", (at, middle), mark.tone, mark.note, _aside(mark.shift))


@_shape.register
def _(mark: FlatWhisker, x: Scale, y: Scale) -> Markup:
    if not (y.holds(mark.y) and all(x.holds(v) for v in mark.xs())):
        return Markup("")
    at, low, middle, high = y(mark.y), x(mark.low), x(mark.median), x(mark.high)
    return _whisker([(low, at), (high, at)], "m0-4v8", (middle, at), mark.tone, mark.note)


@_shape.register
def _(mark: Lost, x: Scale, y: Scale) -> Markup:
    seen = [point for point in mark.points if x.holds(point[0])]
    crosses = (_cross(x(px), y.end + 6, note if len(seen) <= HOVER_LIMIT else "") for px, note in seen)
    return element("g", *crosses, class_=f"lost {mark.tone}")


@_shape.register
def _(mark: UprightRule, x: Scale, y: Scale) -> Markup:
    if not x.holds(mark.x):
        return Markup("")
    at, late = x(mark.x), x(mark.x) > (x.start + x.end) / 2
    word = _text(at, y.start - 7, mark.text, "end" if late else "start", "small halo", -5 if late else 5)
    return element("g", _path([(at, y.start), (at, y.end)], class_="rule"), word)


@_shape.register
def _(mark: LevelRule, x: Scale, y: Scale) -> Markup:
    return _path([(x.start, y(mark.y)), (x.end, y(mark.y))], class_="rule strong") if y.holds(mark.y) else Markup("")


@_shape.register
def _(mark: Label, x: Scale, y: Scale) -> Markup:
    return Markup("")  # drawn together, so that they keep apart


def _grid(x: Scale, y: Scale, steps: list[tuple[float, str]], levels: list[tuple[float, str]], panel: Panel) -> Markup:
    lines = [_path([(x.start, y(v)), (x.end, y(v))], class_="grid") for v, _ in levels]
    marks = [_path([(x(v), y.start), (x(v), y.start + 4)], class_="tick") for v, _ in steps]
    numbers = [_text(x.start - 7, y(v) + 4, text, "end", "number") for v, text in levels]
    numbers += [_text(x(v), y.start + 17, text, "middle", "number") for v, text in steps]
    frame = _path([(x.start, y.start), (x.end, y.start)], class_="tick frame")
    across, up = (_short(axis.label, int(x.end / LETTER)) for axis in (panel.x, panel.y))
    words = [_text(2, 12, up, "start", "axis"), _text(x.end, y.start + 35, across, "end", "axis")]
    return element("g", *lines, frame, *marks, *numbers, *words, class_="axes")


def _labels(labels: list[Label], right: float, y: Scale) -> Markup:
    wanted = sorted(((y(label.y), label) for label in labels if y.holds(label.y)), key=lambda pair: pair[0])
    placed, last = [], y.end - 13.0
    for at, label in wanted:
        last = max(at, last + 13)
        placed.append((last, label))
    over = max(0.0, last - y.start)  # pushed below the axis: move the whole stack up
    words = (_text(right + 6, at - over + 4, _short(mark.text), "start", "label") for at, mark in placed)
    return element("g", *words, class_="labels", data_fix="x")


def _spaced(steps: list[tuple[float, str]], x: Scale) -> list[tuple[float, str]]:
    kept: list[tuple[float, str]] = []
    for value, text in steps:
        if not kept or x(value) - x(kept[-1][0]) >= LETTER * (len(text) + len(kept[-1][1])) / 2 + 8:
            kept.append((value, text))
    return kept


def _reach(panel: Panel, side: str, axis: Any) -> list[float]:
    ends = [end for end in (axis.low, axis.high) if end is not None]
    return ends + [value for mark in panel.marks for value in getattr(mark, side)()]


def _key(mark: Any) -> Markup:
    x, y = Scale(0, 1, 3, 23, False), Scale(0, 1, 13, 1, False)
    row = tuple((i / 4, 0.5) for i in range(5))
    small = {
        Dots: lambda: Dots(((0.5, 0.5, ""),), mark.tone, mark.shape),
        Line: lambda: Line(row, mark.tone, mark.dashed),
        Band: lambda: Band(tuple((i, 0.1, 0.9) for i, _ in row), mark.tone),
        Whisker: lambda: Whisker(0.5, 0.0, 0.5, 1.0, mark.tone),
        FlatWhisker: lambda: FlatWhisker(0.5, 0.0, 0.5, 1.0, mark.tone),
        Lost: lambda: Lost(((0.5, ""),), mark.tone),
        LevelRule: lambda: LevelRule(0.5),
    }
    return _shape(small[type(mark)](), x, y)


# Small letters are lengths in pixels, which keep their size where the reader zooms; capitals are places, which move.


def _whisker(
    ends: Sequence[tuple[float, float]], cap: str, middle: tuple[float, float], tone: str, note: str,
    aside: str | None = None,
) -> Markup:  # fmt: skip
    places = [f"{_value(px)} {_value(py)}" for px, py in ends]
    bar = element("path", d=f"M{'L'.join(places)}{''.join(f'M{place}{cap}' for place in places)}", class_="bar")
    return element("g", bar, _symbol("disc", *middle, ""), *_title(note), class_=f"whisker {tone}", transform=aside)


def _aside(pixels: float) -> str | None:
    return f"translate({pixels:g})" if pixels else None


def _symbol(shape: str, px: float, py: float, note: str) -> Markup:
    if shape == "diamond":
        return element("path", *_title(note), d=f"M{_value(px)} {_value(py)}m0-6l6 6l-6 6l-6-6z")
    return element("circle", *_title(note), cx=px, cy=py, r=3.2)


def _cross(px: float, py: float, note: str) -> Markup:
    return element("path", *_title(note), d=f"M{_value(px)} {_value(py)}m-3.5-3.5l7 7m0-7l-7 7")


def _path(points: Iterable[tuple[float, float]], *children: Any, close: bool = False, class_: str = "") -> Markup:
    route = "L".join(f"{_value(px)} {_value(py)}" for px, py in points)
    if not route:
        return Markup("")
    return element("path", *children, d=f"M{route}{'Z' if close else ''}", class_=class_ or None)


def _text(px: float, py: float, text: str, anchor: str, class_: str, dx: float | None = None) -> Markup:
    return element("text", text, x=px, y=py, dx=dx, text_anchor=anchor, class_=class_)


def _title(note: str) -> list[Markup]:
    return [element("title", note)] if note else []


def _pixels(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(px), y(py)) for px, py in points if x.holds(px) and y.holds(py)]


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError(f"A coordinate is {value}; missing values must be left out before drawing.")
    return f"{value:.1f}".removesuffix(".0")
