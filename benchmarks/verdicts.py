"""How true are paired verdicts? Ideas beside their base in public tables: small sizes shown, the largest hidden.

    python -m benchmarks.verdicts [--learn]

The scored table is marin: Muon, NAdamW and SOAP minus AdamW at 1.2B parameters, shown 130M to 520M. `--learn` compares
beliefs (`windtunnel.forecasts.gap.Beliefs`) by how likely they make the hidden gaps of the other paired series, among
them marin's eight other optimizers but never the scored three. A newcomer would count pairs: cuts of one series share
their errors, so every figure is a mean over tables of means over cuts. The tables are never part of the project.
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import write
from benchmarks.tables import read
from windtunnel.forecasts.gap import USUAL, Beliefs, fit_gap
from windtunnel.forecasts.pairs import Pairs
from windtunnel.forecasts.verdict import compare
from windtunnel.ladder import Target
from windtunnel.laws import Observations
from windtunnel.laws.law import Sizes

SCORED = ("muon", "nadamw", "soape")
A_TABLE = 6  # series taken from each table, by a hash of their names
MOST_SHOWN, MOST_HIDDEN, MOST_CUTS = 14, 3, 2
REACH = 100.0  # hidden sizes beyond this multiple of the shown compute are left out
LEAST = -8.0  # log scores below this are one failure, not a dozen
VARIANTS: dict[str, dict[str, Any]] = {
    "as they are": {}, "flat": {"slope": 0.15}, "steep": {"slope": 0.5}, "slow": {"fade": 0.15}, "fast": {"fade": 0.4},
    "any fade": {"fade_spread": 1.3}, "quiet": {"noise": 0.1}, "loud": {"noise": 0.4},
    "any noise": {"noise_spread": 1.4}, "any drift": {"still": 0.0},
    "small drift": {"drifts": (0.05, 0.1)}, "large drift": {"drifts": (0.3, 1.0)}, "no drift": {"still": 1.0},
    "far reach": {"reach": 6.0}, "large gaps": {"scale": 0.02},
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Series:
    """An idea beside its base: sizes, log ratio of losses and the base's loss, one entry a pair."""

    table: str
    name: str
    params: np.ndarray
    tokens: np.ndarray
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
        yield Series(table, name, pairs["n_params"].to_numpy(float), pairs["tokens"].to_numpy(float), gap)


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
    """A few series of each table, by a hash of their names, so that no table rules by its number of series."""
    found = sorted(every_series(), key=lambda s: (s.table, zlib.crc32(s.name.encode())))
    return [s for _, group in itertools.groupby(found, key=lambda s: s.table) for s in list(group)[:A_TABLE]]


def held_out(series: list[Series], beliefs: Beliefs) -> pd.DataFrame:
    """Per table, over cuts: log score, error over the shown gaps' size, coverage, Brier; `last` shows no law at all."""
    rows = []
    for s in series:
        for shown, hidden in cuts(s):
            pairs = Pairs(s.sizes(shown), s.gap[shown], np.arange(len(shown)), True)
            law, scale = fit_gap(pairs, beliefs=beliefs), float(np.sqrt(np.mean(s.gap[shown] ** 2)))
            last = s.gap[shown][np.argmax(s.params[shown] * s.tokens[shown])]
            cells = [judged(law.at(s.sizes(i), noise=True), law.at(s.sizes(i)), s.gap[i], last, scale) for i in hidden]
            rows.append({"table": s.table, "cuts": 1} | pd.DataFrame(cells).mean().to_dict())
    found = pd.DataFrame(rows).groupby("table")
    return found.mean().assign(cuts=found["cuts"].sum())


