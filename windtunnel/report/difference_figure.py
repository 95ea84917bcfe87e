"""What a verdict's figure shows: the idea's loss minus the base's, pair by pair, and its law out to the target.

Differences are drawn on a linear axis: they change sign. Below zero the idea is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.recipe import UNIT
from windtunnel.report.marks import Axis, Band, Dots, LevelRule, Line, Panel, UprightRule, Whisker, present, values
from windtunnel.report.words import MINUS, interval, known, plain, plural, si, signed


def difference_panel(verdict: Mapping[str, Any], unit: str = UNIT) -> Panel:
    """Paired differences against compute, the difference law, its interval at the target and the truth if known."""
    band = sorted(values(verdict["band"], "flops", "low", "median", "high"))
    target = band[-1][0] if band else None
    return Panel(
        title=verdict["idea"],
        description=_sentence(verdict),
        x=Axis("training compute, FLOPs", text=si),
        y=Axis(f"idea {MINUS} base, {unit}", log=False, text=_level),
        marks=(LevelRule(0.0), *_law(band), Dots(_pairs(verdict), "idea", name="one pair"), *_at(verdict, target)),
    )


def _law(band: list[tuple[Any, ...]]) -> list[Any]:
    if not band:
        return []
    return [
        UprightRule(band[-1][0], "target"),
        Band(tuple((x, low, high) for x, low, _, high in band), "idea", "difference law, interval"),
        Line(tuple((x, median) for x, _, median, _ in band), "idea", name="difference law, median"),
    ]


def _pairs(verdict: Mapping[str, Any]) -> tuple[tuple[float, float, str], ...]:
    return tuple(
        (
            pair["flops"],
            pair["delta"],
            f"{si(pair.get('params'))} parameters, seed {pair.get('seed')}: {signed(pair['delta'])}",
        )
        for pair in verdict["pairs"]
        if present(pair, "flops", "delta")
    )


def _at(verdict: Mapping[str, Any], target: float | None) -> list[Any]:
    if target is None:
        return []
    delta = verdict["delta"]
    marks: list[Any] = []
    if present(delta, "low", "median", "high"):
        note = f"forecast difference: {interval(delta, sign=True)}"
        marks.append(
            Whisker(target, delta["low"], delta["median"], delta["high"], "idea", "forecast at the target", note)
        )
    if known(truth := verdict.get("truth_delta")):
        point = (target, truth, f"measured difference: {signed(truth)}")
        marks.append(Dots((point,), "truth", "diamond", "truth at the target"))
    return marks


def _level(value: float) -> str:
    return f"+{plain(value)}" if value > 0 else plain(value)


def _sentence(verdict: Mapping[str, Any]) -> str:
    truth = verdict.get("truth_delta")
    measured = f", measured there {signed(truth)}" if truth is not None else ""
    return (
        f"Difference in loss of {verdict['idea']} against the base: {plural(len(verdict['pairs']), 'pair')} of runs, "
        f"at the target {interval(verdict['delta'], sign=True)}{measured}. Below zero the idea is better."
    )
