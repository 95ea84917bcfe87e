"""What an answer costs: FLOPs and core seconds of windtunnel's way and of the usual one, replayed on the same runs.

    python -m benchmarks.answer [--store FOLDER] [--workers 1] [--searches 20] [--rates]

Asked: the base learning rate to 0.2 % of the loss, and the forecast of a larger model to 1 % at 95 %. Ours: tune at the
base width, carry the value up, one trunk with branches for each width and seed. The usual: an Optuna study (TPE, median
pruner) at every width, then a run of its own for every horizon. Every run that either buys is trained here once, by
windtunnel, and then both are replayed on what was measured (`answer_replay.py`): a newcomer would train each way apart,
and would measure two draws of the noise. Resumes from its store.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

import windtunnel as wt
from benchmarks import answer_rates
from benchmarks.answer_replay import Landscape, mean_of, ours, reached, regret_over, searched, summary
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
from benchmarks.common import write
from windtunnel.laws.law import Sizes
from windtunnel.runs import Run
from windtunnel.store import Store
from windtunnel.train.rows import apart_tokens
from windtunnel.tune import Tuning, coarse_values

BAR = 0.002  # of the loss, asked by the question
TRIALS = 40  # of an Optuna study that is never good: what it spent by then is a lower bound
EQUAL = 12  # runs that our tuning trains at the base (5 coarse, 5 fine with 2 seeds, 3 of them the same)
TARGET, LEVEL = 128, 0.95  # width of the model that is foretold, four times the ladder's top in parameters

ENDS = ("good", "equal")  # of a search; see `ended`
Work = dict[int, float]  # width to FLOPs


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


def ladder_flops(rate: float, horizons: Sequence[int], seeds: int) -> tuple[Work, Work]:
    """FLOPs at every width of a design's runs, with one trunk a width and seed, and trained apart."""
    packs = {width: packed([(width, t, rate, 0) for t in horizons], 1) for width in WIDTHS}
    apart = {w: seeds * pack.size().training_flops(apart_tokens(pack)) for w, pack in packs.items()}
    return {w: seeds * pack.training_flops() for w, pack in packs.items()}, apart


def recheck_flops(seeds: int) -> Work:
    """FLOPs of the transfer check: a value on either side at the middle of the wider rungs, with at most two seeds."""
    width = WIDTHS[1:][(len(WIDTHS) - 2) // 2]
    one = packed([(width, HORIZONS[0], RANGE.low, 0)], 1)
    return {width: 2 * Tuning().recheck * min(seeds, Tuning().seeds) * one.training_flops()}


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
            {"horizons": len(horizons), "seeds": seeds, "runs": len(chosen)} | half_widths(chosen)
            | {"trunk": shared, "apart": apart, "recheck": recheck_flops(seeds)}
        )  # fmt: skip
    return result


def half_widths(runs: Sequence[Run]) -> dict[str, float]:
    """Half-widths of the 95 % interval of the target's loss over its median: of one new run, of the expected loss."""
    size = recipe().model.size(rung(TARGET, HORIZONS[-1]), recipe().data.shape())
    fitted = wt.fit(runs)
    new = fitted.forecast(wt.Target(params=size.params, tokens=HORIZONS[-1]), level=LEVEL).loss
    at = Sizes(params=np.array([size.params], float), tokens=np.array([HORIZONS[-1]], float),
               flops=np.array([size.training_flops(HORIZONS[-1])], float))  # fmt: skip
    expected = fitted.predict(at, noise=False).interval(LEVEL, exponential=True)
    return {name: (i.high - i.low) / 2 / i.median for name, i in (("new_run", new), ("expected", expected))}


# both together


def tuning_bill(tuning: dict[str, Any]) -> dict[str, Any]:
    """(i) in short: FLOPs of the usual way over ours, which stops by itself; and who was good, how often.

    `checked` adds to ours the check at a larger width that the value transfers, as a study does by itself; its middle
    value is a run of the ladder.
    """
    usual, mine = tuning["usual"], tuning["ours_flops"]
    checked = mine + sum(recheck_flops(Tuning().seeds).values())

    def times(widths: Sequence[int], end: str, mine: float = mine) -> dict[str, float]:
        return summary([sum(ended(each[w], end) for w in widths) / mine for each in usual])

    return {
        "value": tuning["value"], "regret_percent": {w: 100 * r for w, r in tuning["regret"].items()},
        "ours_flops": mine, "ours_good_after_flops": tuning["ours_reached_flops"],
        "times_all_widths": {end: times(WIDTHS, end) for end in ENDS},
        "times_all_widths_checked": {end: times(WIDTHS, end, checked) for end in ENDS},
        "times_base_alone": {end: times(WIDTHS[:1], end) for end in ENDS},
        "usual_never_good": {w: sum(s[w]["reached"] is None for s in usual) for w in WIDTHS}, "searches": len(usual),
        "usual_regret_percent_equal_runs": {w: summary([100 * s[w]["equal_regret"] for s in usual]) for w in WIDTHS},
    }  # fmt: skip


