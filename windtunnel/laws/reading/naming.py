"""What other people call our columns: only suggested, never assumed, all at once and ready to be pasted.

Of ten tables found in the wild none bore our names. A wrong suggestion is pasted as fast as a right one, so only names
that leave little doubt are added unasked, and validation losses stand before training losses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from windtunnel.laws.reading.tables import Table

RESULTS = ("summary.", "metrics.", "data.metrics.", "summaryMetrics.", "summary_metrics.")  # prefixes of trackers
ASKED = ("config.", "params.", "hparams.", "data.params.", "config.params.", "config.model.", "config.optimizer.",
         "user_attrs_")  # fmt: skip
USUAL = {  # the likeliest first
    "loss": ("loss", "final_loss", "loss_opt", "bpb", "bpc", "nll", "cross_entropy", "value"),
    "params": ("params", "n_params", "parameters", "num_params", "num_parameters", "n_parameters", "total_params",
               "params_total", "num_scaling_params", "n_params_nonembed", "n", "model_size", "n_opt"),
    "tokens": ("tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "total_tokens", "tokens_trained",
               "tokens_seen", "num_input_tokens_seen", "d", "tokens_opt"),
    "flops": ("flops", "flop", "training_flops", "training_flop", "train_flops", "total_flops", "total_flos", "compute",
              "compute_budget", "flops_budget", "c"),
    "active_params": ("active_params", "n_active_params", "active_parameters"),
    "unique_tokens": ("unique_tokens", "n_unique_tokens"),
    "width": ("width", "d_model", "model_dim", "hidden_size", "hidden_dim", "n_embd", "embed_dim"),
    "steps": ("steps", "step", "global_step", "trainer_global_step", "num_steps", "max_steps", "num_iterations",
              "iteration", "iter", "_step"),
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr", "base_lr", "peak_learning_rate", "max_learning_rate",
           "params_lr", "params_learning_rate"),
    "batch_tokens": ("batch_tokens", "batch_size_tokens", "tokens_per_batch", "tokens_per_step",
                     "global_batch_tokens"),
}  # fmt: skip
SIZES = ("params", "tokens", "flops", "active_params", "width", "steps")
RUN = ("loss", "params", "tokens", "flops", "lr", "batch_tokens")  # what a table of runs is read by, if it has it
_HARMLESS = {"total", "num", "n", "model", "train", "training", "trainer", "optim", "optimizer", "weight", "final"}
_LOSS = {"loss", "nll", "ce", "xent", "bpb", "bpc", "crossentropy"}
_NO_LOSS = {"gap", "reduction", "delta", "diff", "tokens", "flops", "time", "fn", "weight", "weights", "coef",
            "coefficient", "scale", "scaler", "aux", "z", "std", "stderr", "ratio"}  # fmt: skip
_RUNS = {"run", "runs", "job", "trial"}
_JUDGED = {"val", "valid", "validation", "eval", "evaluation", "dev", "test", "heldout"}
_TRAINED = {"train", "training"}
_TUNED = {"lr", "rate", "warmup", "warm", "batch", "bs", "decay", "wd", "momentum", "beta", "beta1", "beta2", "eps",
          "epsilon", "clip", "clipping", "dropout", "seed", "step", "steps", "iter", "iteration", "iterations", "id",
          "index", "trial", "rank", "multiplier", "mult", "best", "stable", "converged", "diverged"}  # fmt: skip
_UNITS = {"k": 1e3, "thousand": 1e3, "m": 1e6, "mn": 1e6, "million": 1e6, "g": 1e9, "b": 1e9, "bn": 1e9, "billion": 1e9,
          "t": 1e12, "tn": 1e12, "trillion": 1e12}  # fmt: skip
_FLOPS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24, "kilo": 1e3, "mega": 1e6,
          "giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21, "yotta": 1e24}  # fmt: skip
_POWER = re.compile(r"(?:1e|10\^)\+?(\d{1,2})")  # a unit written as a number
_LESS = {"max", "min", "best", "ema", "step"}  # of two that are alike the one without


def hint(
    needed: Sequence[str],
    table: Table,
    chosen: Mapping[str, str],
    given: Mapping[str, str],
    also: Sequence[str] = RUN,
) -> str:
    """How to name one of the columns that are `needed`, with what was `given` and those of `also` nothing names yet."""
    pairs, others = {name: theirs for name, theirs in given.items() if theirs or name not in needed}, ""
    taken = {*chosen.values(), *pairs.values()}
    names = dict.fromkeys((*needed, *also, *(SIZES if also is RUN else ())))
    found = {name: [each for each in likely(name, table) if each not in taken] for name in names if name not in chosen}
    one = next((name for name in needed if found.get(name)), needed[0])
    for name, ranked in found.items():
        if name == one:
            others = f" (or {', '.join(ranked[1:4])})" if len(ranked) > 1 else ""
            pairs[name] = ranked[0] if ranked else "THEIR_NAME"
        elif ranked and name not in pairs and not _follows(name, chosen):
            sizeless = name in SIZES and not set(SIZES) & {*chosen, *pairs}  # any size will do
            pairs |= {name: ranked[0]} if name in also or sizeless else {}
    return f'Name it with --columns "{written(pairs)}"{others}.'


def renamed(table: Table) -> str:
    """How to call the columns of a table of targets, for which --columns says what the runs' columns are."""
    found = {name: likely(name, table)[:1] for name in ("params", "tokens", "flops")}
    pairs = [f"{names[0]} {name}" for name, names in found.items() if names]
    return f"Call {' and '.join(pairs)}." if pairs else "Call its columns params, tokens or flops."


