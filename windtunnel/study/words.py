"""The answer in lines: what a person reads at the end of a run and at the top of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from windtunnel.ladder import compact, four_decimals

if TYPE_CHECKING:
    from windtunnel.study.answer import Result

MANY = 4  # recipes that are still named one by one
PLURAL = {"helps": "help", "hurts": "hurt", "fades": "fade"}


def answer_lines(result: Result) -> list[str]:
    """Forecasts, truth and cost: three lines, more with more ideas."""
    forecasts = [_forecast_line(result, name) for name in result.forecasts]
    forecasts += [f"{name}: no forecast. {why}" for name, why in result.unfitted.items()]
    return [*forecasts, *_verdict_lines(result), *optimism_lines(result), cost_line(result)]


def optimism_lines(result: Result) -> list[str]:
    """How much tuning on the judged data would have flattered each recipe; nothing without `tuned_on`."""
    rungs, lines = result.study.ladder.rungs, []
    width = rungs[result.study.recheck_index()].width
    for name, found in result.optimism.items():
        said = [
            f"{100 * o.median:.2f} % [{100 * o.low:.2f}, {100 * o.high:.2f}] by {f} (at {o.level:.0%})"
            for f, o in found.items()
        ]
        lines.append(
            f"Optimism of {name}: tuned on the data that judge it, its loss at width {width} would be lower by "
            f"{', '.join(said)}; it was tuned elsewhere."
        )
    return lines


def three_lines(result: Result) -> list[str]:
    """Exactly three: the base's forecast with its truth, the ideas, the price."""
    missing = result.unfitted.get("base")
    none = f"No forecast. {missing}" if missing else "No forecast yet: the ladder is not trained."
    base = _forecast_line(result, "base") if "base" in result.forecasts else none
    several = len(result.verdicts) > MANY
    ideas = _tally(result) if several else " ".join(_verdict_lines(result)) or "No idea is judged yet."
    return [base, ideas, cost_line(result)]


def caveat_lines(result: Result) -> list[str]:
    """Each forecast's and verdict's caveats, once each, behind the recipes they are about; a base's is for all."""
    about: dict[str, list[str]] = {}
    for found in (result.forecasts, result.verdicts):
        for name, each in found.items():
            for caveat in each.caveats:
                about.setdefault(caveat, []).append(name)
    return [f"{'base' if 'base' in names else named(names)}: {caveat}" for caveat, names in about.items()]


def named(names: Sequence[str]) -> str:
    """Recipes in a row, each once; the first few and how many more."""
    each = list(dict.fromkeys(names))
    return ", ".join(each) if len(each) <= MANY else f"{', '.join(each[:MANY])} and {len(each) - MANY} more"


def _tally(result: Result) -> str:
    """Many ideas in one line: which help, and so on."""
    found: dict[str, list[str]] = {}
    for name, verdict in result.verdicts.items():
        found.setdefault(verdict.verdict, []).append(name)
    told = "; ".join(f"{len(names)} {PLURAL.get(v, v)} ({', '.join(names)})" for v, names in found.items())
    return f"Of {len(result.verdicts)} ideas at the target: {told}."


def cost_line(result: Result) -> str:
    """What the ladder cost, as a share of the target; runs that recipes share are counted once."""
    spent, target = result.ladder_flops(), result.study.target_flops()
    if not target:
        return f"Cost of tuning and ladder: {compact(spent)}FLOPs."
    runs = [run for found in result.ladder.values() for run in found]
    once = {run.key: run.cost.spent for run in runs}
    ladder, each = sum(once.values()), max(1, len(result.ladder))
    shared = ", runs that they share counted once" if len(once) < len(runs) else ""
    return (
        f"Cost: the ladder took {100 * ladder / target / each:.0f} % of the target's FLOPs for each of {each} "
        f"recipe(s){shared}; with tuning and re-check {100 * spent / target / each:.0f} %, {compact(spent)}FLOPs in "
        f"all."
    )


def _forecast_line(result: Result, name: str) -> str:
    forecast = result.forecasts[name]
    line = f"{name}: loss at {result.study.target} foretold {forecast.loss}"
    scores = result.scores.get(name, ())
    if scores:
        truths = ", ".join(four_decimals(s.truth) for s in scores)
        errors = ", ".join(f"{100 * s.relative:+.2f} %" for s in scores)
        held = sum(s.predicted.holds(s.truth) for s in scores)
        late = "" if all(s.made_before is not False for s in scores) else " (NOT A FORECAST: made after the run)"
        line += f"; truth {truths}, error {errors}, {held} of {len(scores)} inside{late}"
    return line + "."


def _verdict_lines(result: Result) -> list[str]:
    lines = []
    for name, verdict in result.verdicts.items():
        truth = truth_delta(result, name)
        line = f"Verdict on {name}: {verdict.summary}; loss at the target {verdict.delta.signed()} against the base"
        lines.append(line + (f", in truth {four_decimals(truth, '+')}." if truth is not None else "."))
    return lines


def truth_delta(result: Result, name: str) -> float | None:
    """Mean difference in loss between idea and base at the target over shared seeds, None while untrained."""
    base = {r.spec.seed: r.loss for r in result.targets.get("base", ()) if r.loss is not None}
    pairs = [
        (r.loss, base[r.spec.seed]) for r in result.targets.get(name, ()) if r.loss is not None and r.spec.seed in base
    ]
    return sum(idea - there for idea, there in pairs) / len(pairs) if pairs else None
