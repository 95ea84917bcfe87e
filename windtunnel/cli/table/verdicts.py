"""Verdicts of `windtunnel fit`: each idea of a series against its base, at every target of the base.

The base is the idea with an empty name, `base` or `baseline`, or the one --base names. Where a comparison cannot be
made that is a note, not a failure: nobody may have asked for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.cli.progress import each
from windtunnel.cli.table.groups import Group, Refusal
from windtunnel.errors import InputError
from windtunnel.forecasts import Verdict, compare
from windtunnel.ladder import Target, in_words

BASES = ("", "base", "baseline")
ITS_OWN = ("params", "active_params", "flops", "width")  # sizes that an idea may have of its own at the same rung


@dataclass(frozen=True)
class Judged:
    """A verdict on an idea of a series; `truth` is the true gap in loss where the table knew both, else NaN."""

    series: str
    idea: str
    verdict: Verdict
    truth: float


def check_base(groups: Sequence[Group], base: str | None) -> None:
    ideas = list(dict.fromkeys(group.idea for group in groups))
    if base is not None and base not in ideas:
        has = f"its ideas are {', '.join(map(repr, ideas[:8]))}" if any(ideas) else "it has no column `idea`"
        raise InputError(f"--base is {base!r}, but no run of the table is of that idea; {has}.")


def all_verdicts(groups: Sequence[Group], level: float, base: str | None) -> tuple[list[Judged], list[Refusal]]:
    """Each idea against the base of its series at every target of the base (or, where it has none, of the idea)."""
    verdicts: list[Judged] = []
    declined: list[Refusal] = []
    for series in _with_ideas(groups).values():
        bases = [g for g in series if (g.idea == base if base is not None else g.idea.lower() in BASES)]
        name = series[0].series
        if len(bases) != 1:
            found = ", ".join(repr(group.idea) for group in (bases or series)[:4])
            count = "several ideas are the base" if bases else "no idea is the base"
            declined.append(Refusal(name, f"no verdict: {count} ({found}); name it with --base."))
            continue
        for idea in each([g for g in series if g is not bases[0]], "comparing"):
            _judge(bases[0], idea, level, verdicts, declined)
    return verdicts, declined


def _with_ideas(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.series, []).append(group)
    return {name: ideas for name, ideas in found.items() if len(ideas) > 1}


def _judge(base: Group, idea: Group, level: float, verdicts: list[Judged], declined: list[Refusal]) -> None:
    targets = dict.fromkeys(target for target, _ in base.targets or idea.targets)
    if not targets:
        declined.append(Refusal(idea.name, "no verdict: there is no target to compare at; give one with --target."))
    for target in targets:
        try:
            verdict = compare(base.runs, idea.runs, target, level, name=idea.idea)
        except InputError as error:
            declined.append(Refusal(f"{idea.name} at {target}", f"no verdict: {error}"))
            continue
        verdict = replace(verdict, caveats=(*_asked_elsewhere(idea, target), *verdict.caveats))
        verdicts.append(Judged(base.series, idea.idea, verdict, _truth(idea, target) - _truth(base, target)))


def _asked_elsewhere(idea: Group, target: Target) -> list[str]:
    """A caveat where the table asks for the idea at other tokens, batch or steps than the base."""
    asked = target.stated()
    each = (own.stated().items() for own, _ in idea.targets)
    away = [{n: x for n, x in stated if asked.get(n) != x and n not in ITS_OWN} for stated in each]
    least = min(away, key=len, default={})
    if not least:
        return []
    theirs = in_words({name: asked[name] for name in least if name in asked}) or "target"
    return [
        f"The targets ask for {idea.idea} at {in_words(least)}; a verdict compares both at the base's {theirs}. What "
        f"the idea comes to at its own target is its forecast."
    ]


def _truth(group: Group, target: Target) -> float:
    """The mean true loss at a target; NaN where unknown."""
    known = [truth for each, truth in group.targets if each == target and np.isfinite(truth)]
    return float(np.mean(known)) if known else float("nan")
