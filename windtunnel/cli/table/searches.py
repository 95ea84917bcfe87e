"""What is foretold and what scores it: one forecast a place, also where a search over lr and batch gave many rows.

Where learning rates were searched the laws describe the best setting of each size, so the rows of one search are one
target, and its truth is their lowest loss. A newcomer would score the forecast against every row, bad rates included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.cli.table.best import place_of
from windtunnel.cli.table.groups import Group
from windtunnel.forecasts import Fit
from windtunnel.ladder import Target
from windtunnel.laws.noise import HYPERPARAMETERS


@dataclass(frozen=True)
class Question:
    """A target with its truth (NaN where unknown); `best_of` counts the rows of the search whose best that is.

    `unused` are what was asked of the target and is not read: a well tuned run has its own lr and batch.
    """

    target: Target
    truth: float
    best_of: int = 1
    unused: tuple[str, ...] = ()


def questions(group: Group, fitted: Fit) -> Iterator[Question]:
    """What is to be foretold: every row's target, or one target a search where the fit keeps only the best runs."""
    if not _searched(group, fitted):
        yield from (Question(target, truth) for target, truth in group.targets)
        return
    places: dict[Target, list[tuple[Target, float]]] = {}
    for target, truth in group.targets:
        sizes: dict[str, Any] = dict(place_of(target))
        places.setdefault(Target(**sizes), []).append((target, truth))
    for place, rows in places.items():
        yield from _of_search(place, rows)


def _searched(group: Group, fitted: Fit) -> bool:
    return group.runs.lr is not None and fitted.observations.lr is None


def _of_search(place: Target, rows: Sequence[tuple[Target, float]]) -> Iterator[Question]:
    """The best row where the rows differ in lr or batch; rows that differ only in their seed are each a truth."""
    known = [truth for _, truth in rows if np.isfinite(truth)]
    tried = {tuple(getattr(target, name) for name in HYPERPARAMETERS) for target, _ in rows}
    if not known:
        unused = tuple(n for n in HYPERPARAMETERS if any(getattr(t, n) for t, _ in rows) and n not in place.stated())
        yield Question(place, float("nan"), unused=unused)
    elif len(tried) == 1:
        yield from (Question(place, truth) for _, truth in rows)
    else:
        yield Question(place, min(known, default=float("nan")), max(len(known), 1))