def written(pairs: Mapping[str, str]) -> str:
    """A mapping of columns as --columns takes it."""
    return ",".join(f"{ours}={theirs}" for ours, theirs in pairs.items())


def unnamed_sizes(table: Table, chosen: Mapping[str, str], given: Mapping[str, str]) -> str:
    """What --columns would say for params and tokens that the table seems to have and nobody named, or nothing."""
    pairs = {}
    for ours in ("params", "tokens"):
        names = [n for n in table.columns if usual_for(n) == ours and n not in chosen.values()]
        if ours not in {*chosen, *given} and not _follows(ours, chosen) and names and positive(table.columns[names[0]]):
            pairs[ours] = names[0]
    return written(dict(given) | pairs) if pairs else ""


def likely(ours: str, table: Table) -> list[str]:
    """The columns of numbers that others would call so, the likeliest first."""
    ranked = [(rank, name) for name in table.columns if (rank := _rank(ours, name)) is not None]
    return [name for _, name in sorted(ranked, key=lambda each: each[0]) if is_numeric(table.columns[name])]


def usual_for(theirs: str) -> str:
    """Which of our columns other people call so, or nothing."""
    if len(plain(theirs)) == 1:  # `d` may be data or depth
        return ""
    return next((ours for ours, names in USUAL.items() if plain(theirs) in names), "")


def is_loss(name: str) -> bool:
    """Whether a column is a loss by its name."""
    return _rank("loss", name) is not None and plain(name) != "value"


def is_plain_loss(name: str) -> bool:
    """Whether a column is nothing but a loss of held-out data by its name."""
    return is_judged(name) and set(plain(name).split("_")) <= {*_LOSS, *_JUDGED, "final", "lm", "cross", "entropy"}


def is_tuned(name: str) -> bool:
    """Whether a column of numbers is by its name a setting that is searched with rates, a size, a count or a result."""
    return bool(set(plain(name).split("_")) & _TUNED) or bool(usual_for(name)) or is_loss(name)


def names_runs(name: str) -> bool:
    """Whether a column is by its name one of runs' names, as `run` and `job_id` are."""
    *words, last = plain(name).split("_")
    return last in _RUNS or (last in ("name", "id", "key", "uid") and bool(set(words) & _RUNS))


