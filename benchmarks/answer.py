"""What an answer costs: FLOPs and core seconds of windtunnel's way and of the usual one, replayed on the same runs.

    python -m benchmarks.answer [--store FOLDER] [--workers 1] [--searches 20] [--rates]

Asked: the base learning rate to 0.2 % of the loss, and the forecast of a larger model to 1 % at 95 %. Ours: tune at the
base width, carry the value up, one trunk with branches for each width and seed. The usual: an Optuna study (TPE, median
pruner) at every width, then a run of its own for every horizon. Every run that either buys is trained here once, by
windtunnel, and then both are replayed on what was measured (`answer_replay.py`): a newcomer would train each way apart,
and would measure two draws of the noise. Resumes from its store; `--rates` first, on a quiet core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

import windtunnel as wt
from benchmarks import answer_rates
from benchmarks.answer_bills import Speeds, bills, ladder_flops, recheck_flops, tuning_bill
from benchmarks.answer_replay import Landscape, mean_of, ours, reached, regret_over, searched
from benchmarks.answer_runs import (
    BATCH,
    CONTEXT,
    DEPTH,
    EVALUATIONS,
    HORIZONS,
    JUDGED,
    POINTS,
    RANGE,
    STUDIES,
    WIDTHS,
    grids,
    landscapes,
    packed,
    recipe,
    rung,
    seeds_of,
    trained,
    trunks,
)
from benchmarks.common import RESULTS, write
from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.laws.law import Sizes
from windtunnel.runs import Run
from windtunnel.store import Store
from windtunnel.study.buying import in_order
from windtunnel.train.precision import PRECISIONS
from windtunnel.tune import Tuning, coarse_values

BAR = 0.002  # of the loss, asked by the question
TRIALS = 40  # of an Optuna study that is never good: what it spent by then is a lower bound
EQUAL = 12  # runs that our tuning trains at the base (5 coarse, 5 fine with 2 seeds, 3 of them the same)
HALF_WIDTHS = (0.03, 0.04, 0.06)  # asked of a study that buys only what it needs, at LEVEL
TARGETS, LEVEL = (128, 192), 0.95  # widths of the models that are foretold, at the longest horizon


# tuning: what each way spent when its value was good, and stayed good


def tuned(found: dict[int, dict[int, Landscape]], study: int, searches: int) -> dict[str, Any]:
    """(i) for one study: FLOPs of both, and how good our one value is at every width."""
    regrets = {width: regret_over(mean_of(list(found[width].values()))) for width in WIDTHS}
    bought = ours(found[WIDTHS[0]], RANGE, seeds_of(study), Tuning())
    spent = reached(bought, regrets[WIDTHS[0]], BAR)
    theirs = [_searched(found, study, regrets, search) for search in range(searches)]
    return {
        "value": bought[-1][1], "regret": {w: regrets[w](bought[-1][1]) for w in WIDTHS},
        "ours_flops": bought[-1][0], "ours_reached_flops": spent, "usual": theirs,
        "one_run": {w: found[w][study].flops for w in WIDTHS},
    }  # fmt: skip


def _searched(
    found: dict[int, dict[int, Landscape]], study: int, regrets: dict[int, Any], search: int
) -> dict[int, dict[str, Any]]:
    """One Optuna study a width: FLOPs until its best is good (None: never), and after as many runs as ours has."""
    result = {}
    for width in WIDTHS:
        seed = 1000 * study + 10 * search + WIDTHS.index(width)
        bought = searched(found[width][study], RANGE, trials=TRIALS, seed=seed)
        spent, value = bought[EQUAL - 1]
        result[width] = {
            "reached": reached(bought, regrets[width], BAR), "all": bought[-1][0],
            "equal": spent, "equal_regret": regrets[width](value), "last_regret": regrets[width](bought[-1][1]),
        }  # fmt: skip
    return result


# forecast: what each way pays for the same ladder runs


def designs() -> list[tuple[tuple[int, ...], int]]:
    """Horizons and number of seeds, from few runs to many; beyond two a study borrows the other studies' seeds."""
    horizons = (HORIZONS[::3], (*HORIZONS[:2], HORIZONS[3]), HORIZONS)
    return [(h, seeds) for seeds in (1, 2, 2 * STUDIES) for h in horizons]


