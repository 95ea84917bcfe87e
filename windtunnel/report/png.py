"""How any panel is drawn as PNG, by matplotlib: for slides, and where SVG is not taken.

Names are from outside, so no text is read as mathematics, and nothing of matplotlib's global state is touched.
"""

from __future__ import annotations

import io
import warnings
from functools import singledispatch
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from windtunnel.report.figures import HEIGHT, WIDTH, palette
from windtunnel.report.marks import Axis, Band, Dots, FlatWhisker, Label, LevelRule, Line, Lost, Panel, UprightRule
from windtunnel.report.marks import Whisker as UprightWhisker
from windtunnel.report.scales import scale, ticks

DOTS_AN_INCH = 200
MOST = 60  # letters of a name; longer ones would leave the picture
SHAPES = {"disc": {"marker": "o"}, "ring": {"marker": "o", "markerfacecolor": "white"}, "diamond": {"marker": "D"}}


def png(panel: Panel) -> bytes:
    """The panel with its legend as a PNG file of 1440 x 880 pixels."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0.1, 0.12, 0.78, 0.82))
    _axis(axes.xaxis, panel.x, [x for mark in panel.marks for x in mark.xs()], axes.set_xscale, axes.set_xlim, 9)
    _axis(axes.yaxis, panel.y, [y for mark in panel.marks for y in mark.ys()], axes.set_yscale, axes.set_ylim, 8)
    for mark in panel.marks:
        _drawn(mark, axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=palette()["grid"])
    axes.set_axisbelow(True)
    _legend(axes)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box stands for it
        figure.savefig(out, format="png", dpi=DOTS_AN_INCH, metadata={"Software": None})
    return out.getvalue()


def _axis(side: Any, axis: Axis, seen: list[float], set_scale: Any, limit: Any, most: int) -> None:
    ends = [end for end in (axis.low, axis.high) if end is not None]
    chosen = scale([*seen, *ends], start=0, end=100, log=axis.log, pad=0.06)
    set_scale("log" if axis.log else "linear")
    limit(chosen.low, chosen.high)
    side.set_major_locator(FixedLocator(list(axis.ticks or ticks(chosen, most))))
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(lambda value, _: axis.text(value)))
    side.set_label_text(axis.label[:MOST], parse_math=False)


@singledispatch
def _drawn(mark: Any, axes: Any) -> None:
    raise TypeError(f"{type(mark).__name__} is no mark that png.py can draw; add its `_drawn`.")


@_drawn.register
def _(mark: Dots, axes: Any) -> None:
    xs, ys = list(mark.xs()), list(mark.ys())
    axes.plot(xs, ys, linestyle="none", markersize=4.5, color=_colour(mark.tone), label=_named(mark.name),
              transform=_shifted(axes, mark.shift), **SHAPES[mark.shape])  # fmt: skip


@_drawn.register
def _(mark: Line, axes: Any) -> None:
    style = "--" if mark.dashed else "-"
    axes.plot(mark.xs(), mark.ys(), style, color=_colour(mark.tone), linewidth=1.6, label=_named(mark.name))


@_drawn.register
def _(mark: Band, axes: Any) -> None:
    rows = sorted(mark.points)
    low, high = [row[1] for row in rows], [row[2] for row in rows]
    axes.fill_between([row[0] for row in rows], low, high, color=_colour(mark.tone), alpha=0.15, linewidth=0,
                      label=_named(mark.name))  # fmt: skip


@_drawn.register
def _(mark: UprightWhisker, axes: Any) -> None:
    reach = [[max(0.0, mark.median - mark.low)], [max(0.0, mark.high - mark.median)]]
    axes.errorbar([mark.x], [mark.median], yerr=reach, fmt="o", markersize=4, capsize=4, color=_colour(mark.tone),
                  label=_named(mark.name), transform=_shifted(axes, mark.shift))  # fmt: skip


@_drawn.register
def _(mark: FlatWhisker, axes: Any) -> None:
    reach = [[max(0.0, mark.median - mark.low)], [max(0.0, mark.high - mark.median)]]
    axes.errorbar([mark.median], [mark.y], xerr=reach, fmt="o", markersize=4, capsize=4, color=_colour(mark.tone),
                  label=_named(mark.name))  # fmt: skip


@_drawn.register
def _(mark: Lost, axes: Any) -> None:
    xs = list(mark.xs())
    axes.plot(xs, [0.99] * len(xs), "x", transform=axes.get_xaxis_transform(), color=_colour(mark.tone),
              label=_named(mark.name))  # fmt: skip


@_drawn.register
def _(mark: UprightRule, axes: Any) -> None:
    axes.axvline(mark.x, color=palette()["quiet"], linestyle=":", linewidth=1)
    axes.annotate(mark.text[:MOST], (mark.x, 1.0), xycoords=axes.get_xaxis_transform(), ha="center", va="bottom",
                  fontsize=9, color=palette()["muted"], parse_math=False)  # fmt: skip


@_drawn.register
def _(mark: LevelRule, axes: Any) -> None:
    axes.axhline(mark.y, color=palette()["ink"], linewidth=1)


@_drawn.register
def _(mark: Label, axes: Any) -> None:
    axes.annotate(mark.text[:18], (1.01, mark.y), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8,
                  annotation_clip=False, parse_math=False)  # fmt: skip


def _shifted(axes: Any, pixels: float) -> Any:
    """Where the data lie, moved to the right by pixels of the page."""
    return axes.transData + ScaledTranslation(pixels / 100, 0, axes.figure.dpi_scale_trans)


def _legend(axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    each = dict(zip(reversed(names), reversed(handles), strict=True))  # a name once, as its first mark looks
    if not each:
        return
    drawn = axes.legend(list(each.values())[::-1], list(each)[::-1], frameon=False, fontsize=8)
    for text in drawn.get_texts():
        text.set_parse_math(False)


def _named(name: str) -> str | None:
    """The name as matplotlib shows it: one that begins with an underscore would be left out."""
    return name[:MOST] if name and not name.startswith("_") else (f" {name[:MOST]}" if name else None)


def _colour(tone: str) -> str:
    return palette().get({"mark": "ink"}.get(tone, tone), "#000000")
