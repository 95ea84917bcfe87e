"""Which column of a table is which of ours: by --columns, by our own name, by a tracker's prefix; never by a guess.

What others call our columns is only suggested (`naming.py`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from windtunnel.errors import InputError
from windtunnel.laws.observations import NUMBER_COLUMNS, TEXT_COLUMNS
from windtunnel.laws.reading.naming import (
    ASKED,
    RESULTS,
    SIZES,
    hint,
    is_judged,
    is_plain_loss,
    likely,
    plain,
    positive,
    renamed,
    written,
)
from windtunnel.laws.reading.tables import Table

KNOWN = (*NUMBER_COLUMNS, *TEXT_COLUMNS, "epochs", "outcome")
BETTER_HIGHER = {"accuracy", "acc", "top1", "top5", "f1", "bleu", "rouge", "auc", "auroc", "reward", "recall"}


class NoColumn(InputError):
    """A column that was named is not in the table."""


def parse_columns(text: str) -> dict[str, str]:
    """'params=n_params,loss=val_loss' as a mapping from our names to the file's, which may hold commas."""
    pairs = [pair.partition("=") for pair in re.split(r",(?=\s*\w+\s*=)", text.strip(" ,")) if pair.strip()]
    if any(not sign or ("," in theirs and "=" in theirs) for _, sign, theirs in pairs):
        raise InputError(f'columns is {text!r}; write pairs OURS=THEIRS, as in "params=n_params,loss=val_loss".')
    return {ours.strip(): theirs.strip(" ,") for ours, _, theirs in pairs}


def as_mapping(columns: Mapping[str, str] | str | None) -> dict[str, str]:
    """The mapping, checked: only our own names may be mapped."""
    if not isinstance(columns, str | Mapping | None):
        raise InputError(f'columns is {columns!r}; give OURS=THEIRS, as "params=n_params,loss=val_loss", or a mapping.')
    mapping = parse_columns(columns) if isinstance(columns, str) else dict(columns or {})
    unknown = [name for name in mapping if name not in KNOWN]
    if unknown:
        close = difflib.get_close_matches(unknown[0], KNOWN, 1)
        raise InputError(
            f"columns names {', '.join(map(repr, unknown))}, which is not one of ours: {', '.join(KNOWN)}."
            + (f" Did you mean {close[0]}?" if close else "")
            + ' Write OURS=THEIRS, as in "params=n_params,loss=val_loss".'
        )
    return mapping


def choose(table: Table, mapping: Mapping[str, str], *, targets: bool = False) -> dict[str, str]:
    """Our names to the table's. Raises InputError where the loss (unless these are targets) or every size is absent."""
    present = list(table.columns)
    if not present and not len(table.rows):
        raise InputError(f"{table.file} is empty; it needs a loss and a size for each run.")
    chosen = find(table, mapping, KNOWN)
    if not len(table.rows):
        raise InputError(f"{table.file} has column names but no rows; add one row a run.")
    if "loss" not in chosen and not targets:
        raise InputError(
            f"{table.file} has no column `loss`; {listed(present)}. {hint(['loss'], table, chosen, mapping)}"
        )
    if not set(chosen) & set(SIZES) and not {"steps", "batch_tokens"} <= set(chosen):
        raise InputError(
            f"{table.file} has none of the columns {', '.join(SIZES)}, so no law can be fitted; "
            f"{listed(present)}. {renamed(table) if targets else hint(SIZES, table, chosen, mapping)}"
        )
    return chosen


def find(table: Table, mapping: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Which of the wanted columns the table has, by its names. Raises InputError for a mapped name it lacks."""
    present = list(table.columns)
    found = {n: _mapped(table, n, mapping[n]) if n in mapping else _own(table, n, present) for n in wanted}
    return {ours: theirs for ours, theirs in found.items() if theirs}


def _own(table: Table, ours: str, present: Sequence[str]) -> str | None:
    """The column with our name, or the one an export's format says, or with a tracker's prefix before our name."""
    if ours in present:
        return ours
    if ours in table.known:
        return table.known[ours]
    return _prefixed(ours, ours, present)


def _mapped(table: Table, ours: str, theirs: str) -> str | None:
    if not theirs or theirs in table.columns:
        return theirs or None
    found = _prefixed(ours, theirs, list(table.columns))
    if found:
        return found
    close = _close(theirs, list(table.columns))
    suggestion = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    pairs = ' Each pair is OURS=THEIRS, as in "params=n_params,loss=val_loss".' if "," in theirs else ""
    raise NoColumn(
        f"{table.file} has no column {theirs!r} for {ours};{suggestion}{pairs} {listed(list(table.columns))}."
    )


def _prefixed(ours: str, theirs: str, present: Sequence[str]) -> str | None:
    order = (*RESULTS, *ASKED) if ours == "loss" else (*ASKED, *RESULTS)
    return next((prefix + theirs for prefix in order if prefix + theirs in present), None)


def doubts_of_loss(table: Table, chosen: Mapping[str, str], given: Mapping[str, str]) -> tuple[str, ...]:
    """Caveats for a loss that by its name is none that laws are about, or not the one that runs are judged by."""
    judged = [name for name in likely("loss", table) if is_plain_loss(name) and positive(table.columns[name])]
    if "loss" not in given and judged and not is_judged(chosen.get("loss", "")):
        pasted = written({**given, "loss": judged[0]})
        return (
            f"The loss is read from {chosen['loss']!r}; the table also has {judged[0]!r}, and laws are about losses of "
            f'held-out data. --columns "{pasted}" reads that.',
        )
    words = set(plain(chosen.get("loss", "")).split("_"))
    if words & BETTER_HIGHER and not words & {"error", "err", "loss", "regret", "1", "one", "minus", "neg", "gap"}:
        return (
            f"The loss is {chosen['loss']!r}, which by its name is better when higher, and every law falls with size. "
            f"Give the error, 1 - accuracy (100 - accuracy of per cent).",
        )
    if not words & {"perplexity", "ppl"} or words & {"log", "logarithm", "ln", "nll", "bits"}:
        return ()
    return (
        f"The loss is {chosen['loss']!r}: laws and their beliefs are about nats (or bits), of which perplexity is the "
        f"exponential, and bend otherwise. Give its logarithm.",
    )


def listed(present: Sequence[str]) -> str:
    """The columns a table has, for a message."""
    shown = ", ".join(present[:40]) or "none"
    return f"its columns are {shown}" + (f" and {len(present) - 40} more" if len(present) > 40 else "")


def _close(theirs: str, present: Sequence[str]) -> list[str]:
    names = {plain(name): name for name in present}
    return [names[name] for name in difflib.get_close_matches(plain(theirs), list(names), 3, 0.6)]
