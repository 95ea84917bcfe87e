"""Columns of a table that nobody named: those the loss goes with among runs that are otherwise alike.

Such runs would count as repeats, and what a setting does as run-to-run noise. A newcomer would warn of every column
that is left out; most are names, dates and results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.laws.noise import FALSE_ALARMS, HYPERPARAMETERS, explains, repeats, searched, settings
from windtunnel.laws.observations import Observations, joint
from windtunnel.laws.prepare import best_of_search
from windtunnel.laws.reading.naming import is_numeric, is_tuned, usual_for
from windtunnel.laws.reading.tables import Table
from windtunnel.likeness import MARKS, is_mark

MOST_VALUES = 24  # a column of more is hardly a setting (guess)
NAMED = 4  # columns that one caveat names
UNEVEN = 0.1  # difference of a word's share of the runs between sizes from which it is no variant (guess)


def unnamed(runs: Observations, table: Table, chosen: Mapping[str, str]) -> tuple[str, ...]:
    """A caveat that names columns the loss goes with among runs that are alike in all that is read."""
    others = [name for name in table.columns if name not in chosen.values()]
    found = [name for name in others if _matters(runs, table.columns[name])]
    if not found:
        return _searched_apart(runs, table, others)
    listed = ", ".join(map(repr, found[:NAMED])) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
    best = _decided_by_search(runs, [table.columns[name] for name in found])
    counts = "and of those the best of each size is kept" if best else "which counts as run-to-run noise"
    ours = {usual_for(name): name for name in reversed(found)}
    pairs = ",".join(f"{our}={name}" for our, name in ours.items() if our and our not in (*chosen, "loss"))
    if pairs:
        pairs = f' Here: --columns "{pairs}", if it is that.'
    return (
        f"Among runs that are alike in all columns that are read the loss goes with {listed}, {counts}. "
        f"What is a setting there, and no result, can be named with --columns, as a size where it is one, as "
        f'"idea=NAME" where variants are to be compared, else as "series=NAME".{pairs}',
    )


def _decided_by_search(runs: Observations, columns: Sequence[Any]) -> bool:
    """Whether of runs that differ in these columns alone one is kept, as where rates were searched."""
    evidence = np.flatnonzero(np.isfinite(runs.loss) & runs.fitted)
    o = replace(runs.where(evidence), key=evidence.astype(str))
    kept = np.concatenate([best_of_search(each).key for _, each in o.by_series()]).astype(int)  # type: ignore[arg-type]
    alike = joint(repeats(runs), np.unique(np.array(runs.labels()), return_inverse=True)[1])[kept]
    values = [np.unique([str(column[i]) for i in kept], return_inverse=True)[1] for column in columns]
    return all(len(np.unique(joint(alike, value))) == len(np.unique(alike)) for value in values)


def _searched_apart(runs: Observations, table: Table, others: Sequence[str]) -> tuple[str, ...]:
    """A caveat for variants of one size whose rates differ too: all would pass for one search."""
    bare = replace(runs, **dict.fromkeys(searched(runs)))
    if runs.lr is None or repeats(runs).max() == (size := repeats(bare)).max():
        return ()
    rates = [settings(column) for name in HYPERPARAMETERS if (column := getattr(runs, name)) is not None]
    found = [
        name
        for name in others
        if _matters(bare, table.columns[name]) and _is_variant(name, table.columns[name], size, rates)
    ]
    if not found:
        return ()
    return (
        f"Runs of one size differ in {' and '.join(map(repr, found[:NAMED]))} beside their rates, and the loss goes "
        f"with that; they count as one search, of which the best is kept. Where variants are to be compared, name them "
        f'with --columns "idea={found[0]}", where they are apart with "series={found[0]}".',
    )


def _is_variant(name: str, cells: Any, size: np.ndarray, rates: Sequence[np.ndarray]) -> bool:
    """Whether a column may tell variants: of words, or of numbers that are no setting which is tuned with the rate."""
    values = np.array([str(cell) for cell in cells])
    if is_numeric(cells) and (is_tuned(name) or any(_goes_with(values, size, rate) for rate in rates)):
        return False
    return _arms(values, size, rates)


def _arms(words: np.ndarray, size: np.ndarray, rates: Sequence[np.ndarray]) -> bool:
    """Whether words may be variants: as many runs of each at every size, and neither marks of results nor rates."""
    word = np.unique(words, return_inverse=True)[1]
    counts = np.zeros((size.max() + 1, word.max() + 1), int)
    np.add.at(counts, (size, word), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    even = np.all(np.ptp(shares, axis=0) < UNEVEN) and np.all(shares.mean(axis=0) > 0.5 / counts.shape[1])
    named = [len(np.unique(joint(word, rate))) for rate in rates if len(np.unique(rate)) == counts.shape[1] > 2]
    return bool(even and counts.shape[1] not in named)


def _goes_with(numbers: np.ndarray, size: np.ndarray, rate: np.ndarray) -> bool:
    """Whether three or more numbers are at every size in the rate's order, or its reverse, as what scales it."""
    if len(np.unique(numbers)) < 3 or not all(map(_number, numbers)):
        return False
    moves = set()
    for each in range(size.max() + 1):
        pairs = np.unique(np.stack([numbers.astype(float), rate])[:, size == each], axis=1)
        moves |= set(np.sign(np.diff(pairs[1])).tolist()) if len(np.unique(pairs[0])) == pairs.shape[1] else {1.0, -1.0}
    return moves in ({1.0}, {-1.0})


