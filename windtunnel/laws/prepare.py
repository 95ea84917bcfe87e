"""What of the runs the laws are fitted to: FLOPs filled in, the best setting of every search, no more than needed.

Runs whose loss rises with every size are refused here: no law in `laws/` can rise.
A law describes well tuned runs, so where learning rates were searched at a size only its best setting counts, with all
its seeds (the surface in `surface.py` uses them all). A newcomer would fit the whole grid and call its spread noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.ladder import compact
from windtunnel.laws.noise import TYPICAL_DF, TYPICAL_NOISE, searched, settings
from windtunnel.laws.observations import ALL_SIZES, Observations, joint, with_flops

MOST_RUNS = 600  # more runs than this are thinned evenly over sizes; a law has at most 7 parameters
VARIES = 0.05  # a column whose logarithm spans less is one value
ON_LINE = 50.0  # condition of two sizes' correlation from which they are one (correlation 0.96)
FALSE_RISES = 0.001  # share of flat ladders that may be refused as rising
_FINEST, _COARSER = 0.005, 2.0  # cells in the logarithm of every size, widened until few enough


def prepared(observations: Observations) -> Observations:
    """The runs that laws are fitted to, in an order that does not depend on the rows'; caveats say what was done."""
    o = condensed(best_of_search(with_flops(observations)).ordered())
    check_falls(o)
    return o


def check_falls(o: Observations) -> None:
    """Raise InputError where the loss surely rises with size: along the one size that varies, or along both.

    More params at the same tokens, or more tokens at the same params, may raise a loss (overfitting, isoFLOP ladders):
    as long as it falls with the other, a law can be fitted.
    """
    names = ("params", "tokens") if o.params is not None and o.tokens is not None else (o.axis,)
    columns = [np.log(getattr(o, name)) for name in names]
    columns = [column for column in columns if np.ptp(column) > VARIES]
    if len(columns) == 2 and np.linalg.cond(np.corrcoef(*columns)) > ON_LINE:
        columns = [np.log(o.size)]
    if not columns or len(o) <= len(columns) + 1:
        return
    design = np.stack([np.ones(len(o)), *(column - column.mean() for column in columns)], axis=1)
    y = np.log(o.loss)
    slopes = np.linalg.lstsq(design, y, rcond=None)[0]
    rise = sum(float(slope) * float(np.ptp(column)) for slope, column in zip(slopes[1:], columns, strict=True))
    small, large = int(np.argmin(o.size)), int(np.argmax(o.size))
    if np.any(slopes[1:] < 0) or o.loss[large] <= o.loss[small]:  # one that falls first and rises then gets a caveat
        return
    df = len(o) - design.shape[1]
    scatter = (TYPICAL_DF * TYPICAL_NOISE**2 + float(np.sum((y - design @ slopes) ** 2))) / (TYPICAL_DF + df)
    reach = np.array([0.0, *(np.ptp(column) for column in columns)])
    doubt = np.sqrt(scatter * reach @ np.linalg.pinv(design.T @ design) @ reach)
    if rise < special.stdtrit(TYPICAL_DF + df, 1 - FALSE_RISES) * doubt:
        return
    ends = [f"{o.loss[end]:.4g} at {compact(float(o.size[end]))} {o.axis}" for end in (small, large)]
    raise InputError(
        f"The loss rises with size: {', '.join(ends)}. Every scaling law falls, so none is fitted. Is the column a "
        f"loss (for an accuracy use 1 - accuracy), were the larger runs trained too shortly, or did they diverge?"
    )


def best_of_search(o: Observations) -> Observations:
    """At every size at which learning rates were searched the runs of its best setting; all runs of other sizes.

    A setting is a value of lr, batch and steps; the best has the lowest mean over seeds. Of runs that no seed tells
    apart the best one counts, for they may differ in what is not stated.
    """
    if o.lr is None:
        return o
    apart = searched(o)
    size = _cells(o, 0.02, [name for name in ALL_SIZES if name not in apart])
    if not np.any(_distinct(joint(size, settings(o.lr)), size) > 1):
        return o
    setting = joint(size, *(settings(column) for name in apart if (column := getattr(o, name)) is not None))
    seed = np.zeros(len(o), int) if o.seed is None else np.unique(o.seed, return_inverse=True)[1]
    alike = joint(setting, seed)
    first = _firsts(np.lexsort([o.loss, alike]), alike)  # the best run of each seed
    means = np.bincount(setting[first], np.log(o.loss[first])) / np.bincount(setting[first])
    best = setting[_firsts(np.lexsort([means[setting], size]), size)]
    several = _distinct(setting, size) > 1
    kept = ~several[size]
    kept[first] |= np.isin(setting[first], best)
    said = (
        f"Learning rates were searched at {several.sum()} of {len(several)} sizes: there the runs of the best "
        f"setting are kept, {kept.sum()} of {len(o)} runs in all."
    )
    return replace(o.where(kept), **dict.fromkeys(apart), caveats=(*o.caveats, said))


def _distinct(label: np.ndarray, size: np.ndarray) -> np.ndarray:
    """How many labels each size has, of labels that are each of one size."""
    return np.bincount(size[np.unique(label, return_index=True)[1]])


def _firsts(order: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Of every label, the index that comes first in an order that has equal labels together."""
    return order[np.unique(label[order], return_index=True)[1]]


def condensed(o: Observations) -> Observations:
    """An even share of the runs of every size where there are more than a fit needs, drawn the same every time.

    Not their means: these scatter less than the one new run that is to be foretold.
    """
    if len(o) <= MOST_RUNS:
        return o
    width = _FINEST
    while (cell := _cells(o, width, ALL_SIZES)).max() >= MOST_RUNS:
        width *= _COARSER
    drawn = np.random.default_rng(0).permutation(len(o))
    drawn = drawn[np.argsort(cell[drawn], kind="stable")]  # cell by cell, in random order within each
    starts = np.flatnonzero(np.diff(cell[drawn], prepend=-1))
    in_cell = np.arange(len(o)) - np.repeat(starts, np.bincount(cell))
    kept = np.sort(drawn[in_cell < MOST_RUNS // len(starts)])
    said = f"Of {len(o)} runs at most {MOST_RUNS} are used, an even share of every size: a law needs no more."
    return replace(o.where(kept), caveats=(*o.caveats, said))


def _cells(o: Observations, width: float, names: list[str] | tuple[str, ...]) -> np.ndarray:
    logs = [np.round(np.log(column) / width) for name in names if (column := getattr(o, name)) is not None]
    return np.unique(np.nan_to_num(np.stack(logs, axis=1), nan=-1e9), axis=0, return_inverse=True)[1].reshape(-1)
