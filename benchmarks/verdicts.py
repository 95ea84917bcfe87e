"""How true are paired verdicts? Ideas beside their base in public tables: small sizes shown, the largest hidden.

    python -m benchmarks.verdicts [--learn]

The scored table is marin: Muon, NAdamW and SOAP minus AdamW at 1.2B parameters, shown 130M to 520M. `--learn` compares
beliefs (`windtunnel.forecasts.gap.Beliefs`) by how likely they make the hidden gaps of the other paired series, among
them marin's eight other optimizers but never the scored three. A newcomer would count pairs: cuts of one series share
their errors, so every figure is a mean over tables of means over cuts. The tables are never part of the project.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import write
from benchmarks.coverage import said_and_right
from benchmarks.paired import SCORED, chosen_series, cuts, marin
from windtunnel.forecasts.fit import fit
from windtunnel.forecasts.frame import Pace
from windtunnel.forecasts.gap import USUAL, Beliefs, fit_gap
from windtunnel.forecasts.pairs import Pairs
from windtunnel.forecasts.verdict import compare
from windtunnel.forecasts.worth import pace_of
from windtunnel.ladder import Target
from windtunnel.laws import Observations
from windtunnel.laws.law import Sizes

LEAST = -8.0  # log scores below this are one failure, not a dozen
VARIANTS: dict[str, dict[str, Any]] = {
    "as they are": {}, "flat": {"slope": 0.15}, "steep": {"slope": 0.5}, "slow": {"fade": 0.15}, "fast": {"fade": 0.4},
    "any fade": {"fade_spread": 1.3}, "quiet": {"noise": 0.1}, "loud": {"noise": 0.4},
    "any noise": {"noise_spread": 1.4}, "sure noise": {"noise_spread": 0.7}, "often drifts": {"still": 0.3},
    "no drift": {"still": 1.0}, "small drift": {"drifts": (0.02, 0.05, 0.15)}, "large drift": {"drifts": (0.1, 0.3, 1)},
    "near reach": {"reach": 2.0}, "far reach": {"reach": 6.0}, "large gaps": {"scale": 0.02},
    "normal tails": {"tail": 1000.0}, "heavier tails": {"tail": 2.5},
    "no across": {"across": 0.0}, "far across": {"across": 0.2},
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """One cut of a series: the pairs shown, the base's pace from its shown runs, and the hidden sizes and gaps."""

    table: str
    pairs: Pairs
    pace: Pace
    hidden: tuple[tuple[Sizes, float], ...]
    last: float

    @property
    def scale(self) -> float:
        """Root mean square of the gaps shown."""
        return float(np.sqrt(np.mean(self.pairs.gap**2)))


def cases() -> list[Case]:
    """Every cut of the chosen series."""
    found = []
    for s in chosen_series():
        for shown, hidden in cuts(s):
            sizes, gap = s.sizes(shown), s.gap[shown]
            known = {"params": sizes.params, "tokens": sizes.tokens, "flops": sizes.flops}
            base = fit(Observations(loss=s.loss[shown], **known).ordered())
            found.append(Case(
                s.table, Pairs(sizes, gap, np.arange(len(shown)), True), pace_of(base.laws, base.weights),
                tuple((s.sizes(i), float(s.gap[i])) for i in hidden),
                float(gap[np.argmax(s.params[shown] * s.tokens[shown])]),
            ))  # fmt: skip
    return found


def hidden_gaps(chosen: list[Case], beliefs: Beliefs) -> pd.DataFrame:
    """Every hidden gap, judged, with its table and cut."""
    rows = []
    for cut, case in enumerate(chosen):
        law = fit_gap(case.pairs, case.pace, beliefs)
        rows += [
            {"table": case.table, "cut": cut}
            | judged(law.at(sizes, noise=True), law.at(sizes), truth, case.last, case.scale)
            for sizes, truth in case.hidden
        ]
    return pd.DataFrame(rows)


def by_table(gaps: pd.DataFrame) -> pd.DataFrame:
    """Per table, over cuts: log score, error over the shown gaps' size, coverage, Brier; `last` shows no law at all."""
    cuts = gaps.drop(columns=["said", "true"]).groupby(["table", "cut"]).mean().groupby("table")
    return cuts.mean().assign(cuts=cuts.size())