def ended(search: dict[str, Any], end: str) -> float:
    """FLOPs of one search: `good` is once its best is good and stays so, which nobody can know (never: all it spent);
    `equal` is after as many runs as our tuning has."""
    return search["equal"] if end == "equal" else search["reached"] or search["all"]


def bills(tuning: dict[str, Any], design: dict[str, Any], speed: dict[int, dict[str, float]]) -> dict[str, Any]:
    """(ii) for one study and design: how many times our FLOPs and core seconds the usual way takes.

    The first horizon's run at the best value is the search's own and is not paid twice.
    """
    mine = [({WIDTHS[0]: tuning["ours_flops"]}, "tuning pack"), (design["recheck"], "tuning pack")]
    mine.append((design["trunk"], "trunk pack"))
    result: dict[str, Any] = {"ours_flops": flops_of(mine), "ours_core_seconds": seconds_of(mine, speed)}
    saved = {w: -tuning["one_run"][w] for w in WIDTHS}
    for end in ENDS:
        every = [[({w: ended(each[w], end) for w in WIDTHS}, "plain")] for each in tuning["usual"]]
        every = [[*search, (design["apart"], "plain"), (saved, "plain")] for search in every]
        result[end] = {
            "times_flops": summary([flops_of(work) / result["ours_flops"] for work in every]),
            "times_core_seconds": summary([seconds_of(w, speed) / result["ours_core_seconds"] for w in every]),
        }
    return result | {"times_flops_of_the_ladder_alone": sum(design["apart"].values()) / sum(design["trunk"].values())}


def flops_of(work: Sequence[tuple[Work, str]]) -> float:
    """All FLOPs."""
    return sum(sum(part.values()) for part, _ in work)


def seconds_of(work: Sequence[tuple[Work, str]], speed: dict[int, dict[str, float]]) -> float:
    """Core seconds, derived: FLOPs over the rate measured at that width in that way of training."""
    return sum(flops / speed[width][way] for part, way in work for width, flops in part.items())


def speeds() -> dict[int, dict[str, float]]:
    """FLOPs a core second at every width: plain loop, a tuning pack (six rows), a trunk of two seeds (two rows)."""
    found = {}
    for width in WIDTHS:
        six, two = (
            answer_rates.rates(packed([(width, HORIZONS[0], rate, 0) for rate in coarse_values(RANGE, rows)], 1))
            for rows in (6, 2)
        )
        plain = (six["plain"] + two["plain"]) / 2
        found[width] = {"plain": plain, "tuning pack": six["pack"], "trunk pack": two["pack"]}
        print(width, {way: f"{rate:.3g}" for way, rate in found[width].items()}, flush=True)
    return found


def answered(store: Store, workers: int, searches: int) -> dict[str, Any]:
    """Train what is missing, replay both ways and compare them, study by study."""
    packs = grids()
    found = landscapes(packs, trained(packs, store, workers))
    tuning = [tuned(found, study, searches) for study in range(STUDIES)]
    runs = [run for group in trained(trunks([each["value"] for each in tuning]), store, workers) for run in group]
    speed, studies = speeds(), []
    for study, each in enumerate(tuning):
        designed = [d | {"bill": bills(each, d, speed)} for d in forecasts(runs, study)]
        studies.append({"tuning": tuning_bill(each), "designs": designed})
        print(f"study {study}: {studies[-1]['tuning']}", flush=True)
    return {"flops_per_core_second": speed, "studies": studies}


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--searches", type=int, default=20)
    args = parser.parse_args()
    asked = {
        "widths": WIDTHS, "depth": DEPTH, "context": CONTEXT, "batch": BATCH, "horizons": HORIZONS, "points": POINTS,
        "range": (RANGE.low, RANGE.high), "judged_tokens": JUDGED, "evaluations": EVALUATIONS, "target_width": TARGET,
        "target_tokens": HORIZONS[-1], "bar": BAR, "level": LEVEL, "most_trials": TRIALS, "equal_runs": EQUAL,
    }  # fmt: skip
    store = Store(args.store or tempfile.mkdtemp(prefix="answer-"))
    print(write("answer", {"asked": asked} | answered(store, args.workers, args.searches)))


if __name__ == "__main__":
    main()
