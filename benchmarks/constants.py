"""Learn the constants of `forecasts/constants.py` from public tables and exact worlds; score each table without itself.

    python -m benchmarks.constants            # prints the constants and writes benchmarks/results/constants.json

Every series is replayed once: members at every cut and at the hidden runs, with the pieces of their doubt. The width
constants then maximise the likelihood of the hidden runs under the interval's Student-t; every table counts by the
square root of its number of series, worlds together as much as all tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import stats
from scipy.optimize import minimize

from benchmarks import tables
from benchmarks.common import write
from windtunnel.forecasts.backtest import LARGEST, cuts_of
from windtunnel.forecasts.combine import mixed, pieces, variance
from windtunnel.forecasts.constants import LEARNED, Constants
from windtunnel.forecasts.members import Cuts, fit_cuts
from windtunnel.forecasts.stack import fall, weights_at
from windtunnel.laws import Observations
from windtunnel.laws.candidates import candidates
from windtunnel.laws.noise import rungs
from windtunnel.laws.observations import ALL_SIZES, with_flops
from windtunnel.laws.prepare import prepared
from windtunnel.worlds import draw_power_law, draw_ridge, draw_two_regimes

TABLES = (
    *(tables.gadre, tables.porian_frontier, tables.marin, tables.chinchilla, tables.olmo, tables.mu_scaling),
    *(tables.gemstones, tables.steplaw_best, tables.oellm, tables.openathena, tables.misfitting),
    *(tables.porian_isoflop, tables.curves92, tables.repeated, tables.nqs, tables.openclip, tables.sft, tables.colpret),
)
WIDTHS = ("noise", "law_error", "law_error_far", "parameters", "disagreement", "prior_cuts", "df")
BEFORE = (0.7, 0.03, 0.02, 0.4, 0.4, 4.0, 4.0)  # where the search begins and what it is weakly drawn to (a factor e)
WORLDS = 40  # of each kind and ladder


@dataclass(frozen=True, eq=False)
class Replay:
    """One series: members at every cut (the last hides what is to be foretold), true log losses and log sizes."""

    table: str
    cuts: Cuts
    truth: np.ndarray
    log_size: np.ndarray


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of the hidden runs of all series, flat: of backtests, then of what was truly hidden (`final_*`).

    A backtest's `error` (n,) belongs to `rung` -> `cut` -> `series`; `squares` (5, n) are the pieces of its doubt, and
    `cut_weight` what a cut counts.
    """

    error: np.ndarray
    squares: np.ndarray
    rung: np.ndarray
    cut: np.ndarray
    series: np.ndarray
    cut_weight: np.ndarray
    final_error: np.ndarray
    final_squares: np.ndarray
    final_series: np.ndarray
    count: int


def errors_of(replays: Sequence[Replay], c: Constants) -> Errors:
    """Errors with the stacking of `c`; a backtest never sees what is truly hidden."""
    past: dict[str, list] = {"error": [], "squares": [], "rung": []}
    last: dict[str, list] = {"error": [], "squares": [], "series": []}
    rung_cut, cut_series, cut_weight = [], [], []
    for number, replay in enumerate(replays):
        kept, label = replay.cuts.kept, replay.cuts.label
        for now, first in enumerate(kept):
            error, squares = foretold(replay, now, c)
            final = now == len(kept) - 1
            for rung in [kept[-1]] if final else range(first, kept[-1]):
                runs = np.flatnonzero(label == rung)
                into = last if final else past
                into["error"].append(error[runs])
                into["squares"].append(squares[:, runs])
                if final:
                    into["series"].append(np.full(len(runs), number))
                else:
                    into["rung"].append(np.full(len(runs), len(rung_cut)))
                    rung_cut.append(len(cut_series))
            if not final:
                cut_series.append(number)
                cut_weight.append(c.forget ** (len(kept) - 2 - now))
    return Errors(
        *(np.concatenate(past[name], axis=-1) for name in ("error", "squares", "rung")),
        np.array(rung_cut), np.array(cut_series), np.array(cut_weight),
        *(np.concatenate(last[name], axis=-1) for name in ("error", "squares", "series")),
        len(replays),
    )  # fmt: skip


def replayed(table: str, o: Observations) -> Replay:
    """Members at every cut and at the hidden runs."""
    known, hidden = prepared(o.to_fit()), with_flops(o.to_predict())
    names = [name for name in ("loss", *ALL_SIZES) if getattr(known, name) is not None]
    both = Observations(**{n: np.concatenate([getattr(known, n), getattr(hidden, n)]) for n in names})
    inside = rungs(known)
    top = int(inside.max())
    label = np.concatenate([inside, np.full(len(hidden), top + 1)])
    laws = candidates(known)
    cuts = fit_cuts(laws, both, label, [*cuts_of(laws, inside), top + 1])
    return Replay(table, cuts, np.log(both.loss), np.log(both.size))


def foretold(replay: Replay, now: int, c: Constants) -> tuple[np.ndarray, np.ndarray]:
    """Errors of every run at a cut (runs,), and the pieces of their doubt (5, runs)."""
    cuts = replay.cuts
    mean, doubt, apart = mixed(cuts.centre[now], cuts.doubt[now], weights_at(cuts, replay.truth, now, c))
    far = replay.log_size - replay.log_size[cuts.label < cuts.kept[now]].max()
    return replay.truth - mean, pieces(cuts.spread[now], fall(cuts, now), far, doubt, apart)


