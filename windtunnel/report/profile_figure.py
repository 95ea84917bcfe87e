"""What a comparison's figures show: the share of workloads within a factor of the fastest, and results by workload.

A profile is a staircase and is drawn as one: a slope between two corners would claim workloads that are not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.report.marks import Axis, Label, Line, Panel
from windtunnel.report.words import percent, plain

TONES = ("idea", "truth", "ramp0", "ramp3", "base", "ramp4", "ramp2", "ramp1")  # told apart in both page colours


def tone_of(place: int) -> str:
    """The colour of the method in this place; after eight they repeat."""
    return TONES[place % len(TONES)]


def profile_panel(comparison: Mapping[str, Any]) -> Panel:
    """One staircase for each method, best first."""
    marks: list[Any] = []
    for place, name in enumerate(comparison["methods"]):
        corners = tuple((tau, share) for tau, share in comparison["profiles"][name])
        marks.append(Line(corners, tone_of(place), dashed=place >= len(TONES), name=name))
        marks.append(Label(corners[-1][1], name))
    unit, most = comparison["unit"], comparison["most"]
    return Panel(
        title="Performance profiles",
        description=_sentence(comparison),
        x=Axis(f"factor of the fastest method's {unit}", log=False, text=plain, low=1.0, high=most),
        y=Axis("share of workloads", log=False, text=percent, low=0.0, high=1.0),
        marks=tuple(marks),
    )


def _sentence(comparison: Mapping[str, Any]) -> str:
    said = [f"{name} {percent(comparison['profiles'][name][-1][1])}" for name in comparison["methods"]]
    return (
        f"Share of {len(comparison['workloads'])} workloads on which each method reaches the goal within a factor of "
        f"the fastest. Within {comparison['most']:g} times: {', '.join(said)}."
    )
