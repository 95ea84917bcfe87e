"""A comparison of methods as one page: caveats, the profiles, scores, time to result and what tuning took.

It has the colours and the figures of a study's page, and no script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.report.page import environment, figure, style
from windtunnel.report.profile_figure import profile_panel
from windtunnel.report.words import si


def render(comparison: Mapping[str, Any]) -> str:
    """The page of what `Comparison.to_json` returned."""
    return (
        environment()
        .get_template("profiles.html.jinja")
        .render(
            dict(comparison)
            | {"profile_figure": figure([profile_panel(comparison)], large=True), "style": style()}
            | {"results": _cells(comparison["times"], "never"), "costs": _cells(comparison["tuning"], "missing")}
        )
    )


def _cells(table: Sequence[Sequence[float | None]], absent: str) -> list[list[str]]:
    return [[absent if value is None else si(value) for value in row] for row in table]