def forecasts(runs: Sequence[Run], study: int) -> list[dict[str, Any]]:
    """(ii) for one study: every design's half-widths at 95 % and what its ladder runs cost in both ways."""
    own = seeds_of(study)
    order = [*own, *(s for s in range(2 * STUDIES) if s not in own)]
    rate = next(run.spec.hyperparameters["lr"] for run in runs if run.spec.seed == own[0])
    result = []
    for horizons, seeds in designs():
        chosen = [run for run in runs if run.spec.rung.tokens in horizons and run.spec.seed in order[:seeds]]
        shared, apart = ladder_flops(rate, horizons, seeds)
        result.append(
            {"horizons": len(horizons), "seeds": seeds, "runs": len(chosen), "half_widths": half_widths(chosen)}
            | {"trunk": shared, "apart": apart, "recheck": recheck_flops(seeds)}
        )  # fmt: skip
    return result


def bought(runs: Sequence[Run], study: int, tuning: dict[str, Any], speed: Speeds) -> Iterator[dict[str, Any]]:
    """(ii) for one study that buys only the rungs it needs (`Study.half_width`), all horizons and one or two seeds.

    The usual way cannot tell which of the widths are needed: it is billed for all, and for those that ours bought.
    """
    own = seeds_of(study)
    rate = next(run.spec.hyperparameters["lr"] for run in runs if run.spec.seed == own[0])
    kept_by = parts()
    for seeds in (1, 2):
        shared, apart = ladder_flops(rate, HORIZONS, seeds)
        there = [run for run in runs if run.spec.seed in own[:seeds]]
        said = {
            kept: half_widths([run for run in there if run.spec.rung.width in kept], ended=kept != kept_by[-1])
            for kept in kept_by
        }
        for wanted in HALF_WIDTHS:
            kept = next((kept for kept, each in said.items() if _enough(each[TARGETS[0]], wanted)), WIDTHS)
            mine = {
                "recheck": recheck_flops(seeds, kept_by[0]),
                "trunk": {w: shared[w] for w in kept},
                "apart": apart,
            }
            yield {
                "wanted": wanted, "seeds": seeds, "widths": kept, "reached": said[kept][TARGETS[0]]["new_run"],
                "whole_ladder": said[kept_by[-1]][TARGETS[0]]["new_run"],
                "bill": bills(tuning, mine, speed), "bill_at_the_same_widths": bills(tuning, mine, speed, kept),
            }  # fmt: skip


def parts() -> list[tuple[int, ...]]:
    """The widths after each purchase of a study that wants a half-width."""
    purchases = in_order(WIDTHS)
    return [tuple(sorted(chain(*purchases[: count + 1]))) for count in range(len(purchases))]


def _enough(said: dict[str, Any], wanted: float) -> bool:
    return said["reliable"] and said["new_run"] <= wanted


def half_widths(runs: Sequence[Run], *, ended: bool = False) -> dict[int, dict[str, Any]]:
    """By the target's width, half of the 95 % interval over the median: of one new run, and of the expected loss.

    `ended`: the interval decides that no more of the ladder is trained, and is as much wider as a study's then is.
    """
    fitted, tokens = wt.fit(runs), HORIZONS[-1]
    fitted = replace(fitted, stretch=fitted.stretch * (ENDS_LADDER if ended else 1.0))
    found = {}
    for width in TARGETS:
        size = recipe().model.size(rung(width, tokens), recipe().data.shape())
        new = fitted.forecast(wt.Target(params=size.params, tokens=tokens), level=LEVEL).loss
        sizes = (size.params, tokens, size.training_flops(tokens))
        at = Sizes(**{n: np.array([float(v)]) for n, v in zip(("params", "tokens", "flops"), sizes, strict=True)})
        expected = fitted.predict(at, noise=False).interval(LEVEL, exponential=True)
        found[width] = {
            "params_over_top": size.params / max(run.size.params for run in runs), "foretold": new.median,
            "new_run": new.half_width, "expected": expected.half_width, "reliable": fitted.reliable,
        }  # fmt: skip
    return found