def is_judged(name: str) -> bool:
    """Whether a loss is by its name one of held-out data."""
    return bool(set(plain(name).split("_")) & _JUDGED)


def plain(name: str) -> str:
    """A column's name without a tracker's prefix and without what is in brackets, in one spelling."""
    for prefix in (*RESULTS, *ASKED):
        name = name.removeprefix(prefix)
    return re.sub(r"[/\-. ]+", "_", re.sub(r"\s*\(.*?\)", "", name).lower().strip())


def unit_of(name: str) -> float:
    """The unit that a size's name states, as `Params (M)`, `tokens_B` and `C (EFLOPs)` do; 1 where it states none."""
    inside = re.split(r"[\s_/-]+", " ".join(re.findall(r"[(\[](.*?)[)\]]", name)).lower())
    *words, last = re.split(r"[\s_/.-]+", re.sub(r"[(\[].*?[)\]]", "", name).strip())
    spelt = [word.lower() for word in (*words, last) if len(word) > 1] + [last.lower()] * (
        bool(words) and last.isupper()
    )
    found = [_unit(word) for word in (*inside, *spelt)] + [
        10.0 ** int(power[1]) for word in inside if (power := _POWER.fullmatch(word))
    ]
    return max(found, default=1.0)


def _unit(word: str) -> float:
    flops = re.fullmatch(r"([a-z]+?)-?flops?", word)
    return _FLOPS.get(flops[1], 1.0) if flops else _UNITS.get(word.removesuffix("s") if len(word) > 3 else word, 1.0)


def _follows(ours: str, chosen: Collection[str]) -> bool:
    """Whether a column follows from those that are chosen: tokens are steps x batch_tokens."""
    return (ours == "tokens" and {"steps", "batch_tokens"} <= set(chosen)) or (
        ours == "params" and "active_params" in chosen
    )


def _rank(ours: str, name: str) -> tuple[int, int, int] | None:
    """How likely a column is ours, the least being the likeliest; None for another."""
    bare, usual = plain(name), USUAL.get(ours, ())
    if len(bare) == 1 and not name.strip()[0].isupper():  # N and D are sizes, `d` may be data or depth
        return None
    if ours == "loss":
        return _rank_of_loss(bare)
    if bare in usual:
        return 0, 0, usual.index(bare)
    ends = [each for each in usual if len(each) > 1 and bare.endswith(f"_{each}")]
    if not ends:
        return None
    longest = max(ends, key=len)
    harmless = set(bare.removesuffix(f"_{longest}").split("_")) <= _HARMLESS
    return (1, 0, usual.index(longest)) if harmless else None


def _rank_of_loss(bare: str) -> tuple[int, int, int] | None:
    """Losses of held-out data first, then those that do not say, then those of training."""
    words, usual = set(bare.split("_")), USUAL["loss"]
    if bare == "value":  # of an Optuna trial, whatever that is
        return 3, 0, 0
    speaks = words & _LOSS or "cross_entropy" in bare or "bits_per" in bare
    if bare not in usual and (not speaks or words & _NO_LOSS):
        return None
    told = 0 if words & _JUDGED else 2 if words & _TRAINED else 1
    return told, len(words & _LESS), usual.index(bare) if bare in usual else len(usual)


def is_numeric(cells: Iterable[Any]) -> bool:
    """Whether the first cell that is not empty is a number, or begins like one, as 7B."""
    first = next((text for cell in cells if cell is not None and (text := str(cell).strip())), "")
    return bool(re.match(r"[-+]?\.?\d|nan|inf", first.lower()))


def positive(cells: Any) -> bool:
    """Whether all cells are numbers above 0, as sizes and losses are."""
    try:
        return bool(np.all(np.array(cells, float) > 0))
    except (TypeError, ValueError):
        return False
