"""Many fits made together: of several laws, selections of runs and tables, as few batches as there are forms.

One small fit is mostly the overhead of a thousand calls on tiny arrays, so fits of one form to equally many runs are
solved as the rows of one array, whatever table they are of; sizes and units then differ by row. A newcomer would fear
that a fit depends on what it is batched with: every row is solved by itself, to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from windtunnel.laws.fitting import Selected, fit_rows, starts_of
from windtunnel.laws.law import Law, Sizes, column
from windtunnel.laws.observations import Observations


@dataclass(frozen=True, eq=False)
class Wanted:
    """A fit of a law to selections (M, n) of the n runs: weights, 0 for a run left out, else 1."""

    law: Law
    observations: Observations
    selection: np.ndarray


def fit_selections(law: Law, o: Observations, selection: np.ndarray) -> Selected:
    """Fit a law to every selection of the runs."""
    return fit_together([Wanted(law, o, selection)])[0]


def fit_together(wanted: Sequence[Wanted]) -> list[Selected]:
    """The fits that are wanted, in order."""
    alike: dict[Any, list[int]] = {}
    for index, each in enumerate(wanted):
        alike.setdefault((_form(each.law), len(each.observations)), []).append(index)
    found: dict[int, Selected] = {}
    for places in alike.values():
        found.update(zip(places, _batch([wanted[place] for place in places]), strict=True))
    return [found[index] for index in range(len(wanted))]


def _form(law: Law) -> Any:
    """What laws must have in common to be solved as one: all but the numbers they take from the data."""
    form = [value for value in _values(law) if not _number(value)]
    return type(law), *(value if isinstance(value, bool | int | str) else id(value) for value in form)


def _values(law: Law) -> list[Any]:
    return [getattr(law, f.name) for f in fields(law)] if is_dataclass(law) else [law]


def _number(value: Any) -> bool:
    return all(map(_number, value)) if isinstance(value, tuple) else isinstance(value, float)


def _batch(wanted: Sequence[Wanted]) -> list[Selected]:
    """Fits of one form to equally many runs."""
    counts = [len(each.selection) for each in wanted]
    first = wanted[0]
    loss = np.repeat([each.observations.loss for each in wanted], counts, axis=0)
    law, sizes = first.law, first.observations
    if any(each.observations is not sizes or each.law is not law for each in wanted):
        law, sizes = _laws([each.law for each in wanted], counts), _sizes(wanted, counts)
    selected = fit_rows(law, sizes, loss, np.concatenate([each.selection for each in wanted]), _starts(wanted))
    ends = np.cumsum(counts)
    return [
        selected.rows(slice(end - count, end), each.law, each.observations)
        for each, count, end in zip(wanted, counts, ends, strict=True)
    ]


def _starts(wanted: Sequence[Wanted]) -> np.ndarray:
    """Starts of all rows (R, k); one scan serves all runs of the same sizes: tasks are often measured on one ladder."""
    found = []
    for _, same in groupby(wanted, key=_place):
        some = list(same)
        loss = np.repeat([each.observations.loss for each in some], [len(each.selection) for each in some], axis=0)
        selection = np.concatenate([each.selection for each in some])
        found.append(starts_of(some[0].law, some[0].observations, loss, selection))
    return np.concatenate(found)


def _place(wanted: Wanted) -> Any:
    """What makes two scans the same but for losses and weights."""
    law = wanted.law
    numbers = [value for value in _values(law) if _number(value)]
    return _form(law), numbers, [column(wanted.observations, name).tobytes() for name in law.columns]


def _sizes(wanted: Sequence[Wanted], counts: Sequence[int]) -> Sizes:
    rows = {
        name: np.repeat([column(each.observations, name) for each in wanted], counts, axis=0)
        for name in wanted[0].law.columns
    }
    return Sizes(**rows)


def _laws(laws: Sequence[Any], counts: Sequence[int]) -> Any:
    """One law that holds each law's numbers in its own rows: (R, 1)."""
    numbers = {f.name: [getattr(law, f.name) for law in laws] for f in fields(laws[0])}
    return replace(laws[0], **{name: _rows(values, counts) for name, values in numbers.items() if _number(values[0])})


def _rows(values: Sequence[Any], counts: Sequence[int]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(_rows(each, counts) for each in zip(*values, strict=True))
    return np.repeat(values, counts)[:, None]
