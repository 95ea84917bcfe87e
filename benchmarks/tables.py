"""Public tables of real training runs as series to forecast: small runs to fit, large ones hidden until scored.

The tables are read from `../shared/data/runs` beside the checkout (or $WINDTUNNEL_TABLES) and are never part of the
project. What is a series, what is its loss and which rows are hidden is decided here, once, for every benchmark.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from windtunnel.laws import Observations
from windtunnel.laws.observations import with_flops

FOLDER = Path(os.environ.get("WINDTUNNEL_TABLES", Path(__file__).parents[2] / "shared/data/runs"))


@dataclass(frozen=True, eq=False)
class Series:
    """Runs of one recipe: `observations` carry the split; `domain` groups series inside a table."""

    table: str
    name: str
    observations: Observations
    domain: str = ""


def read(name: str) -> pd.DataFrame:
    """One table as it is."""
    return pd.read_csv(FOLDER / name)


def series(table: str, name: str, rows: pd.DataFrame, loss: str, domain: str = "", **columns: str) -> Series:
    """A series from rows of a table; `columns` maps our names to the table's."""
    rows = rows[rows[loss] > 0]
    values: dict[str, Any] = {ours: rows[theirs].to_numpy(float) for ours, theirs in columns.items()}
    split = np.where(rows["split"].str.startswith("predict"), "predict", "fit")
    return Series(table, name, with_flops(Observations(loss=rows[loss].to_numpy(float), split=split, **values)), domain)


def gadre() -> Iterator[Series]:
    """Three training sets (2403.08540), C4 loss of over-trained runs up to 0.41B; hidden: 1.4B and 6.9B."""
    for name, rows in read("gadre_overtraining.csv").groupby("train_set"):
        yield series("gadre", str(name), rows, "loss_c4_val", params="n_params", tokens="tokens")


def porian_frontier() -> Iterator[Series]:
    """Loss of the best model at each budget (2406.19146); hidden: the three largest. The eight with validation loss."""
    keys = ["source", "hparams", "warmup", "decay", "param_count", "loss_split"]
    for name, rows in read("porian_optima.csv").groupby(keys, sort=False):
        table = "porian_frontier" if name[-1] == "val" else "porian_frontier_train"
        yield series(table, "/".join(map(str, name)), rows, "loss_opt", flops="flops")


def porian_isoflop() -> Iterator[Series]:
    """The same runs as points in parameters and tokens."""
    keys = ["source", "hparams", "warmup", "decay", "param_count", "loss_split"]
    for name, rows in read("porian_isoflop.csv").groupby(keys, sort=False):
        if rows.split.nunique() == 2:
            yield series("porian_isoflop", "/".join(map(str, name)), rows, "loss", params="n_params", tokens="tokens")


def marin() -> Iterator[Series]:
    """Four optimizers, 130M to 520M at 1 to 16 x Chinchilla tokens (2509.02046); hidden: 1.2B."""
    table = read("marin_optimizers_best.csv")
    table["loss"] = table[["loss_best_run", "min_loss_reported"]].min(axis=1)
    for name, rows in table.groupby("optimizer"):
        if rows.split.nunique() == 2:
            yield series("marin", str(name), rows, "loss", params="n_params", tokens="tokens")


def chinchilla() -> Iterator[Series]:
    """Points digitised from the Chinchilla figure (2404.10102); hidden: budgets from 1e21 FLOPs."""
    rows = read("chinchilla_epoch.csv")
    yield series("chinchilla", "chinchilla", rows, "loss", params="n_params", tokens="tokens", flops="flops")


def olmo_final() -> pd.DataFrame:
    """The end of every ladder run and of the 7B and 13B models (2412.04403)."""
    table = read("olmo_ladder.csv.gz")
    table = table[~table.run.str.contains("rerun|medlr|0.5xC|eval_full")]  # eval_full ends before the annealing
    return table.sort_values("tokens").groupby("run", sort=False).tail(1)


def olmo() -> Iterator[Series]:
    """16 ladder points to 1.3B; hidden: the 3B ladder points ("near") and the 7B and 13B models ("far")."""
    final = olmo_final()
    for column in ("ce_c4_en", "bpb_hellaswag", "bpb_arc_challenge", "bpb_piqa"):
        fit = final[final.split == "fit"]
        near, far = final[final.split == "predict_near"], final[final.split == "predict"]
        for which, hidden in (("3B", near), ("7B, 13B", far)):
            rows = pd.concat([fit, hidden])
            named = "olmo" if column == "ce_c4_en" else "olmo_bpb"
            yield series(named, f"{column} -> {which}", rows, column, params="n_params_nonembed", tokens="tokens")


def mu_scaling() -> Iterator[Series]:
    """Ten widths at one horizon (2304.06875); hidden: the three largest."""
    yield series("mu_scaling", "widths", read("mu_scaling.csv"), "train_loss", params="n_params")


def curves92() -> Iterator[Series]:
    """92 learning curves over examples seen (2209.06640, 2210.14891)."""
    for name, rows in read("revisiting_92.csv.gz").groupby("task_id", sort=False):
        yield series("curves92", str(name), rows, "loss", str(rows.domain.iloc[0]), tokens="examples_seen")


def repeated() -> Iterator[Series]:
    """Repeated data (2305.16264), runs up to 1.5B; hidden: from 2.2B."""
    rows = read("datablations_repeat.csv")
    columns = {"params": "n_params", "tokens": "tokens", "unique_tokens": "unique_tokens"}
    yield series("repeated", "datablations", rows, "loss", **columns)


