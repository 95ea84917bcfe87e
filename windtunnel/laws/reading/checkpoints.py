"""Rows that are checkpoints of one run, not runs: by how they are spaced in tokens, or by a name that they share.

A newcomer would take several horizons of one size for them; those are runs, each with a schedule and a name of its own.
"""

from __future__ import annotations

import numpy as np

from windtunnel.laws.observations import Observations, joint
from windtunnel.laws.reading.naming import is_numeric, names_runs
from windtunnel.laws.reading.tables import Table

CHECKPOINTS = 8  # rows of one size, evenly spaced in tokens, from which they are one run's (guess)
OF_ONE_NAME = 3  # rows of one name and size, at different tokens, from which they are (guess)
MOST_SIZES = 200  # that are looked at
EVENLY = 0.2  # relative scatter of the spacing up to which it is even; horizons are spaced by factors (guess)


def checkpoints(runs: Observations, table: Table) -> tuple[str, ...]:
    """A caveat where most rows look like checkpoints of few runs."""
    fitted = np.flatnonzero(runs.fitted)
    why = _spaced(runs.where(fitted)) or next(
        (found for name in table.columns if names_runs(name) and (found := _named(runs, table, name, fitted))), ""
    )
    if not why:
        return ()
    return (
        f"Rows look like checkpoints of {why}. They share their run's noise, so that intervals are too narrow, and "
        f"under a decaying learning rate none but the last is a finished run. Keep the last row of each; curves are "
        f"foretold by wt.fit_curves.",
    )


def _spaced(o: Observations) -> str:
    """Runs of which many rows are evenly spaced in tokens, in words."""
    if o.params is None or o.tokens is None:
        return ""
    label = joint(np.unique(o.params, return_inverse=True)[1], np.unique(o.labels(), return_inverse=True)[1])
    rows = np.bincount(label)
    many = [np.unique(o.tokens[label == each]) for each in np.flatnonzero(rows >= CHECKPOINTS)[:MOST_SIZES]]
    curves = [tokens for tokens in many if len(tokens) >= CHECKPOINTS and _evenly(tokens)]
    if len(curves) < 2 or 2 * len(curves) < min(np.count_nonzero(rows), MOST_SIZES):
        return ""
    return f"{len(curves)} runs (up to {max(map(len, curves))} evenly spaced tokens at one size)"


def _evenly(tokens: np.ndarray) -> bool:
    steps = np.diff(tokens)
    return bool(np.std(steps) < EVENLY * np.mean(steps))


def _named(runs: Observations, table: Table, name: str, fitted: np.ndarray) -> str:
    """Runs of which rows that share a name differ in tokens, or steps, and in no other size and no seed, in words."""
    along = runs.steps if runs.tokens is None else runs.tokens
    if along is None or is_numeric(table.columns[name]):
        return ""
    names, label = np.unique([str(table.columns[name][i]) for i in fitted], return_inverse=True)
    rows = np.bincount(label)
    order = np.argsort(label, kind="stable")
    places = [fitted[order[end - count : end]] for end, count in zip(np.cumsum(rows), rows, strict=True)]
    labels = np.array(runs.labels())
    same = (runs.params, runs.active_params, runs.width, runs.seed, runs.lr, runs.unique_tokens, labels)
    alike = [column for column in same if column is not None]
    curves = [
        place
        for place, each in zip(places, names, strict=True)
        if each.strip()
        and len(place) >= OF_ONE_NAME
        and len(np.unique(along[place])) == len(place)
        and all(len(np.unique(column[place])) == 1 for column in alike)
    ]
    if len(curves) < 2 or 2 * len(curves) < len(names):
        return ""
    return f"{len(curves)} runs (up to {max(map(len, curves))} rows of one {name!r})"
