"""Every figure of a page as files: SVG, PNG where matplotlib is there, and CSV of what is drawn.

The SVG is the page's own drawing with its colours resolved, so that programs other than browsers show it too. A
newcomer would name files after studies and ideas as they are called: names are from outside, so only letters, digits
and dashes of them reach the file system.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import Markup

from windtunnel.errors import InputError
from windtunnel.recipe import UNIT
from windtunnel.report.basin_figure import basin_panels
from windtunnel.report.coordinate_figure import coordinate_panels
from windtunnel.report.difference_figure import difference_panel
from windtunnel.report.draw import draw, element, legend
from windtunnel.report.loss_figure import loss_panels
from windtunnel.report.marks import Band, FlatWhisker, Label, LevelRule, Line, Lost, Panel, UprightRule, Whisker
from windtunnel.report.residual_figure import residual_panel

WIDTH, HEIGHT = 720, 440  # pixels of an SVG, and of a PNG at 100 a inch
COLUMNS = ("mark", "name", "x", "y", "low", "high", "note")
NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # what no XML file may hold
TONES = ("base", "idea", "truth", "mark", "alarm", "quiet", "ramp0", "ramp1", "ramp2", "ramp3", "ramp4")


def panels(data: Mapping[str, Any]) -> dict[str, Panel]:
    """Every panel of a page's data by the name of its files."""
    unit = data.get("unit") or UNIT
    groups = {
        "loss": loss_panels(data.get("recipes") or [], unit),
        "difference": [difference_panel(verdict, unit) for verdict in data.get("verdicts") or []],
        "residuals": [panel for recipe in data.get("recipes") or [] if (panel := residual_panel(recipe))],
        "basin": basin_panels(data.get("basins") or [], unit),
        "coordinates": coordinate_panels(data.get("coordinates") or []),
    }
    return {
        f"{kind}-{number:02}-{_slug(panel.title)}": panel
        for kind, found in groups.items()
        for number, panel in enumerate(found, 1)
        if not panel.empty
    }


def save(data: Mapping[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure into a folder, which is made; the paths, in order. PNG only where matplotlib is installed."""
    kinds: dict[str, Callable[[Panel], bytes]] = {"svg": svg, "csv": table}
    if find_spec("matplotlib"):
        from windtunnel.report.png import png

        kinds["png"] = png
    into, written = made_folder(folder), []
    for name, panel in panels(data).items():
        for ending, made in kinds.items():
            path = into / f"{name}.{ending}"
            path.write_bytes(made(panel))
            written.append(path)
    return written


def made_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder of figures, which is made. Raises InputError where a file is in its way."""
    into = Path(folder)
    try:
        into.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"Figures need a folder, and {into} is a file or lies below one; give another.") from None
    return into


def svg(panel: Panel) -> bytes:
    """A panel with its legend as an SVG file that stands alone."""
    keys = legend([panel])
    rows = [keys[start : start + 3] for start in range(0, len(keys), 3)]
    height = HEIGHT + 20 * len(rows)
    parts = [
        element("g", picture, _word(name), transform=f"translate({14 + 232 * column} {HEIGHT + 20 * row})")
        for row, line in enumerate(rows)
        for column, (picture, name) in enumerate(line)
    ]
    # nested drawings have no size of their own in a file, and a key is 26 x 14
    inner = str(draw(panel, WIDTH, HEIGHT)).replace("<svg ", f'<svg width="{WIDTH}" height="{HEIGHT}" ', 1)
    legends = "".join(str(part).replace("<svg ", '<svg width="26" height="14" ', 1) for part in parts)
    paper = element("rect", width=WIDTH, height=height, fill=palette()["paper"])
    style = Markup(f"<style>{stylesheet()}</style>")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{style}{paper}{inner}{legends}</svg>\n'
    return NO_XML.sub("\N{REPLACEMENT CHARACTER}", text).encode()


def table(panel: Panel) -> bytes:
    """What a panel draws as CSV: one row a point, an interval or a line's point; empty where a mark has no such value.

    A text that a spreadsheet would take for a formula is preceded by an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for mark in panel.marks:
        for row in _rows(mark):
            writer.writerow([_plain(row.get(column, "")) for column in COLUMNS])
    return out.getvalue().encode("utf-8", "replace")


@cache
def palette() -> dict[str, str]:
    """The colours of the light page by name."""
    light = _css().partition("@media")[0]
    return dict(re.findall(r"--(\w+): (#\w+);", light))


@cache
def stylesheet() -> str:
    """The page's rules for drawings, with every variable resolved: few programs but browsers know variables."""
    rules = ["svg{font:12px sans-serif}"]
    for selector, body in re.findall(r"svg ([^{},]+?) \{([^}]*)\}", _css()):
        tones = TONES if "var(--tone)" in body else ("",)
        for tone in tones:
            said = re.sub(r"var\(--(\w+)\)", lambda m, t=tone: palette().get(_colour(t, m[1]), "#000"), body)
            rules.append(f"{_toned(selector, tone)}{{{said.strip()}}}")
    return "\n".join(rules)


def _colour(tone: str, name: str) -> str:
    return {"mark": "ink"}.get(tone, tone) if name == "tone" else name


def _toned(selector: str, tone: str) -> str:
    return re.sub(r"\.(\w+)", rf".\1.{tone}", selector, count=1) if tone else selector


def _rows(mark: Any) -> Sequence[Mapping[str, Any]]:
    kind: dict[str, Any] = {"mark": type(mark).__name__.lower(), "name": mark.name}
    match mark:
        case Band():
            return [kind | {"x": x, "low": low, "high": high} for x, low, high in mark.points]
        case Line():
            return [kind | {"x": x, "y": y} for x, y in mark.points]
        case Lost():
            return [kind | {"x": x, "note": note} for x, note in mark.points]
        case Whisker():
            return [kind | {"x": mark.x, "y": mark.median, "low": mark.low, "high": mark.high, "note": mark.note}]
        case FlatWhisker():
            told = {"note": f"low and high are of x. {mark.note}"}
            return [kind | {"x": mark.median, "y": mark.y, "low": mark.low, "high": mark.high} | told]
        case UprightRule():
            return [kind | {"x": mark.x, "note": mark.text}]
        case LevelRule():
            return [kind | {"y": mark.y}]
        case Label():
            return [kind | {"y": mark.y, "note": mark.text}]
    return [kind | {"x": x, "y": y, "note": note} for x, y, note in mark.points]


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def _word(text: str) -> Markup:
    return element("text", text if len(text) <= 34 else f"{text[:33]}…", x=34, y=11)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "figure"


@cache
def _css() -> str:
    return files("windtunnel.report").joinpath("page.css").read_text("utf-8")