def repeated_final() -> Iterator[Series]:
    """Last points of runs of 1 to 1,500 epochs at 2.8B and 4.2B on two data sets (2305.16264); hidden: 8.7B."""
    table = read("datablations_curves.csv.gz").sort_values("tokens", kind="stable")
    last = table.groupby(["dataset", "n_params", "epochs", "unique_tokens"]).tail(1)
    columns = {"params": "n_params", "tokens": "tokens", "unique_tokens": "unique_tokens"}
    for name, rows in last.groupby("dataset"):
        yield series("repeated_final", str(name), rows, "loss", **columns)


def gemstones() -> Iterator[Series]:
    """Last checkpoint of each model (2502.06857) in each series; hidden: 1.9B to 2B."""
    table = read("gemstones.csv.gz")
    for name, rows in table.groupby("series"):
        last = rows.sort_values("tokens").groupby("run").tail(1)
        if last.split.nunique() == 2 and len(last[last.split == "fit"]) >= 5:
            yield series("gemstones", str(name), last, "loss", params="n_params", tokens="tokens")


def steplaw_best() -> Iterator[Series]:
    """Best loss of each grid (2503.04715); hidden: 1.07B."""
    table = read("steplaw_dense.csv")
    best = table.loc[table.groupby(["n_params", "tokens"]).loss.idxmin()]
    yield series("steplaw_best", "dense", best, "loss", params="n_params", tokens="tokens")


def oellm() -> Iterator[Series]:
    """Loss at the best hyperparameters of each cell; hidden: 1.7B."""
    rows = read("oellm_best_hparams.csv")
    yield series("oellm", "dense", rows, "loss_opt", params="n_params", tokens="tokens")


def openathena() -> Iterator[Series]:
    """isoFLOP experiments of six sources; hidden: the top budget of each.

    The source flags what would spoil a parabola through one budget (too few points, far from its middle); those are
    runs like any other and stay. Exact duplicates are left out, and what it holds for misread points, among the runs
    to fit only: a hidden run is never judged by its loss.
    """
    table = read("openathena_isoflops.csv")
    misread = (table.reason == "spline_outlier") & (table.split == "fit")
    for name, rows in table[(table.reason != "exact_duplicate") & ~misread].groupby("experiment"):
        if rows.split.nunique() == 2:
            yield series("openathena", str(name), rows, "loss", params="n_params", tokens="tokens")


def misfitting() -> Iterator[Series]:
    """Final losses of each model and horizon at its best learning rate (2502.18969); hidden: 0.52B and 1.18B."""
    table = read("misfitting.csv.gz")
    final = table[table.is_last == 1]
    best = final.loc[final.groupby(["n_params", "tokens"]).loss_c4.idxmin()]
    yield series("misfitting", "all sweeps", best, "loss_c4", params="n_params", tokens="tokens")


def nqs() -> Iterator[Series]:
    """isoFLOP and isotoken designs over batch sizes; hidden: budgets to 1000 x the largest fitted."""
    table = read("nqs_batch_size.csv")
    table["batch_tokens"] = table.batch_seqs * 128.0
    table = table[(table.split != "fit") | ~table["filtered"].astype(bool)]
    for name, rows in table.groupby("design"):
        fit = table[table.split == "fit"]
        both = pd.concat([fit, rows[rows.split != "fit"]])
        columns = {"params": "n_params", "tokens": "tokens", "batch_tokens": "batch_tokens", "steps": "steps"}
        yield series("nqs", str(name), both, "loss", **columns)


def openclip() -> Iterator[Series]:
    """Zero-shot error of CLIP models against compute, by data set of evaluation and of training."""
    table = read("openclip_zeroshot.csv")
    table = table.sort_values("err1").groupby(["upstream_dataset", "downstream_dataset", "gmacs_total"]).head(1)
    for name, rows in table.groupby(["upstream_dataset", "downstream_dataset"]):
        rows = rows[rows.err1.notna()]
        if rows.split.nunique() == 2 and (rows.split == "fit").sum() >= 5 and name[0].startswith("LAION"):
            yield series("openclip", "/".join(name), rows, "err1", flops="gmacs_total")


def sft() -> Iterator[Series]:
    """Loss of 30 models fine-tuned on three tasks over examples (2402.02314); hidden: the two largest amounts.

    The models without any example are left out: their loss tells how strange the format was (`laws/two_stage.py`).
    """
    table = read("sft_finetuning.csv")
    for (task, model), rows in table[table.sft_examples > 0].groupby(["task", "model"]):
        yield series("sft", f"{task}/{model}", rows, "test_loss", str(task), tokens="sft_examples")


def colpret() -> Iterator[Series]:
    """Loss curves of 192 published runs (2410.11840): 2 to 40 % of the tokens shown; hidden: the last five rows.

    No table states their learning rates, so what annealing brings at the end cannot be foreseen. The cut was set before
    the first look and nothing was ever learned from these curves. Curves with under five rows to show are left out.
    """
    for name, rows in read("colpret_curves.csv.gz").groupby("curve"):
        rows = rows.drop_duplicates("tokens").sort_values("tokens")
        done = rows.tokens / rows.tokens.max()
        shown, hidden = rows[(done > 0.02) & (done <= 0.4)], rows[done > 0.9].tail(5)
        if len(shown) >= 5:
            kept = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), 60)).astype(int))
            both = pd.concat([shown.iloc[kept].assign(split="fit"), hidden.assign(split="predict")])
            yield series("colpret", str(name), both, "loss", tokens="tokens")


# Left out: vocab_scaling (its loss is negative, and no unigram loss is given to undo that), obs_scaling_benchmarks
# (scores without a loss), mixinglaws_curves (few mixtures are alike at every size and at one step).
ALL = (
    *(gadre, porian_frontier, marin, chinchilla, olmo, mu_scaling, curves92, repeated),
    *(porian_isoflop, gemstones, steplaw_best, oellm, openathena, misfitting, nqs, openclip),
    *(repeated_final, sft, colpret),
)
