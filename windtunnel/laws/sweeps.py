"""Sweeps: which runs share a size (a cell), which hyperparameters were searched there, and which runs to leave out.

A hyperparameter counts as searched where it takes several values at one size. One that only changes along with size,
as a batch that grows with the model does, tells nothing of its own best, and a newcomer would fit it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.noise import HYPERPARAMETERS, value_labels
from windtunnel.laws.observations import Observations

SAME_SIZE = 0.02  # runs whose sizes differ by less than 2 % are of one cell (tokens rounded to whole batches)
FAR = 0.1  # runs more than 10 % above their cell's floor tell of divergence, not of the basin
MOST_CELLS, MOST_RUNS = 400, 20_000  # enough for some 20 shared parameters; more would only cost time


@dataclass(frozen=True, eq=False)
class Sweeps:
    """Runs that can tell of best hyperparameters, sorted by `cell`.

    `x` (n, k) are logs of the `names` that were searched, `place` (n, s) those of the `sizes`. `dropped` and
    `caveats` say what was left out, and why.
    """

    runs: Observations
    cell: np.ndarray
    names: tuple[str, ...]
    sizes: tuple[str, ...]
    x: np.ndarray
    place: np.ndarray
    dropped: tuple[str, ...]
    caveats: tuple[str, ...]


def searched(observations: Observations) -> tuple[str, ...]:
    """Which of lr and batch_tokens were searched at some size: empty where a surface cannot be fitted."""
    try:
        return sweeps(observations, {}).names
    except InputError:
        return ()


def sweeps(observations: Observations, extra: Mapping[str, np.ndarray]) -> Sweeps:
    """The runs to fit, in an order that does not depend on the rows'; raises InputError as `fit_surface` does."""
    o, columns, dropped = _usable(observations, extra)
    sizes = _sizes(o)
    cell = _cells(_logs(o, sizes))
    names = _varying(columns, cell)
    order = np.lexsort([o.loss, *(columns[name] for name in names), cell])
    near = order[_near(np.log(o.loss[order]), cell[order])]
    kept = near[_best_known(cell)[cell[near]]]
    kept = kept[:: 1 + len(kept) // MOST_RUNS]  # sorted by size and hyperparameters: thinned evenly over both
    dropped += (f"{len(order) - len(near)} run(s) lie more than {FAR:.0%} above the best of their size",) * (
        len(near) < len(order)
    )
    dropped += (f"{len(kept)} of {len(near)} runs, spread evenly, are used",) * (len(kept) < len(near))
    o, x = o.where(kept), np.log(np.stack([columns[name][kept] for name in names], axis=1))
    label = np.unique(cell[kept], return_inverse=True)[1].reshape(-1)
    return Sweeps(o, label, tuple(names), sizes, x, _logs(o, sizes), dropped, _left_alone(columns, names))


def _usable(o: Observations, extra: Mapping[str, np.ndarray]) -> tuple[Observations, dict[str, np.ndarray], tuple]:
    """Finished runs to fit that state their size and every hyperparameter that any run states."""
    stated = {name: getattr(o, name) for name in HYPERPARAMETERS if getattr(o, name) is not None} | dict(extra)
    columns = {name: np.asarray(column, float) for name, column in stated.items()}
    with np.errstate(invalid="ignore"):
        columns = {name: column for name, column in columns.items() if np.any(column > 0)}
        sizes = [column for column in (o.params, o.tokens) if column is not None and np.any(column > 0)]
        good = o.fitted & np.isfinite(o.loss) & (o.loss > 0)
        for column in [*columns.values(), *sizes]:
            good &= np.isfinite(column) & (column > 0)
    if not columns:
        raise InputError(
            "The runs state neither lr nor batch_tokens, so their best values cannot be told; name the columns with "
            "--columns, as in lr=learning_rate."
        )
    if not np.any(good):
        raise InputError(f"None of {len(o)} runs has a loss and {' and '.join(columns)}; there is no surface to fit.")
    lost = int(np.sum(o.fitted & ~good))
    notes = (f"{lost} runs lack a loss, a size or {' or '.join(columns)} and are left out",) if lost else ()
    return o.where(good), {name: column[good] for name, column in columns.items()}, notes


def _sizes(o: Observations) -> tuple[str, ...]:
    """Params and tokens where stated, varying or not: a target may differ. Else FLOPs, else width, else nothing."""
    both = tuple(name for name in ("params", "tokens") if _stated(getattr(o, name)))
    return both or tuple(name for name in ("flops", "width") if _stated(getattr(o, name)))[:1]


def _stated(column: np.ndarray | None) -> bool:
    return column is not None and bool(np.all(column > 0))


def _logs(o: Observations, sizes: tuple[str, ...]) -> np.ndarray:
    return np.stack([np.log(getattr(o, name)) for name in sizes], axis=1) if sizes else np.zeros((len(o), 0))


def _cells(logs: np.ndarray) -> np.ndarray:
    """A label for runs of one size, whose every column lies within SAME_SIZE of the group's smallest."""
    if not logs.shape[1]:
        return np.zeros(len(logs), int)
    return np.unique(np.stack([_steps(column) for column in logs.T], axis=1), axis=0, return_inverse=True)[1].reshape(
        -1
    )


def _steps(column: np.ndarray) -> np.ndarray:
    values, where = np.unique(column, return_inverse=True)
    labels, first = np.zeros(len(values), int), values[0]
    for i in range(1, len(values)):
        new = values[i] - first > SAME_SIZE
        labels[i], first = labels[i - 1] + new, values[i] if new else first
    return labels[where.reshape(-1)]


def _best_known(cell: np.ndarray) -> np.ndarray:
    """Whether each cell is among the MOST_CELLS with the most runs, equals being spread over all sizes."""
    counts = np.bincount(cell)
    spread = (np.arange(len(counts)) * 0.6180339887) % 1.0  # golden ratio: evenly spread whatever number is taken
    known = np.zeros(len(counts), bool)
    known[np.lexsort([spread, -counts])[:MOST_CELLS]] = True
    return known


def _varying(columns: Mapping[str, np.ndarray], cell: np.ndarray) -> list[str]:
    """Hyperparameters that take 3 values in all and 2 at some size."""
    found, counts = [], {}
    for name, column in columns.items():
        values = value_labels(name, column)
        counts[name] = len(np.unique(values))
        within = len(np.unique(np.stack([cell, values], axis=1), axis=0)) - len(np.unique(cell))
        if counts[name] >= 3 and within >= 2:
            found.append(name)
    if not found:
        listed = ", ".join(f"{name} ({count} values)" for name, count in counts.items())
        raise InputError(
            f"No hyperparameter was searched at one size: {listed}. The best value needs 3 or more values at a size; "
            f"sweep it by factors of two at the smallest sizes."
        )
    return found


def _left_alone(columns: Mapping[str, np.ndarray], names: list[str]) -> tuple[str, ...]:
    found = []
    for name, column in columns.items():
        count = len(np.unique(value_labels(name, column)))
        if name not in names and count > 1:
            why = "takes two values only" if count == 2 else "changes with size but was not searched at any size"
            found.append(f"{name} {why}, so its own best cannot be told.")
    return tuple(found)


def _near(y: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Runs within FAR of their cell's floor: its second lowest loss where there are 4, as one loss can be wrong."""
    order = np.lexsort([y, cell])
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    second = starts + (np.bincount(cell) >= 4)
    return y - y[order][second][cell] < FAR