def evenly(gaps: pd.DataFrame) -> np.ndarray:
    """A weight of each gap with which every table counts the same, and in it every cut."""
    in_cut = gaps.groupby(["table", "cut"])["cut"].transform("size").to_numpy(float)
    cuts = gaps.groupby("table")["cut"].transform("nunique").to_numpy(float)
    return 1 / (in_cut * cuts)


def judged(run: Any, expected: Any, truth: float, last: float, scale: float) -> dict[str, float]:
    """One hidden gap beside what was foretold; `said` is the probability that a pair of runs shows the idea ahead."""
    below = float(run.cdf(truth))
    return {
        "log_score": max(run.log_density(truth) + np.log(scale), LEAST),
        "error": abs(float(run.quantile(0.5)) - truth) / scale, "error_of_last_gap": abs(last - truth) / scale,
        **{f"inside_{level}": abs(below - 0.5) < level / 200 for level in (80, 90, 95)},
        "brier": (float(expected.cdf(0.0)) - (truth < 0)) ** 2, "said": float(run.cdf(0.0)),
        "true": float(truth < 0),
    }  # fmt: skip


def scored() -> list[dict[str, Any]]:
    """The three scored optimizers at 1.2B: delta in nats, P(better), and the plain rule "the gap of the last size".

    `inside_90` asks the interval of the expected gap, `pair_inside_90` that of the gap that one pair of runs shows.
    """
    rows, found = marin(), []
    base = observations(rows.query("optimizer == 'adamw' and split == 'fit'"))
    fitted = fit(base.ordered())
    for name in SCORED:
        idea = observations(rows.query("optimizer == @name and split == 'fit'"))
        for multiple in (1, 2, 4, 8):
            at = rows[rows["chinchilla_mult"] == multiple].pivot(index="size", columns="optimizer", values="loss")
            truth, last = (float(at[name][size] - at["adamw"][size]) for size in ("1.2b", "520m"))
            n, d = 1207959552.0, 20 * 1207959552.0 * multiple
            verdict = compare(base, idea, Target(params=n, tokens=d), base_fit=fitted)
            assert verdict.one_pair is not None
            found.append({
                "idea": name, "tokens_per_param": 20 * multiple, "truth": truth, "delta": verdict.delta.to_json(),
                "probability_better": verdict.probability_better, "verdict": verdict.verdict, "last_gap": last,
                "error": verdict.delta.median - truth, "brier": (verdict.probability_better - (truth < 0)) ** 2,
                "inside_90": verdict.delta.holds(truth),
                "pair_inside_90": verdict.one_pair.holds(truth),
            })  # fmt: skip
            print(
                f"{name:<7} {multiple}x: {verdict.delta} true {truth:.4f}, last gap {last:.4f}: {verdict.summary}",
                flush=True,
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
            "pair_inside_90": float(group["pair_inside_90"].mean()),
        }
        for name, group in groups
    }  # fmt: skip


def learn(chosen: list[Case]) -> dict[str, Any]:
    """Log score of each variant by table, and the variant that the other tables would choose for each table."""
    scores = {}
    for name, changes in VARIANTS.items():
        scores[name] = by_table(hidden_gaps(chosen, replace(USUAL, **changes)))["log_score"]
        print(f"{name:<12} {scores[name].mean():+.3f}  {scores[name].round(2).to_dict()}", flush=True)
    table = pd.DataFrame(scores)
    others = {name: str(table.drop(index=name).mean().idxmax()) for name in table.index}
    return {"log_score": table.mean().to_dict(), "by_table": table.T.to_dict(), "chosen_without": others}


def main() -> None:
    """Score, and compare beliefs where asked; writes benchmarks/results/verdicts.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learn", action="store_true", help="compare other beliefs too (several minutes)")
    args = parser.parse_args()
    chosen, rows = cases(), scored()
    gaps = hidden_gaps(chosen, USUAL)
    held = by_table(gaps)
    said = said_and_right(gaps["said"].to_numpy(), gaps["true"].to_numpy(), evenly(gaps))
    print(pd.DataFrame(said), held.round(3), held.drop(columns="cuts").mean().round(3), by_idea(rows), sep="\n")
    result = {"beliefs": asdict(USUAL), "marin": by_idea(rows), "rows": rows, "held_out": held.T.to_dict(),
              "held_out_mean": held.drop(columns="cuts").mean().to_dict(), "cases": len(chosen),
              "probability_better": said}  # fmt: skip
    print(write("verdicts", result | ({"learning": learn(chosen)} if args.learn else {})))


if __name__ == "__main__":
    main()
