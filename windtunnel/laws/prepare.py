"""What of the runs the laws are fitted to: FLOPs filled in, the best run of every search, no more cells than needed.

A law describes well tuned runs, so where learning rates were searched at one size only the best run of that size counts
(the surface in `surface.py` uses them all). A newcomer would fit the whole grid and call its spread noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from windtunnel.laws.observations import ALL_SIZES, Observations, with_flops

MOST_RUNS = 1500  # more runs than this are averaged in cells of nearly equal size; a law has at most 7 parameters
SEARCHED = ("lr", "batch_tokens", "steps")  # what differs between the runs of one search
_FINEST, _COARSER = 0.005, 2.0  # cells in the logarithm of every size, widened until few enough


def prepared(observations: Observations) -> Observations:
    """The runs that laws are fitted to, in an order that does not depend on the rows'; caveats say what was done."""
    return condensed(best_of_search(with_flops(observations)).ordered())


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
    """Runs of nearly equal size averaged (in the logarithm) where there are more than a fit needs."""
    if len(o) <= MOST_RUNS:
        return o
    width = _FINEST
    while (cell := _cells(o, width, ALL_SIZES)).max() >= MOST_RUNS:
        width *= _COARSER
    count = np.bincount(cell)
    first = np.unique(cell, return_index=True)[1]
    stated = [name for name in ("loss", *ALL_SIZES) if getattr(o, name) is not None]
    means = {name: _mean(getattr(o, name), cell, count) for name in stated}
    said = f"{len(o)} runs are averaged in {len(first)} cells of nearly equal size."
    return replace(o.where(first), **means, key=None, caveats=(*o.caveats, said))


def _cells(o: Observations, width: float, names: list[str] | tuple[str, ...]) -> np.ndarray:
    logs = [np.round(np.log(column) / width) for name in names if (column := getattr(o, name)) is not None]
    return np.unique(np.nan_to_num(np.stack(logs, axis=1), nan=-1e9), axis=0, return_inverse=True)[1].reshape(-1)


def _mean(column: np.ndarray, cell: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.exp(np.bincount(cell, np.log(column)) / count)
