"""What other people call our columns: only suggested, never assumed, all at once and ready to be pasted.

Of ten tables found in the wild none bore our names, and `val_loss` beside `train_loss` is a choice that only the
reader of the table can make.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from windtunnel.laws.reading.tables import Table

RESULTS = ("summary.", "metrics.", "data.metrics.", "summaryMetrics.", "summary_metrics.")  # prefixes of trackers
ASKED = ("config.", "params.", "hparams.", "data.params.", "config.params.", "config.model.", "config.optimizer.")
USUAL = {  # the likeliest first
    "loss": ("val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "final_val_loss", "final_loss",
             "val_bpb", "val_bpc", "bpb", "bpc", "loss_opt", "train_loss", "value"),
    "params": ("n_params", "parameters", "num_params", "num_parameters", "n_parameters", "total_params",
               "params_total", "num_scaling_params", "n_params_nonembed", "n", "model_size", "n_opt"),
    "tokens": ("n_tokens", "num_tokens", "train_tokens", "tokens_trained", "tokens_seen", "d", "tokens_opt"),
    "flops": ("training_flops", "train_flops", "compute", "compute_budget", "flops_budget", "c"),
    "width": ("d_model", "model_dim", "hidden_size", "hidden_dim", "n_embd", "embed_dim"),
    "steps": ("step", "global_step", "trainer_global_step", "num_steps", "max_steps", "num_iterations", "iteration",
              "iter", "_step"),
    "lr": ("learning_rate", "peak_lr", "max_lr", "base_lr", "peak_learning_rate", "max_learning_rate"),
    "batch_tokens": ("batch_size_tokens", "tokens_per_batch", "tokens_per_step", "global_batch_tokens"),
}  # fmt: skip
_OTHERWISE = {"per", "ratio", "second", "sec", "std", "stderr", "aux", "scale"}  # tokens_per_second is no tokens
_LESS = {"train", "training", "max", "min", "best", "ema"}  # train losses are suggested last
RUN = ("loss", "params", "tokens", "flops", "lr", "batch_tokens")  # what a table of runs is read by, if it has it


def hint(
    needed: Sequence[str], table: Table, chosen: Collection[str], given: Mapping[str, str], also: Sequence[str] = RUN
) -> str:
    """How to name one of the columns that are `needed`, with what was `given` and those of `also` nothing names yet."""
    pairs, others = {name: theirs for name, theirs in given.items() if theirs or name not in needed}, ""
    found = {name: likely(name, table) for name in (*needed, *also) if name not in {*chosen, *pairs}}
    one = next((name for name in needed if found.get(name)), needed[0])
    for name, names in found.items():
        free = [each for each in names if each not in pairs.values()]
        if name == one or (free and name in also):
            pairs[name] = free[0] if free else "THEIR_NAME"
        if name == one and len(free) > 1:
            others = f" (or {', '.join(free[1:4])})"
    return f'Name it with --columns "{written(pairs)}"{others}.'


def written(pairs: Mapping[str, str]) -> str:
    """A mapping of columns as --columns takes it."""
    return ",".join(f"{ours}={theirs}" for ours, theirs in pairs.items())


def unread_sizes(table: Table, chosen: Collection[str], given: Mapping[str, str]) -> str:
    """What --columns would say for params and tokens that the table seems to have and nobody named, or nothing."""
    found = {n: likely(n, table, sure=True)[:1] for n in ("params", "tokens") if n not in {*chosen, *given}}
    pairs = {name: names[0] for name, names in found.items() if names}
    return written(dict(given) | pairs) if pairs else ""


def likely(ours: str, table: Table, *, sure: bool = False) -> list[str]:
    """The columns of numbers that others would call so, the likeliest first; only well-known names if `sure`."""
    names = [name for name, cells in table.columns.items() if _numeric(cells)]
    if sure:
        return [name for name in names if usual_for(name) == ours]
    return [name for _, name in sorted(_ranked(ours, names), key=lambda each: each[0])]


def usual_for(theirs: str) -> str:
    """Which of our columns other people call so, or nothing."""
    if len(plain(theirs)) == 1:  # `d` may be data or depth
        return ""
    return next((ours for ours, names in USUAL.items() if plain(theirs) in names), "")


def plain(name: str) -> str:
    """A column's name without a tracker's prefix and without what is in brackets, in one spelling."""
    for prefix in (*RESULTS, *ASKED):
        name = name.removeprefix(prefix)
    return re.sub(r"[/\-. ]", "_", re.sub(r"\s*\(.*?\)", "", name).lower().strip())


def _ranked(ours: str, columns: Sequence[str]) -> Iterator[tuple[tuple[int, int, int], str]]:
    usual = USUAL.get(ours, ())
    for name in columns:
        words = plain(name).split("_")
        if set(words) & _OTHERWISE and plain(name) not in usual:
            continue
        less = len(set(words) & _LESS)
        if plain(name) in usual:
            yield (0, usual.index(plain(name)), 0), name
        elif any(plain(name).endswith(f"_{each}") for each in (ours, *usual) if len(each) > 1):
            yield (1, less, 0), name
        elif ours in plain(name) and len(ours) > 2:
            yield (2, less, 0), name


def _numeric(cells: Sequence[Any] | np.ndarray) -> bool:
    """Whether the first cell that is not empty is a number, or begins like one, as 7B."""
    first = next((str(cell).strip() for cell in cells if cell is not None and str(cell).strip()), "")
    return bool(re.match(r"[-+]?\.?\d|nan|inf", first.lower()))
