"""Columns that nobody named and that alone tell the effect of a size, as where every family of models has its tokens.

What else such a column changes is then read as the effect of that size, and no fit can tell. A newcomer would warn of
every column that goes with a size; most are but names of it, as `small` and `large`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from windtunnel.laws.observations import Observations
from windtunnel.laws.prepare import VARIES
from windtunnel.laws.reading.naming import is_numeric, plain
from windtunnel.laws.reading.tables import Table

MOST_VALUES = 8  # a column of more has many sizes, of which a law tells what is theirs (guess)
FIXED = {"tokens": "params", "params": "tokens"}  # what a column may fix, and what must vary beside it
# last words of names that are of sizes, or of places where runs were
_NEITHER = {"model", "models", "arch", "architecture", "checkpoint", "path", "url", "commit", "hardware",
            "name", "run", "size", "scale", "config", "label", "id", "key", "rung", "horizon",
            "budget", "tier", "duration", "length", "host", "hostname", "node", "gpu", "gpus", "machine", "cluster",
            "device", "user", "date", "created", "time", "notes", "tags", "state", "status"}  # fmt: skip
_AMOUNTS = {"nano", "micro", "mini", "tiny", "small", "base", "medium", "mid", "large", "big", "xl", "xxl", "huge",
            "giant", "short", "normal", "long", "low", "high"}  # fmt: skip


def tied_sizes(runs: Observations, table: Table, chosen: Mapping[str, str]) -> tuple[str, ...]:
    """A caveat for words that each have one value of a size that varies with nothing else."""
    for name, cells in table.columns.items():
        if name not in chosen.values() and not is_numeric(cells) and plain(name).split("_")[-1] not in _NEITHER:
            words = np.array([str(cell).strip() for cell in cells])
            for size in _tied(runs, words):
                return (
                    f"Nothing but {name!r} tells the effect of {size}: each of its values has one number of {size}, so "
                    f"whatever else it changes is read as theirs. Unless it only names them, fit its values apart with "
                    f'--columns "series={name}", or give runs of one value that differ in {size}.',
                )
    return ()


def _tied(runs: Observations, words: np.ndarray) -> Iterable[str]:
    """The sizes that words fix within a series while the other varies."""
    label, evidence = np.array(runs.labels()), np.isfinite(runs.loss) & runs.fitted
    for each in np.unique(label):
        place = evidence & (label == each)
        word = np.unique(words[place], return_inverse=True)[1]
        if len(word) and 1 <= word.max() < MOST_VALUES and not _amounts(np.unique(words[place])):
            for size, other in FIXED.items():
                fixed, free = getattr(runs, size), getattr(runs, other)
                if fixed is not None and free is not None and _fixes(word, np.log(fixed[place]), np.log(free[place])):
                    yield size


def _fixes(word: np.ndarray, fixed: np.ndarray, free: np.ndarray) -> bool:
    within = [(np.ptp(fixed[word == each]), np.ptp(free[word == each])) for each in range(word.max() + 1)]
    still, varied = np.array(within).T
    return bool(np.all(still < VARIES) and np.ptp(fixed) > VARIES and 2 * np.sum(varied > VARIES) > len(varied))


def _amounts(words: np.ndarray) -> bool:
    """Whether all words name an amount, as `d12`, `300B tokens` and `small` do."""
    return all(re.search(r"\d", word) or set(re.split(r"[^a-z]+", word.lower())) & _AMOUNTS for word in words)
