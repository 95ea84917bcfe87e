"""What the coordinate check shows: mean |activation| against width, a line for each module, a panel for each step.

Flat lines mean that the parametrization keeps every layer's scale, which is what lets hyperparameters transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.report.marks import Axis, Label, Line, Panel, present, share_y
from windtunnel.report.words import known, plural, signed

LABELLED = 6  # more names than this in a margin cannot be read; the table has them all


def coordinate_panels(coordinates: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """One panel for each recipe and step; the panels of a recipe share their y axis."""
    panels: list[Panel] = []
    for check in coordinates:
        steps = sorted({module["step"] for module in check["modules"]})
        shown = [_panel(check, step) for step in steps]
        panels += share_y([panel for panel in shown if not panel.empty])
    return panels


def worst_slopes(check: Mapping[str, Any], most: int = 6) -> list[Mapping[str, Any]]:
    """The modules farthest from flat, those that are not flat enough first; a missing slope comes first of all."""

    def order(module: Mapping[str, Any]) -> tuple[bool, bool, float]:
        seen = known(module["slope"])
        return seen, bool(module["ok"]), -abs(module["slope"]) if seen else 0.0

    return sorted(check["modules"], key=order)[:most]


def _panel(check: Mapping[str, Any], step: int) -> Panel:
    modules = [module for module in check["modules"] if module["step"] == step]
    bad = [module for module in modules if not module["ok"]]
    slopes = [module["slope"] for module in modules if known(module["slope"])]
    steepest = max(slopes, key=abs, default=None)
    widths = tuple(float(width) for width in check["widths"])
    return Panel(
        title=f"{check['recipe']}: after {plural(step, 'step')}",
        description=f"Mean absolute activation against width for {plural(len(modules), 'module')} of {check['recipe']} "
        f"after {plural(step, 'step')}: {len(bad)} not flat, steepest slope {signed(steepest, 2)}.",
        x=Axis("width", ticks=widths or None),
        y=Axis("mean |activation|"),
        marks=(
            *(_line(module, widths, "quiet", "flat enough") for module in modules if module["ok"]),
            *(_line(module, widths, "alarm", "grows or shrinks with width, or its moves do") for module in bad),
            *(mark for module in _steepest(bad) for mark in _label(module)),
        ),
    )


def _line(module: Mapping[str, Any], widths: Sequence[float], tone: str, name: str) -> Line:
    points = zip(widths, module["values"], strict=False)
    return Line(tuple((w, v) for w, v in points if present({"v": v}, "v")), tone, name=name)


def _label(module: Mapping[str, Any]) -> list[Label]:
    seen = [value for value in module["values"] if known(value)]
    return [Label(seen[-1], module["name"])] if seen else []


def _steepest(modules: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted((m for m in modules if known(m["slope"])), key=lambda m: -abs(m["slope"]))[:LABELLED]
