"""A comparison in lines: what must be said first, then for every method its score, its results and what tuning took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from windtunnel.ladder import compact

if TYPE_CHECKING:
    from windtunnel.fair.compare import Comparison


def comparison_lines(found: Comparison) -> list[str]:
    """Caveats, the rules, a line for each method, and how far to trust the order."""
    rules = found.rules
    charged = "a study's whole cost" if found.tuning_charged else "a study's best run"
    head = (
        f"{rules.name}, {rules.studies} studies of {rules.runs}: {found.unit} to the goal of {charged}, median over "
        f"studies; score is the profile's integral up to {found.most:g}x the fastest"
    )
    return [
        *(f"note: {caveat}" for caveat in found.caveats),
        head,
        *(method_line(found, i) for i in range(len(found.methods))),
        f"the order came out the same in {100 * found.stable:.0f} % of bootstrap draws over studies",
    ]


def method_line(found: Comparison, place: int) -> str:
    """One method: score, how often first, goals reached, what its tuning took."""
    name, times = found.methods[place], found.times[place]
    there = np.isfinite(times)
    missed = [w for w, reached in zip(found.workloads, there, strict=True) if not reached]
    never = f", never {', '.join(missed)}" if missed else ""
    return (
        f"{place + 1}. {name}: score {found.score[name]}, first in {100 * found.first[name]:.0f} %; reached "
        f"{there.sum()} of {len(times)} goals{never}; {tuning_words(found, place)}"
    )


def tuning_words(found: Comparison, place: int) -> str:
    """What a study took in all, beside its results where they are not the same thing."""
    spent, times = found.tuning[place], found.times[place]
    in_all = f"a study took {compact(float(spent.sum()))} {found.unit} in all"
    there = np.isfinite(times)
    if found.tuning_charged or not there.any():
        return in_all
    return f"{in_all}, {spent[there].sum() / times[there].sum():.3g}x its results where there are any"
