"""`--budget`: what to train next for so many FLOPs, and how params and tokens would best share them.

A fit that can say neither (runs without a price, params and tokens that only vary together) says why, as a note: the
forecast stands all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.cli.table.groups import Group
from windtunnel.errors import InputError
from windtunnel.forecasts import Fit
from windtunnel.forecasts.allocation import Allocation, allocate
from windtunnel.forecasts.next_runs import Advice, next_runs
from windtunnel.ladder import Target, compact, in_words

MOST_TARGETS = 3  # of one series that get advice of their own


@dataclass(frozen=True)
class Spending:
    """Advice for one series: runs to train next by target, the best split of the budget, and what could not be said.

    `known` are the fit's own caveats, which are printed once above.
    """

    group: Group
    budget: float
    runs: tuple[tuple[Target, tuple[Advice, ...]], ...]
    split: Allocation | None
    notes: tuple[str, ...]
    known: tuple[str, ...]

    def lines(self) -> list[str]:
        """In words."""
        lines = []
        for target, advice in self.runs:
            lines += [f"to narrow the interval at {in_words(target.stated())}:"] if len(self.runs) > 1 else []
            lines += [f"next: {each}" for each in advice]
            lines += [] if advice else ["next: no further run of this kind would narrow the interval by 2 %."]
        if self.split is not None:
            unique = self.split.unique_tokens
            data = f" and {compact(unique)} unique tokens, the first target's," if unique is not None else ""
            lines.append(f"to spend {compact(self.budget)} FLOPs{data} on one run:")
            own = [line for line in str(self.split).splitlines() if line.removeprefix("caveat: ") not in self.known]
            lines += [f"    {line}" for line in own]
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "series": self.group.series,
            "idea": self.group.idea,
            "budget_flops": self.budget,
            "next_runs": [
                {"target": target.stated(), "advice": [each.to_json() for each in advice]}
                for target, advice in self.runs
            ],
            "allocation": None if self.split is None else self.split.to_json(),
            "notes": list(self.notes),
        }


def spending(group: Group, fitted: Fit, targets: Sequence[Target], budget: float, level: float) -> Spending:
    """What to do with a budget, for the first few targets."""
    notes, runs, split = [], [], None
    for target in targets[:MOST_TARGETS]:
        try:
            runs.append((target, next_runs(fitted, target, budget)))
        except InputError as error:
            notes.append(f"no advice on what to run next: {error}")
            break
    if len(targets) > MOST_TARGETS:
        notes.append(f"advice is for the first {MOST_TARGETS} of {len(targets)} targets.")
    try:
        unique = next((t.unique_tokens for t in targets if t.unique_tokens), None)
        unique = unique if fitted.observations.unique_tokens is not None else None
        split = allocate(fitted, budget, unique_tokens=unique, level=level)
    except InputError as error:
        notes.append(f"no best split of the budget: {error}")
    return Spending(group, budget, tuple(runs), split, tuple(notes), fitted.caveats)
