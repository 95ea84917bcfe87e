"""Columns that change the loss and that no law of the runs reads.

Their effect passes for noise, and a target's value of them for used. A newcomer would ask whether a column varies; most
do, with size. What counts is how much of it the sizes that are read leave free, and whether the loss goes with that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations_with_replacement

import numpy as np

from windtunnel.laws.noise import FALSE_ALARMS, TYPICAL_DF, TYPICAL_NOISE, explains, repeats
from windtunnel.laws.observations import ALL_SIZES, Observations

FREE = 0.3  # guess: less spread of a column's logarithm beside the sizes that are read tells nothing of it


def unread(o: Observations, reads: Collection[str]) -> tuple[str, ...]:
    """The columns that change the loss beside those that laws read; FLOPs do not where they follow from these."""
    known = {*reads, "flops"} if {"params", "tokens"} <= set(reads) else set(reads)
    return tuple(name for name in ALL_SIZES if name not in known and _changes_loss(o, reads, name))


def usual(o: Observations, reads: Collection[str], name: str, at: Mapping[str, float]) -> float:
    """What an unread column is in runs of the sizes `at`, as it goes with the columns that are read."""
    beside, o = [each for each in ALL_SIZES if each in reads], o.where(np.isfinite(getattr(o, name)))
    centre = {each: float(np.mean(np.log(getattr(o, each)))) for each in beside}
    design = np.stack([np.ones(len(o)), *(np.log(getattr(o, each)) - centre[each] for each in beside)], axis=1)
    found = np.linalg.lstsq(design, np.log(getattr(o, name)), rcond=None)[0]
    return float(np.exp(found @ [1.0, *(np.log(at[each]) - centre[each] for each in beside)]))


def _changes_loss(o: Observations, reads: Collection[str], name: str) -> bool:
    """F tests of a parabola in the column's logarithm, and of its interplay with sizes, beside parabolas in these.

    Of means over repeats: what the parabola misses of a size is shared by them, and would count once a seed.
    """
    if getattr(o, name) is None:
        return False
    o = o.where(np.isfinite(getattr(o, name)))
    if not len(o):
        return False
    column, label = getattr(o, name), repeats(o)
    first = np.unique(label, return_index=True)[1]
    o, column, y = o.where(first), column[first], np.bincount(label, np.log(o.loss)) / np.bincount(label)
    read = [_standard(np.log(getattr(o, each))) for each in ALL_SIZES if each in reads]
    x = _standard(np.log(column))
    products = [a * b for a, b in combinations_with_replacement(read, 2)]
    beside = np.stack([np.ones(len(o)), *read, *products], axis=1)
    if np.std(_left(beside, np.log(column))) < FREE:
        return False
    tests = [np.stack([x, x**2], axis=1), np.stack([x, *(x * each for each in read)], axis=1)]
    return any(_explained(y, beside, more, FALSE_ALARMS / len(tests)) for more in tests)


def _explained(y: np.ndarray, beside: np.ndarray, columns: np.ndarray, alarms: float) -> bool:
    with_it = np.column_stack([beside, columns])
    rank, more = np.linalg.matrix_rank(beside), np.linalg.matrix_rank(with_it)
    df = len(y) - more
    if more == rank or df < 1:
        return False
    before, after = (float(np.sum(_left(design, y) ** 2)) for design in (beside, with_it))
    scatter = (TYPICAL_DF * TYPICAL_NOISE**2 + after) / (TYPICAL_DF + df)
    return explains(before - after, int(more - rank), scatter, TYPICAL_DF + df, alarms)


def _standard(column: np.ndarray) -> np.ndarray:
    return (column - column.mean()) / max(float(np.std(column)), 1e-9)


def _left(design: np.ndarray, column: np.ndarray) -> np.ndarray:
    """What the design leaves unexplained."""
    return column - design @ np.linalg.lstsq(design, column, rcond=None)[0]
