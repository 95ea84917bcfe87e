"""What the main figure shows: loss against compute, each idea beside the base, out to the target.

Both axes are logarithmic: a power law is then nearly a straight line, and equal ratios are equal lengths. One panel an
idea, because more than two bands over one another cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.recipe import UNIT
from windtunnel.report.marks import Axis, Band, Dots, Line, Lost, Panel, UprightRule, Whisker, present, share_y, values
from windtunnel.report.words import interval, loss, percent, plural, si

BASE = "base"
SEED, LOST, TRUTH = "one run, one seed", "diverged or crashed", "truth, trained afterwards"


def loss_panels(recipes: Sequence[Mapping[str, Any]], unit: str = UNIT) -> list[Panel]:
    """One panel for each idea with the base beside it; the base alone where there is no idea."""
    base = [recipe for recipe in recipes if recipe["name"] == BASE]
    ideas = [recipe for recipe in recipes if recipe["name"] != BASE]
    shown = [_panel(base, [i], unit, alone=len(ideas) == 1) for i in ideas] or [_panel(base, [], unit, alone=True)]
    return share_y([panel for panel in shown if not panel.empty])


def _panel(base: Sequence[Mapping[str, Any]], idea: Sequence[Mapping[str, Any]], unit: str, *, alone: bool) -> Panel:
    recipes = [*base, *idea]
    series = [_layers(r, tone, side, r["name"] if alone else tone, unit) for r, tone, side in _sides(base, idea)]
    marks = [mark for layer in zip(*series, strict=True) for marks in layer for mark in marks]
    return Panel(
        title=" and ".join(recipe["name"] for recipe in reversed(recipes)),
        description="Loss against training compute. " + " ".join(_sentence(recipe) for recipe in recipes),
        x=Axis("training compute, FLOPs", text=si),
        y=Axis(f"loss, {unit}"),
        marks=(*_rules(recipes), *marks),
    )


def _sides(base: Sequence[Any], idea: Sequence[Any]) -> list[tuple[Any, str, int]]:
    return [(recipe, "base", -1) for recipe in base] + [(recipe, "idea", 1) for recipe in idea]


def _layers(recipe: Mapping[str, Any], tone: str, side: int, legend: str, unit: str) -> list[list[Any]]:
    # at the target the interval and the truth stand beside one another, to the recipe's own side
    name, seeds, lost = recipe["name"], _seeds(recipe["points"], unit), _failures(recipe["points"])
    truth = _seeds(recipe["truth"], unit)
    return [
        *_curve(recipe, tone, legend),
        [Dots(_noted(seeds, name), tone, name=SEED if seeds else "", of=legend)],
        [Lost(tuple((x, f"{name}, {note}") for x, note in lost), name=LOST if lost else "", of=legend)],
        _foretold(recipe, tone, 7.0 * side, legend),
        [Dots(_noted(truth, f"{name}, truth"), "truth", "diamond", TRUTH if truth else "", 17.0 * side, legend)],
    ]


def _curve(recipe: Mapping[str, Any], tone: str, legend: str) -> list[list[Any]]:
    band = sorted(values(recipe["band"], "flops", "low", "median", "high"))
    if not band:
        return [[], [], []]
    top = max((x for (x,) in values(recipe["points"], "flops")), default=float("inf"))
    fitted = sum(1 for x, *_ in band if x <= top * 1.0001)
    line = tuple((x, median) for x, _, median, _ in band)
    return [
        [Band(tuple((x, low, high) for x, low, _, high in band), tone, of=legend)],
        [Line(line[:fitted], tone, name=legend)],
        [Line(line[max(0, fitted - 1) :], tone, dashed=True, name="beyond the largest rung trained", of=legend)],
    ]


def _foretold(recipe: Mapping[str, Any], tone: str, shift: float, legend: str) -> list[Whisker]:
    at, forecast = target_flops(recipe), recipe["forecast"]
    if at is None or not forecast or not present(forecast.get("loss"), "low", "median", "high"):
        return []
    told = forecast["loss"]
    note = f"{recipe['name']} at the target: {interval(told)}"
    low, median, high = told["low"], told["median"], told["high"]
    return [Whisker(at, low, median, high, tone, "forecast at the target", note, shift, legend)]


def _rules(recipes: Sequence[Mapping[str, Any]]) -> list[UprightRule]:
    targets = [at for recipe in recipes if (at := target_flops(recipe)) is not None]
    return [UprightRule(max(targets), "target")] if targets else []


def target_flops(recipe: Mapping[str, Any]) -> float | None:
    """Where the target lies: as the forecast says, else the end of its band, else the runs trained there."""
    target = (recipe["forecast"] or {}).get("target") or {}
    if present(target, "flops"):
        return target["flops"]
    seen = [x for (x,) in values(recipe["band"], "flops")] or [x for (x,) in values(recipe["truth"], "flops")]
    return max(seen, default=None)


def _seeds(points: Sequence[Mapping[str, Any]], unit: str) -> list[tuple[float, float, str]]:
    return [
        (point["flops"], point["loss"], f"{_what(point)}: {loss(point['loss'])} {unit}")
        for point in points
        if present(point, "flops", "loss")
    ]


def _failures(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    return [
        (point["flops"], f"{_what(point)}: {point.get('outcome', 'no loss')}")
        for point in points
        if present(point, "flops") and not present(point, "loss")
    ]


def _noted(seeds: list[tuple[float, float, str]], name: str) -> tuple[tuple[float, float, str], ...]:
    return tuple((x, y, f"{name}, {note}") for x, y, note in seeds)


def _what(point: Mapping[str, Any]) -> str:
    return f"{si(point.get('params'))} parameters, {si(point.get('tokens'))} tokens, seed {point.get('seed')}"


def _sentence(recipe: Mapping[str, Any]) -> str:
    told = recipe["forecast"]
    trained = plural(len(values(recipe["points"], "flops", "loss")), "ladder run")
    foretold = f"forecast at the target {interval(told.get('loss'))}" if told else "no forecast yet"
    truths = [y for _, y in values(recipe["truth"], "flops", "loss")]
    truth = f", truth {loss(sum(truths) / len(truths))} (mean of {len(truths)})" if truths else ""
    return f"{recipe['name']}: {trained}, {foretold}{truth}."


def level(recipes: Sequence[Mapping[str, Any]]) -> str:
    """The level of the first forecast's interval, as text; empty without one."""
    levels = [(recipe["forecast"].get("loss") or {}).get("level") for recipe in recipes if recipe["forecast"]]
    return percent(levels[0]) if levels and levels[0] is not None else ""
