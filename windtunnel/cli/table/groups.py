"""Groups: the runs of each series and idea, beside what is to be foretold for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.ladder import Target
from windtunnel.laws.observations import ALL_SIZES, Observations


@dataclass(frozen=True)
class Group:
    """The runs of one series and idea, and what is to be foretold for them: targets, each with its truth or NaN."""

    series: str
    idea: str
    runs: Observations
    targets: tuple[tuple[Target, float], ...]

    @property
    def name(self) -> str:
        """Series and idea as one text."""
        return " / ".join(part for part in (self.series, self.idea) if part)


@dataclass(frozen=True)
class Refusal:
    """What could not be answered, and why."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" if self.what else self.reason


def groups_of(runs: Observations, targets: Sequence[Target], asked: Observations | None) -> Iterator[Group]:
    """Series and ideas in order of first appearance. One that only has targets cannot be foretold and says so."""
    order = _numbered(runs)
    starts = np.flatnonzero(np.diff(order[1], prepend=-1))
    _check_asked(runs, asked)
    _check_truths(runs, asked)
    for places in np.split(order[0], starts[1:]):
        part = runs.where(np.sort(places))
        series, idea = (str(c[0]) if c is not None else "" for c in (part.series, part.idea))
        foretold = [(target, float("nan")) for target in targets]
        foretold += _row_targets(_matching(asked, series, idea)) if asked is not None else []
        foretold += _row_targets(part.to_predict())
        group = Group(series, idea, part.to_fit(), tuple(foretold))
        if not len(group.runs):
            which = f"series {group.name!r}" if group.name else "the table"
            raise InputError(f"{runs.source}: {which} has only `predict` rows; a forecast needs rows to fit.")
        yield group


def target_of(sizes: dict[str, Any]) -> Target:
    """A Target from sizes by name, its tokens being steps x batch_tokens where only those are stated."""
    if "tokens" not in sizes and {"steps", "batch_tokens"} <= set(sizes):
        sizes = {**sizes, "tokens": sizes["steps"] * sizes["batch_tokens"]}
    return Target(**sizes)


def _numbered(runs: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers sorted by group, and each one's group number, counted in order of first appearance."""
    numbers = np.zeros(len(runs), int)
    for column in (runs.series, runs.idea):
        if column is not None:
            numbers = numbers * (len(runs) + 1) + np.unique(column, return_inverse=True)[1]
    _, first, numbers = np.unique(numbers, return_index=True, return_inverse=True)
    numbers = np.argsort(np.argsort(first))[numbers]
    order = np.argsort(numbers, kind="stable")
    return order, numbers[order]


def _check_asked(runs: Observations, asked: Observations | None) -> None:
    """Targets of a series (or idea) that the runs do not have are a mistake in a name, not a wish."""
    for name in ("series", "idea"):
        theirs, ours = getattr(asked, name, None), getattr(runs, name)
        unknown = (
            sorted(set(theirs.tolist()) - {""} - set(ours.tolist() if ours is not None else ()))
            if theirs is not None
            else []
        )
        if unknown:
            has = ", ".join(sorted(set(ours.tolist()))[:8]) if ours is not None else f"no column {name}"
            raise InputError(
                f"{asked.source if asked else ''} has targets of {name} {unknown[0]!r}; {runs.source} has {has}."
            )


def _check_truths(runs: Observations, asked: Observations | None) -> None:
    """A measured loss is the truth of one series and idea: for several it would be scored against itself."""
    if asked is None or not np.any(known := np.isfinite(asked.loss)):
        return
    fitted = runs.to_fit()
    nameless = np.full(len(fitted), "")
    names = zip(*(nameless if c is None else c for c in (fitted.series, fitted.idea)), strict=True)
    times = np.zeros(len(asked), int)
    for series, idea in set(names):
        times += _meant_for(asked, series, idea)
    shared = np.flatnonzero(known & (times > 1))
    if len(shared):
        (target, loss), *_ = _row_targets(asked.where(shared[:1]))
        raise InputError(
            f"{asked.source} has a loss ({loss:.4g} at {target}) that could be the truth of {times[shared[0]]} series "
            f"or ideas of {runs.source}. Name its series and idea, or leave the loss out."
        )


def _matching(asked: Observations, series: str, idea: str) -> Observations:
    """The targets meant for a series and idea."""
    return asked.where(_meant_for(asked, series, idea))


def _meant_for(asked: Observations, series: str, idea: str) -> np.ndarray:
    """Which targets are meant for a series and idea; an empty name means all."""
    mask = np.ones(len(asked), bool)
    for column, name in ((asked.series, series), (asked.idea, idea)):
        if column is not None:
            mask &= (column == "") | (column == name)
    return mask


def _row_targets(rows: Observations) -> list[tuple[Target, float]]:
    stated = {name: getattr(rows, name) for name in ALL_SIZES if getattr(rows, name) is not None}
    sizes: list[dict[str, Any]] = [
        {n: float(v[i]) for n, v in stated.items() if np.isfinite(v[i])} for i in range(len(rows))
    ]
    return [(target_of(known), float(rows.loss[i])) for i, known in enumerate(sizes)]