def speeds() -> Speeds:
    """FLOPs a core second, by precision and width: plain loop, a tuning pack (six rows), a trunk of two seeds (two)."""
    found: Speeds = {precision: {} for precision in PRECISIONS}
    for width in WIDTHS:
        six, two = (
            answer_rates.rates(packed([(width, HORIZONS[0], rate, 0) for rate in coarse_values(RANGE, rows)], 1))
            for rows in (6, 2)
        )
        for precision, ways in found.items():
            plain = (six[precision]["plain"] + two[precision]["plain"]) / 2
            ways[width] = {"plain": plain, "tuning pack": six[precision]["pack"], "trunk pack": two[precision]["pack"]}
            print(width, precision, {way: f"{rate:.3g}" for way, rate in ways[width].items()}, flush=True)
    return found


def earlier_speeds() -> Speeds:
    """What `--rates` measured; empty where nothing was."""
    path = RESULTS / "answer.json"
    kept = json.loads(path.read_text()).get("flops_per_core_second", {}) if path.is_file() else {}
    return {precision: {int(width): ways for width, ways in kept[precision].items()} for precision in kept}


def answered(store: Store, workers: int, searches: int) -> dict[str, Any]:
    """Train what is missing, replay both ways and compare them, study by study."""
    packs = grids()
    found = landscapes(packs, trained(packs, store, workers))
    tuning = [tuned(found, study, searches) for study in range(STUDIES)]
    runs = [run for group in trained(trunks([each["value"] for each in tuning]), store, workers) for run in group]
    speed, studies = earlier_speeds() or speeds(), []
    for study, each in enumerate(tuning):
        designed = [d | {"bill": bills(each, d, speed)} for d in forecasts(runs, study)]
        studies.append({"tuning": tuning_bill(each, speed), "designs": designed})
        studies[-1]["bought"] = list(bought(runs, study, each, speed))
        print(f"study {study}: {studies[-1]['tuning']}", flush=True)
    return {"flops_per_core_second": speed, "branch_minus_run_apart": differences(found, runs), "studies": studies}


def asked() -> dict[str, Any]:
    """The question in numbers."""
    return {
        "widths": WIDTHS, "depth": DEPTH, "context": CONTEXT, "batch": BATCH, "horizons": HORIZONS, "points": POINTS,
        "range": (RANGE.low, RANGE.high), "judged_tokens": JUDGED, "evaluations": EVALUATIONS, "target_widths": TARGETS,
        "target_tokens": HORIZONS[-1], "bar": BAR, "level": LEVEL, "most_trials": TRIALS, "equal_runs": EQUAL,
    }  # fmt: skip


def differences(found: dict[int, dict[int, Landscape]], runs: Sequence[Run]) -> list[float]:
    """Loss of every branch whose rate lies on the grid, less that of the same run without a trunk."""
    result = []
    for run in runs:
        grid, rate = found[run.spec.rung.width].get(run.spec.seed), run.spec.hyperparameters["lr"]
        if run.loss is not None and grid and run.spec.rung.tokens == HORIZONS[0] and rate in grid.rates:
            result.append(run.loss - grid.at(rate))
    return result


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--rates", action="store_true", help="measure and write only the FLOPs a core second")
    args = parser.parse_args()
    if args.rates:
        print(write("answer", {"flops_per_core_second": speeds()}))
        return
    store = Store(args.store or tempfile.mkdtemp(prefix="answer-"))
    print(write("answer", {"asked": asked()} | answered(store, args.workers, args.searches)))


if __name__ == "__main__":
    main()
