"""What the averaged laws leave: each ladder run's loss beside what they expect at its size, in per cent.

A line of dots that bends is a law that does not fit, whatever the backtest says; dots of one size spread by seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.ladder import four_decimals
from windtunnel.report.marks import Axis, Dots, LevelRule, Panel, values
from windtunnel.report.words import plain, plural, si, signed


def residual_panel(recipe: Mapping[str, Any]) -> Panel | None:
    """A recipe's residuals, None where none are known. `residuals` holds flops, loss, expected and seed."""
    rows = values(recipe.get("residuals") or [], "flops", "loss", "expected")
    if not rows:
        return None
    points = tuple((flops, 100 * (loss / expected - 1), _note(flops, loss, expected)) for flops, loss, expected in rows)
    largest = max(abs(y) for _, y, _ in points)
    return Panel(
        title=f"{recipe['name']}: what the laws leave",
        description=f"Loss beside what the laws expect, for {plural(len(points), 'ladder run')} of {recipe['name']}: "
        f"at most {plain(largest, 2)} % apart.",
        x=Axis("training compute, FLOPs", text=si),
        y=Axis(
            "loss over expected, %", log=False, text=lambda value: f"+{plain(value)}" if value > 0 else plain(value)
        ),
        marks=(LevelRule(0.0), Dots(points, "base" if recipe["name"] == "base" else "idea")),
    )


def _note(flops: float, loss: float, expected: float) -> str:
    off = f"{signed(100 * (loss / expected - 1), 2)} %"
    return f"{si(flops)} FLOPs: {four_decimals(loss)}, expected {four_decimals(expected)}, {off}"
