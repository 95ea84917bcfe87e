"""Columns of a table that nobody named: those the loss goes with among runs that are otherwise alike.

Such runs would count as repeats, and what a setting does as run-to-run noise. A newcomer would warn of every column
that is left out; most are names, dates and results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from windtunnel.laws.noise import explains, repeats
from windtunnel.laws.observations import Observations, joint
from windtunnel.laws.reading.naming import usual_for
from windtunnel.laws.reading.tables import Table

MOST_VALUES = 24  # a column of more is hardly a setting (guess)
NAMED = 4  # columns that one caveat names
CHECKPOINTS = 8  # rows of one size, evenly spaced in tokens, from which they are one run's (guess)
MOST_SIZES = 200  # that are looked at
EVENLY = 0.2  # relative scatter of the spacing up to which it is even; horizons are spaced by factors (guess)


def unnamed(runs: Observations, table: Table, chosen: Mapping[str, str]) -> tuple[str, ...]:
    """A caveat that names columns the loss goes with among runs that are alike in all that is read."""
    found = [name for name in table.columns if name not in chosen.values() and _matters(runs, table.columns[name])]
    if not found:
        return ()
    listed = ", ".join(map(repr, found[:NAMED])) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
    ours = {usual_for(name): name for name in reversed(found)}
    pairs = ",".join(f"{our}={name}" for our, name in ours.items() if our and our not in (*chosen, "loss"))
    if pairs:
        pairs = f' Here: --columns "{pairs}", if it is that.'
    return (
        f"Among runs that are alike in all columns that are read the loss goes with {listed}, which counts as "
        f"run-to-run noise. What is a setting there, and no result, can be named with --columns, as a size where it is "
        f'one, else as "series=NAME".{pairs}',
    )


def sizes_unread(runs: Observations) -> tuple[str, ...]:
    """A caveat where the table seems to have sizes that nobody named: laws then read the others alone."""
    if not runs.unread:
        return ()
    return (f'The table seems to have sizes that are not read: --columns "{runs.unread}" reads them.',)


def checkpoints(runs: Observations) -> tuple[str, ...]:
    """A caveat where most rows look like checkpoints of few runs: rows of one size, evenly spaced in tokens."""
    o = runs.where(runs.fitted)
    if o.params is None or o.tokens is None:
        return ()
    label = joint(np.unique(o.params, return_inverse=True)[1], np.unique(o.labels(), return_inverse=True)[1])
    rows = np.bincount(label)
    many = [np.unique(o.tokens[label == each]) for each in np.flatnonzero(rows >= CHECKPOINTS)[:MOST_SIZES]]
    curves = [tokens for tokens in many if len(tokens) >= CHECKPOINTS and _evenly(tokens)]
    if len(curves) < 2 or 2 * len(curves) < min(np.count_nonzero(rows), MOST_SIZES):
        return ()
    return (
        f"Rows look like checkpoints of {len(curves)} runs (up to {max(map(len, curves))} evenly spaced tokens at one "
        f"size). They share their run's noise, so that intervals are too narrow, and under a decaying learning rate "
        f"none but the last is a finished run. Keep the last row of each; curves are foretold by wt.fit_curves.",
    )


def _evenly(tokens: np.ndarray) -> bool:
    steps = np.diff(tokens)
    return bool(np.std(steps) < EVENLY * np.mean(steps))


def _matters(runs: Observations, cells: Any) -> bool:
    """F tests of the column's values, and where they are numbers of their order, beside those of what is read."""
    codes: dict[str, int] = {}
    value = np.zeros(len(runs), int)
    for i, cell in enumerate(cells):
        value[i] = codes.setdefault(str(cell), len(codes))
        if len(codes) > min(MOST_VALUES, len(runs) // 2):
            return False
    to_fit = np.isfinite(runs.loss) & runs.fitted
    o, value = runs.where(to_fit), value[to_fit]
    if len(codes) < 2 or len(o) == 0:
        return False
    series = np.unique(np.array(o.labels()), return_inverse=True)[1]
    alike = joint(repeats(o), series)
    y = _within(np.argsort(np.argsort(_within(np.log(o.loss), alike))).astype(float), alike)  # one run is no evidence
    levels = np.stack([(value == each).astype(float) for each in range(len(codes))], axis=1)
    return any(_explained(y, x, alike) for x in (levels, *_order(list(codes), value)))


def _order(cells: list[str], value: np.ndarray) -> Iterator[np.ndarray]:
    """The place of each row's value among the sorted ones, where all are numbers."""
    try:
        numbers = np.array(cells, float)
    except ValueError:
        return
    yield np.argsort(np.argsort(numbers))[value].astype(float)[:, None]


def _explained(y: np.ndarray, columns: np.ndarray, alike: np.ndarray) -> bool:
    x = np.stack([_within(column, alike) for column in columns.T], axis=1)
    rank = int(np.linalg.matrix_rank(x))
    df = len(y) - len(np.unique(alike)) - rank
    if rank == 0 or df < 2:
        return False
    left = float(np.sum((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2))
    return explains(float(np.sum(y**2)) - left, rank, max(left / df, 1e-12), df)


def _within(column: np.ndarray, label: np.ndarray) -> np.ndarray:
    """A column less its mean in each label."""
    return column - (np.bincount(label, column) / np.bincount(label))[label]
