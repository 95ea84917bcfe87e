"""read_runs and read_targets: from a table to Observations, with everything doubtful either refused or said.

The order matters: unfinished runs go first (their cells may be empty), then cells are checked, then duplicates are
counted once, then tokens and FLOPs that nobody stated are filled from what was stated, with a caveat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.observations import ALL_SIZES, Observations, with_flops
from windtunnel.laws.reading.beside import recipes_pooled, sizes_unnamed, unnamed
from windtunnel.laws.reading.cells import columns_of, epochs_of, finished
from windtunnel.laws.reading.checkpoints import checkpoints
from windtunnel.laws.reading.choosing import as_mapping, choose, doubts_of_loss
from windtunnel.laws.reading.duplicates import once
from windtunnel.laws.reading.exports import load
from windtunnel.laws.reading.naming import unnamed_sizes, written
from windtunnel.laws.reading.tables import Table
from windtunnel.laws.reading.tied import tied_sizes
from windtunnel.laws.reading.units import check_units, odd_units
from windtunnel.laws.repeated import REPEATS

UNIQUE_OF_EPOCHS = "Unique tokens were not stated; they are taken as tokens / epochs."
TOKENS_OF_EPOCHS = "Tokens were not stated; they are taken as unique_tokens x epochs."
STEPS_TIMES_BATCH = "Tokens were not stated; they are taken as steps x batch_tokens."


def read_runs(
    source: Any, columns: Mapping[str, str] | str | None = None, *, delimiter: str | None = None
) -> Observations:
    """Observations from a table with one row a run: a path (a tracker's export too), a DataFrame, a dict of columns.

    Columns: loss, and at least one size (params, tokens, flops, active_params, width, steps); optional unique_tokens,
    epochs (which tell unique_tokens or tokens), lr, batch_tokens, seed, series, idea, split (fit or predict), key,
    outcome. `columns` maps our names to the file's, as a mapping or as text: "params=n_params,loss=val_loss"; an empty
    name ("flops=") ignores that column. CSV (also .tsv, .gz), Parquet (needs pyarrow), JSON and JSON lines are known by
    their ending; so are exports of W&B and MLflow, an `mlruns` folder, a folder of TensorBoard event files and
    TensorBoard's CSV. Nested names get dots: "loss=summary.val/loss". Raises InputError for anything that cannot be
    used.
    """
    mapping = as_mapping(columns)
    table = load(source, delimiter)
    chosen = choose(table, mapping)
    table, dropped = finished(table, chosen)
    if not len(table.rows):
        raise InputError(
            f"{table.file}: none of {len(dropped)} runs finished ({dropped[0]}, in column {chosen['outcome']}); there "
            f"is nothing to fit. To read them all the same, ignore that column: --columns "
            f'"{written(mapping | {"outcome": ""})}".'
        )
    arrays, table, repeated = once(table, columns_of(table, chosen))
    unfinished = (f"{len(dropped)} {table.noun}s of {table.file.name} did not finish and are left out.",)
    caveats = (*table.caveats, *(unfinished if dropped else ()), *repeated)
    found: dict[str, Any] = dict(arrays)
    runs = Observations(**found, source=str(table.file), dropped=tuple(dropped), caveats=caveats)
    runs = with_tokens_of_steps(runs)
    stated, runs = runs, with_epochs(runs, table, chosen)
    chosen = {ours: theirs for ours, theirs in chosen.items() if runs is not stated or ours != "epochs"}
    runs = replace(runs, unnamed=unnamed_sizes(table, chosen, mapping))
    mixed = check_units(runs, table)
    unread = (*sizes_unnamed(runs), *unnamed(runs, table, chosen), *tied_sizes(runs, table, chosen))
    unread += recipes_pooled(runs, table, chosen)
    doubts = (
        *mixed,
        *(() if mixed else odd_units(runs, chosen)),
        *doubts_of_loss(table, chosen, mapping),
        *checkpoints(runs, table),
        *unread,
    )
    return _usable(table, with_flops(replace(runs, caveats=(*runs.caveats, *doubts))))


def read_targets(
    source: Any, columns: Mapping[str, str] | str | None = None, *, delimiter: str | None = None
) -> Observations:
    """A table of targets: sizes (any may be empty, NaN then), optional series and idea, and losses, used for scoring.

    Columns of the mapping that this table lacks are taken to have our names. Raises InputError.
    """
    table = load(source, delimiter)
    mapping = {ours: theirs for ours, theirs in as_mapping(columns).items() if theirs in ("", *table.columns)}
    chosen = {ours: theirs for ours, theirs in choose(table, mapping, targets=True).items() if ours != "split"}
    arrays: dict[str, Any] = dict(
        columns_of(table, {ours: theirs for ours, theirs in chosen.items() if ours != "outcome"}, targets=True)
    )
    count = len(table.rows)
    sizes = [arrays[name] for name in ALL_SIZES if name in arrays]
    bare = np.flatnonzero(np.all([np.isnan(size) for size in sizes], axis=0))
    if len(bare):
        raise InputError(f"{table.file} states no size in {table.named(bare)}; a target needs params=, tokens= or so.")
    arrays |= {"split": np.full(count, "predict")} | ({} if "loss" in arrays else {"loss": np.full(count, np.nan)})
    found = with_tokens_of_steps(Observations(**arrays, source=str(table.file)))
    return with_epochs(found, table, chosen, targets=True)


def with_epochs(runs: Observations, table: Table, chosen: Mapping[str, str], *, targets: bool = False) -> Observations:
    """Unique tokens where data repeat, or tokens, from the epochs and the other of the two, with a caveat saying so."""
    if "epochs" not in chosen or (runs.tokens is None) == (runs.unique_tokens is None):
        return runs
    epochs = epochs_of(table, chosen["epochs"], 0.0 if runs.tokens is None else REPEATS, targets=targets)
    if epochs is None:
        return runs
    if runs.tokens is None:
        tokens = runs.unique_tokens * epochs  # type: ignore[operator]
        return replace(runs, tokens=tokens, caveats=(*runs.caveats, TOKENS_OF_EPOCHS))
    return replace(runs, unique_tokens=runs.tokens / np.maximum(epochs, 1.0), caveats=(*runs.caveats, UNIQUE_OF_EPOCHS))


def with_tokens_of_steps(runs: Observations) -> Observations:
    """Tokens filled in as steps x batch_tokens where those are stated and tokens are not, with a caveat saying so."""
    if runs.tokens is not None or runs.steps is None or runs.batch_tokens is None:
        return runs
    tokens = runs.steps * runs.batch_tokens
    if np.isnan(tokens).any():
        return runs
    return replace(runs, tokens=tokens, caveats=(*runs.caveats, STEPS_TIMES_BATCH))


def _usable(table: Table, runs: Observations) -> Observations:
    """The runs, unless some that are to be fitted lack the size that orders them by cost."""
    lacking = np.flatnonzero(runs.fitted & ~np.isfinite(runs.size))
    if len(lacking):
        raise InputError(
            f"{table.file} states no size but {runs.axis}, and that is empty in {table.named(lacking)}; every run "
            f"needs one. Fill it in, or remove the row(s)."
        )
    return runs
