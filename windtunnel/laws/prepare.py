"""What of the runs the laws are fitted to: FLOPs filled in, the best run of every search, no more cells than needed.

Runs whose loss rises with every size are refused here: no law in `laws/` can rise.
A law describes well tuned runs, so where learning rates were searched at one size only the best run of that size counts
(the surface in `surface.py` uses them all). A newcomer would fit the whole grid and call its spread noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.ladder import compact
from windtunnel.laws.noise import TYPICAL_DF, TYPICAL_NOISE
from windtunnel.laws.observations import ALL_SIZES, Observations, with_flops

MOST_RUNS = 600  # more runs than this are thinned evenly over sizes; a law has at most 7 parameters
SEARCHED = ("lr", "batch_tokens", "steps")  # what differs between the runs of one search
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
    """The run with the lowest loss at every size at which learning rates were searched; all runs where none was."""
    if o.lr is None:
        return o
    size = _cells(o, 0.02, [name for name in ALL_SIZES if name not in SEARCHED])
    rates = np.nan_to_num(np.round(np.log(o.lr), 3), nan=0.0)
    pairs = np.unique(np.stack([size, rates], axis=1), axis=0)[:, 0]
    if len(pairs) == len(np.unique(pairs)):
        return o
    order = np.lexsort([o.loss, size])
    best = order[np.unique(size[order], return_index=True)[1]]
    said = f"Learning rates were searched: the best run at each of {len(best)} sizes is kept, of {len(o)} runs."
    return replace(o.where(np.sort(best)), lr=None, batch_tokens=None, steps=None, caveats=(*o.caveats, said))


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