def judged(run: Any, expected: Any, truth: float, last: float, scale: float) -> dict[str, float]:
    """One hidden gap beside what was foretold."""
    below = float(run.cdf(truth))
    return {
        "log_score": max(run.log_density(truth) + np.log(scale), LEAST),
        "error": abs(float(run.quantile(0.5)) - truth) / scale, "error_of_last_gap": abs(last - truth) / scale,
        "inside_80": abs(below - 0.5) < 0.4, "inside_95": abs(below - 0.5) < 0.475,
        "brier": (float(expected.cdf(0.0)) - (truth < 0)) ** 2,
    }  # fmt: skip


def scored() -> list[dict[str, Any]]:
    """The three scored optimizers at 1.2B: delta in nats, P(better), and the plain rule "the gap of the last size"."""
    rows, found = marin(), []
    base = observations(rows.query("optimizer == 'adamw' and split == 'fit'"))
    for name in SCORED:
        idea = rows[rows["optimizer"] == name]
        for multiple in (1, 2, 4, 8):
            at = rows[rows["chinchilla_mult"] == multiple].pivot(index="size", columns="optimizer", values="loss")
            truth, last = (float(at[name][size] - at["adamw"][size]) for size in ("1.2b", "520m"))
            n = 1207959552.0
            verdict = compare(
                base, observations(idea.query("split == 'fit'")), Target(params=n, tokens=20 * n * multiple)
            )
            found.append({
                "idea": name, "tokens_per_param": 20 * multiple, "truth": truth, "delta": verdict.delta.to_json(),
                "probability_better": verdict.probability_better, "verdict": verdict.verdict, "last_gap": last,
                "error": verdict.delta.median - truth, "brier": (verdict.probability_better - (truth < 0)) ** 2,
                "inside_90": verdict.delta.holds(truth),
            })  # fmt: skip
            print(
                f"{name:<7} {multiple}x: {verdict.delta} true {truth:.4f}, last gap {last:.4f}: {verdict}", flush=True
            )
    return found


def observations(rows: pd.DataFrame) -> Observations:
    """Rows of marin as Observations."""
    n, d = rows["n_params"].to_numpy(float), rows["tokens"].to_numpy(float)
    return Observations(loss=rows["loss"].to_numpy(float), params=n, tokens=d, flops=6 * n * d)


def by_idea(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean absolute error in nats and Brier score of each idea and of all."""
    frame = pd.DataFrame(rows)
    groups = [*frame.groupby("idea"), ("all", frame)]
    return {
        str(name): {
            "n": len(group), "error": float(group["error"].abs().mean()), "brier": float(group["brier"].mean()),
            "error_of_last_gap": float((group["last_gap"] - group["truth"]).abs().mean()),
            "inside_90": float(group["inside_90"].mean()),
        }
        for name, group in groups
    }  # fmt: skip


def learn(series: list[Series]) -> dict[str, Any]:
    """Log score of each variant by table, and the variant that the other tables would choose for each table."""
    scores = {}
    for name, changes in VARIANTS.items():
        scores[name] = held_out(series, replace(USUAL, **changes))["log_score"]
        print(f"{name:<12} {scores[name].mean():+.3f}  {scores[name].round(2).to_dict()}", flush=True)
    table = pd.DataFrame(scores)
    others = {name: str(table.drop(index=name).mean().idxmax()) for name in table.index}
    return {"log_score": table.mean().to_dict(), "by_table": table.T.to_dict(), "chosen_without": others}


def main() -> None:
    """Score, and compare beliefs where asked; writes benchmarks/results/verdicts.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", action="store_true", help="compare other beliefs too (several minutes)")
    args = parser.parse_args()
    series, rows = chosen_series(), scored()
    held = held_out(series, USUAL)
    print(held.round(3), held.drop(columns="cuts").mean().round(3), by_idea(rows), sep="\n")
    result = {"beliefs": asdict(USUAL), "marin": by_idea(rows), "rows": rows, "held_out": held.T.to_dict(),
              "held_out_mean": held.drop(columns="cuts").mean().to_dict(), "series": len(series)}  # fmt: skip
    print(write("verdicts", result | ({"learning": learn(series)} if args.learn else {})))


if __name__ == "__main__":
    main()
