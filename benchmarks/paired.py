"""Paired series from public tables: an idea beside its base at the same sizes, small sizes shown, larger ones hidden.

What is a pair, and which series a table gives, is decided here once. A newcomer would count pairs: the gaps of one cut
share their error (0.75 to 0.9 of its variance, measured), so every figure is a mean over tables of means over cuts.
Marin's Muon, NAdamW and SOAP are scored elsewhere and are never among these series.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables import read
from windtunnel.laws.law import Sizes

SCORED = ("muon", "nadamw", "soape")
A_TABLE = 12  # series taken from each table, by a hash of their names
MOST_SHOWN, MOST_HIDDEN, MOST_CUTS = 14, 3, 2
REACH = 100.0  # hidden sizes beyond this multiple of the shown compute are left out


@dataclass(frozen=True, eq=False)
class Series:
    """An idea beside its base: sizes, the base's loss and the log ratio of losses, one entry a pair."""

    table: str
    name: str
    params: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    gap: np.ndarray

    def sizes(self, index: Any) -> Sizes:
        """Sizes of some pairs."""
        n, d = np.atleast_1d(self.params[index]), np.atleast_1d(self.tokens[index])
        return Sizes(params=n, tokens=d, flops=6 * n * d)


def joined(table: str, name: str, base: pd.DataFrame, idea: pd.DataFrame, on: list[str]) -> Iterator[Series]:
    """The pairs that two recipes have in common; nothing where there are fewer than five, or no difference."""
    columns = ["n_params", "tokens", "loss"]
    pairs = base.groupby(on)[columns].mean().join(idea.groupby(on)[["loss"]].mean().add_suffix("_idea"), how="inner")
    pairs = pairs.dropna()
    gap = np.log(pairs["loss_idea"].to_numpy() / pairs["loss"].to_numpy())
    if len(pairs) >= 5 and np.all(gap != 0):
        yield Series(table, name, *(pairs[column].to_numpy(float) for column in columns), gap)


def marin() -> pd.DataFrame:
    """Best loss of each optimizer, size and multiple; the smaller of the two reported (one is off by 0.04)."""
    rows = read("marin_optimizers_best.csv")
    return rows.assign(loss=rows[["loss_best_run", "min_loss_reported"]].min(axis=1))


def every_series() -> Iterator[Series]:
    """All paired series that are not scored."""
    rows, on = marin(), ["size", "chinchilla_mult"]
    for name in sorted(set(rows["optimizer"]) - {"adamw", *SCORED}):
        yield from joined("marin", name, rows[rows["optimizer"] == "adamw"], rows[rows["optimizer"] == name], on)
    yield from ablations()
    rows = read("porian_isoflop.csv").query("loss_split == 'val' and source in ('rw', 'owt2')")
    for source, group in rows.groupby("source"):
        yield from against("porian", str(source), group, ["hparams", "warmup", "decay"], ["flops", "n_params"])
    rows = read("gadre_overtraining.csv").query("token_multiplier_20x >= 1")
    for loss in ("loss_c4_val", "loss_paloma_c4_en"):
        named = rows.assign(loss=rows[loss])
        yield from against("gadre", loss, named, ["train_set"], ["n_params", "token_multiplier_20x"])
    rows = read("openathena_isoflops.csv").query("source == 'marin_202603'")
    rows = rows.assign(n=rows["n_params"].pipe(np.log).round(2), c=rows["flops_budget"].pipe(np.log).round(1))
    yield from against("openathena", "", rows, ["dataset"], ["c", "n"])
    yield from repeats()
    yield from rates()
    yield from halved()
    yield from misfitting()
    yield from mixtures()


def against(table: str, name: str, rows: pd.DataFrame, recipe: list[str], on: list[str]) -> Iterator[Series]:
    """Every recipe against every other."""
    groups = [(str(key), group) for key, group in rows.groupby(recipe)]
    for (one, base), (other, idea) in itertools.combinations(groups, 2):
        yield from joined(table, f"{name} {other} - {one}", base, idea, on)


def ablations() -> Iterator[Series]:
    """One hyperparameter of an optimizer changed, the same value at every size (marin, not the scored optimizers)."""
    rows = read("marin_optimizers_ablations.csv").dropna(subset="loss")
    rows = rows[~rows["optimizer"].isin(SCORED) & (rows["split"] == "fit")]
    rows = rows.assign(tokens=20.0 * rows["n_params"] * rows["chinchilla_mult"])
    best = rows["changed_hparam"] == "(best config)"
    for (name, changed, value), idea in rows[~best].groupby(["optimizer", "changed_hparam", "changed_value"]):
        base = rows[best & (rows["optimizer"] == name)]
        yield from joined("ablations", f"{name} {changed}={value}", base, idea, ["n_params", "chinchilla_mult"])


def repeats() -> Iterator[Series]:
    """Data repeated several times against as many fresh tokens."""
    rows = read("datablations_repeat.csv")
    for low, high in ((1.8, 5), (5, 20), (20, 60), (60, 160)):
        idea = rows[(rows["epochs"] >= low) & (rows["epochs"] < high)]
        yield from joined(
            "datablations", f"{low}-{high} epochs", rows.query("epochs == 1"), idea, ["n_params", "tokens"]
        )