def recipes_pooled(runs: Observations, table: Table, chosen: Mapping[str, str]) -> tuple[str, ...]:
    """A caveat where a table of `Store.table` has runs of several recipes, data or judges in one series."""
    if not all(is_mark(name, cell) for name in MARKS for cell in table.columns.get(name, "?")):
        return ()
    together, labels = [name for name in MARKS if name not in chosen.values()], np.array(runs.labels())
    evidence = np.isfinite(runs.loss) & runs.fitted
    several = [
        name
        for name in together
        if any(len({*np.array(table.columns[name])[evidence & (labels == label)]}) > 1 for label in set(runs.labels()))
    ]
    if not several:
        return ()
    return (
        f"Runs of several recipes are fitted as one series: the store marks them apart by {', '.join(several)}. "
        f'Fit them apart with --columns "series={several[0]}", or leave out those of another recipe.',
    )


def sizes_unnamed(runs: Observations) -> tuple[str, ...]:
    """A caveat where the table seems to have sizes that nobody named: laws then read the others alone."""
    if not runs.unnamed:
        return ()
    return (f'The table seems to have sizes that are not read: --columns "{runs.unnamed}" reads them.',)


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
    tests = [np.stack([(value == each).astype(float) for each in range(len(codes))], axis=1)]
    tests += [_order(list(codes))[value][:, None]] if len(codes) > 2 and all(map(_number, codes)) else []
    return any(_explained(y, x, alike, FALSE_ALARMS / len(tests)) for x in tests)


def _number(cell: str) -> bool:
    try:
        return np.isfinite(float(cell))
    except ValueError:
        return False


def _order(cells: list[str]) -> np.ndarray:
    """The place of each of these numbers among them all."""
    return np.argsort(np.argsort([float(cell) for cell in cells])).astype(float)


def _explained(y: np.ndarray, columns: np.ndarray, alike: np.ndarray, alarms: float) -> bool:
    x = np.stack([_within(column, alike) for column in columns.T], axis=1)
    rank = int(np.linalg.matrix_rank(x))
    df = len(y) - len(np.unique(alike)) - rank
    if rank == 0 or df < 2:
        return False
    left = float(np.sum((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2))
    return explains(float(np.sum(y**2)) - left, rank, max(left / df, 1e-12), df, alarms)


def _within(column: np.ndarray, label: np.ndarray) -> np.ndarray:
    """A column less its mean in each label."""
    return column - (np.bincount(label, column) / np.bincount(label))[label]