def deviations(errors: Errors, c: Constants) -> np.ndarray:
    """Standard deviation of every hidden run, stretched as `backtest.learned` does."""
    z = errors.error**2 / variance(errors.squares, c)
    by_rung = np.minimum(np.bincount(errors.rung, z) / np.bincount(errors.rung), LARGEST)
    by_cut = np.bincount(errors.cut, by_rung) / np.bincount(errors.cut)
    count = np.bincount(errors.series, errors.cut_weight, errors.count)
    total = np.bincount(errors.series, errors.cut_weight * by_cut, errors.count)
    stretch = np.sqrt((c.prior_cuts + total) / (c.prior_cuts + count)).clip(c.narrowest, c.widest)
    return stretch[errors.final_series] * np.sqrt(variance(errors.final_squares, c))


def by_series(errors: Errors, values: np.ndarray) -> np.ndarray:
    """Mean of a value over the hidden runs of each series."""
    return np.bincount(errors.final_series, values, errors.count) / np.bincount(
        errors.final_series, minlength=errors.count
    )


def learn(errors: Errors, weights: np.ndarray, start: Constants) -> Constants:
    """Width constants of greatest likelihood of the hidden runs, every series by its weight, weakly drawn to BEFORE."""

    def constants(logs: np.ndarray) -> Constants:
        return dataclasses.replace(start, **dict(zip(WIDTHS, np.exp(logs).tolist(), strict=True)))

    def loss(logs: np.ndarray) -> float:
        c = constants(logs)
        sd = deviations(errors, c)
        likelihood = by_series(errors, stats.t.logpdf(errors.final_error / sd, c.df) - np.log(sd))
        return 0.5 * float(np.sum((logs - np.log(BEFORE)) ** 2)) - float(weights @ likelihood)

    return constants(minimize(loss, np.log(BEFORE), method="Powell", options={"xtol": 0.01, "ftol": 1e-5}).x)


def worlds(count: int) -> Iterator[tuple[str, Observations]]:
    """Ladders of 5, 8 and 20 runs in exact worlds."""
    kinds = (("power law", draw_power_law), ("two regimes", draw_two_regimes), ("ridge", draw_ridge))
    for (kind, draw), runs in itertools.product(kinds, (5, 8, 20)):
        for i in range(count if kind != "ridge" else count // 4):
            generator = np.random.default_rng([i, runs, len(kind)])
            world = draw(generator, runs)
            yield f"world: {kind}, {runs} runs", world.observations(generator)


def weight(names: Sequence[str]) -> np.ndarray:
    """Root of the number of series for each table; all worlds together count as much as all tables together."""
    each = np.array([list(names).count(name) ** -0.5 for name in names])
    world = np.array([name.startswith("world") for name in names])
    each[world] *= each[~world].sum() / max(each[world].sum(), 1e-12)
    return each


def scores(errors: Errors, c: Constants) -> np.ndarray:
    """Of every series: error in %, coverage at 50, 80, 90, 95 %, half the 95 % width over the largest error."""
    sd, df = deviations(errors, c), c.df
    away = np.abs(errors.final_error)
    held = [by_series(errors, away < stats.t.ppf(0.5 + level / 2, df) * sd) for level in (0.5, 0.8, 0.9, 0.95)]
    largest = np.array([away[errors.final_series == i].max() for i in range(errors.count)])
    half = by_series(errors, stats.t.ppf(0.975, df) * sd)
    return np.stack([100 * by_series(errors, away), *held, half / np.maximum(largest, 1e-9)], axis=1)


def replay_all(count: int) -> list[Replay]:
    """All tables that are here, and `count` worlds of each kind."""
    jobs = [(s.table, s.observations) for table in TABLES for s in table()] + list(worlds(count))
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(replayed, *zip(*jobs, strict=True), chunksize=4))


def main() -> None:
    replays = replay_all(WORLDS)
    names = [each.table for each in replays]
    errors, weights = errors_of(replays, LEARNED), weight(names)
    everything = learn(errors, weights, LEARNED)
    print("learned from all:", {name: round(getattr(everything, name), 3) for name in WIDTHS})
    rows = {}
    for table in dict.fromkeys(names):
        own = np.array([name == table for name in names])
        # worlds are not left out of their own score: they are draws from one population
        c = everything if table.startswith("world") else learn(errors, weights * ~own, LEARNED)
        score = scores(errors, c)[own]
        held = dict(zip(("50", "80", "90", "95"), score[:, 1:5].mean(axis=0).round(4).tolist(), strict=True))
        rows[table] = {
            "series": len(score), "error_percent": round(float(score[:, 0].mean()), 4), "coverage": held,
            "half_width_95_over_largest_error": round(float(np.median(score[:, 5])), 3),
            "constants": {name: round(getattr(c, name), 4) for name in WIDTHS},
        }  # fmt: skip
        print(
            f"{table:30s} n={len(score):3d}",
            rows[table]["error_percent"],
            held,
            rows[table]["half_width_95_over_largest_error"],
        )
    if "--write" in sys.argv:
        used = {field.name: getattr(LEARNED, field.name) for field in dataclasses.fields(LEARNED)}
        result = {"learned": {name: getattr(everything, name) for name in WIDTHS}, "in_use": used, "tables": rows}
        write("constants", result)


if __name__ == "__main__":
    main()
