"""What a basin figure shows: loss against one hyperparameter, a curve for each width, the optimum with its interval.

Curves whose valleys stand above one another are what transfer looks like. Losses far above the valleys would flatten
them, so beyond `CEILING` times the highest valley a run is a cross at the upper edge, with its loss in the note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from windtunnel.recipe import UNIT
from windtunnel.report.marks import Axis, Dots, FlatWhisker, Label, Line, Lost, Panel, present, values
from windtunnel.report.words import loss, optimum, plain

CEILING = 1.35  # guess: a loss this much above the worst valley says only "far too large"
LOST = "diverged, crashed or off the scale"
RAMP = 5  # tones ramp0 to ramp4 of page.css


def basin_panels(basins: Sequence[Mapping[str, Any]], unit: str = UNIT) -> list[Panel]:
    """One panel for each recipe and hyperparameter, in order of appearance."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for basin in basins:
        groups.setdefault((basin["recipe"], basin["hyperparameter"]), []).append(basin)
    panels = [_panel(*names, sorted(group, key=lambda b: b["width"]), unit) for names, group in groups.items()]
    return [panel for panel in panels if not panel.empty]


def _panel(recipe: str, hyperparameter: str, group: Sequence[Mapping[str, Any]], unit: str) -> Panel:
    widths = sorted({basin["width"] for basin in group})
    ceiling = CEILING * max((low for basin in group if (low := _valley(basin)) is not None), default=float("inf"))
    marks = [mark for basin in group for mark in _basin(basin, _tone(basin["width"], widths), ceiling)]
    return Panel(
        title=f"{recipe}: {hyperparameter}",
        description=f"Loss against {hyperparameter} for {recipe}. " + " ".join(_sentence(basin) for basin in group),
        x=Axis(f"{hyperparameter} at the base width"),
        y=Axis(f"loss, {unit}"),
        marks=tuple(marks),
    )


def _basin(basin: Mapping[str, Any], tone: str, ceiling: float) -> list[Any]:
    shape = "ring" if basin["stage"] == "re-check" else "disc"
    where = f"width {basin['width']}, {basin['hyperparameter']}"
    points = [point for point in basin["points"] if present(point, "value")]
    inside = [point for point in points if present(point, "loss") and point["loss"] <= ceiling]
    lost = [point for point in points if not present(point, "loss") or point["loss"] > ceiling]
    curve = sorted(pair for pair in values(basin["fit"], "value", "loss") if pair[1] <= ceiling)
    return [
        Line(tuple(curve), tone),
        Dots(tuple((p["value"], p["loss"], _note(where, p)) for p in inside), tone, shape),
        Lost(tuple((p["value"], _note(where, p)) for p in lost), name=LOST if lost else ""),
        *_optimum(basin, curve, inside, where),
        *_label(basin, curve, inside),
    ]


def _optimum(basin: Mapping[str, Any], curve: list[Any], inside: list[Any], where: str) -> list[FlatWhisker]:
    best = basin["optimum"]
    known = curve or values(inside, "value", "loss")
    if not known or not present(best, "low", "median", "high"):
        return []
    height = min(y for _, y in known)
    note = f"best {where} {optimum(best)}"
    return [FlatWhisker(height, best["low"], best["median"], best["high"], "mark", "optimum, with interval", note)]


def _label(basin: Mapping[str, Any], curve: list[Any], inside: list[Any]) -> list[Label]:
    known = sorted(curve or values(inside, "value", "loss"))
    return [Label(known[-1][1], f"width {basin['width']}")] if known else []


def _valley(basin: Mapping[str, Any]) -> float | None:
    return min((y for _, y in values(basin["points"], "value", "loss")), default=None)


def _tone(width: int, widths: Sequence[int]) -> str:
    return f"ramp{round((RAMP - 1) * widths.index(width) / max(1, len(widths) - 1))}"


def _note(where: str, point: Mapping[str, Any]) -> str:
    result = loss(point["loss"]) if present(point, "loss") else point.get("outcome", "no loss")
    return f"{where} {plain(point['value'])}, seed {point.get('seed')}: {result}"


def _sentence(basin: Mapping[str, Any]) -> str:
    tried = len(basin["points"])
    return f"Width {basin['width']}: {tried} runs, optimum {optimum(basin['optimum'])}."


def optima(basins: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table row a basin: recipe, hyperparameter, width, stage, runs, optimum as text."""
    names = ("recipe", "hyperparameter", "width", "stage")
    return [
        {name: basin[name] for name in names}
        | {"runs": len(basin["points"]), "lost": sum(not present(point, "loss") for point in basin["points"])}
        | {"optimum": optimum(basin["optimum"])}
        for basin in basins
    ]