def rates() -> Iterator[Series]:
    """Twice the learning rate, at one batch size, never retuned: ideas that often cross zero (Step Law's grid)."""
    rows = read("steplaw_dense.csv")
    rows = rows.assign(octave=np.round(np.log2(rows["lr"]) * 2) / 2)
    for batch in rows["batch_seqs"].value_counts().index[:6]:
        chosen = rows[rows["batch_seqs"] == batch]
        for octave in sorted(set(chosen["octave"])):
            base, idea = chosen[chosen["octave"] == octave], chosen[chosen["octave"] == octave + 1]
            if -11.2 <= octave <= -8.3 and len(idea):
                yield from joined("steplaw", f"batch {batch}, 2^{octave + 1}", base, idea, ["n_params", "tokens"])


def halved() -> Iterator[Series]:
    """Half the learning rate, and cooling down, at the same shape and tokens; wide and deep models (Gemstones)."""
    rows = read("gemstones.csv.gz")
    rows = rows.assign(run=rows["run"].str.replace("cooler_", ""), wide=rows["width"] / rows["depth"] > 45)
    length = np.where(rows["series"] == "cooldown_end", 1.1e10, 1e10)
    rows = rows.assign(stage=(rows["tokens"] / length).round(2))
    rows = rows[rows["stage"].isin([1.0, 2.0, 4.0, 7.0, 10.0])]
    for (wide, group), (base, idea) in itertools.product(
        rows.groupby("wide"), (("hot_trapezoid", "half_lr_ablation_hot"), ("cooldown_begin", "cooldown_end"))
    ):
        chosen = (group[group["series"] == name] for name in (base, idea))
        yield from joined("gemstones", f"{idea}, wide {wide}", *chosen, ["run", "stage"])


def misfitting() -> Iterator[Series]:
    """Two to five times the learning rate, at the same size and horizon."""
    rows = read("misfitting.csv.gz").query("is_last == 1").rename(columns={"loss_c4": "loss"}).dropna(subset="loss")
    rows = rows.assign(horizon=np.log(rows["tokens"]).round(1))
    for low, high in ((4e-4, 1e-3), (4e-4, 2e-3), (1e-3, 2e-3), (1e-3, 4e-3), (2e-3, 4e-3), (4e-3, 8e-3)):
        base, idea = (rows[np.isclose(rows["peak_lr"], rate)] for rate in (low, high))
        yield from joined("misfitting", f"{high} - {low}", base, idea, ["n_params", "horizon"])


def mixtures() -> Iterator[Series]:
    """One data mixture against another on one domain, from 70M to 1B at 10 to 30 thousand steps of a million tokens."""
    rows = read("mixinglaws_curves.csv.gz").query("experiment == '5Mix' and step in (10000, 20000, 30000)")
    params = rows["model"].map({"70M": 7e7, "160M": 1.6e8, "305M": 3.05e8, "410M": 4.1e8, "1B": 1e9})
    rows = rows.assign(n_params=params, tokens=1e6 * rows["step"], mix=rows["mixture_run"].str.split("_").str[1])
    for domain in ("Pile-CC", "Github", "Books3", "Wikipedia_en"):
        here = {name: group for name, group in rows[rows["eval_domain"] == domain].groupby("mix")}
        for one, other in itertools.combinations(here, 2):
            if zlib.crc32(f"{domain}{one}{other}".encode()) % 12 == 0:  # a twelfth of 1300
                yield from joined(
                    "mixtures", f"{domain} {other} - {one}", here[one], here[other], ["n_params", "tokens"]
                )


def cuts(s: Series) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs shown and hidden: all sizes up to one are shown, and some of those above it, up to 100x in compute."""
    level, compute = np.round(np.log(s.params), 1), np.log(s.params * s.tokens)
    generator = np.random.default_rng(zlib.crc32(s.name.encode()))
    found = []
    for size in np.unique(level)[1:]:
        shown = np.flatnonzero(level < size)
        hidden = np.flatnonzero((level >= size) & (compute < compute[shown].max() + np.log(REACH)))
        wide = np.ptp(s.tokens[shown]) > 0 and np.ptp(np.log(s.tokens[shown])) > 1.9
        if len(shown) >= 4 and len(hidden) and (len(np.unique(level[shown])) > 1 or wide):
            shown = np.sort(generator.choice(shown, min(len(shown), MOST_SHOWN), replace=False))
            found.append((shown, hidden[np.linspace(0, len(hidden) - 1, min(len(hidden), MOST_HIDDEN)).astype(int)]))
    picked = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_CUTS)).astype(int)) if found else []
    yield from (found[i] for i in picked)


def chosen_series() -> list[Series]:
    """Some series of each table, by a hash of their names, so that no table rules by its number of series."""
    found = sorted(every_series(), key=lambda s: (s.table, zlib.crc32(s.name.encode())))
    found = [s for s in found if any(True for _ in cuts(s))]
    return [s for _, group in itertools.groupby(found, key=lambda s: s.table) for s in list(group)[:A_TABLE]]
