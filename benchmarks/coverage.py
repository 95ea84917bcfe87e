"""Do the intervals hold, and does P(better) mean what it says, in worlds whose truth is known?

    python -m benchmarks.coverage [--draws 60] [--ideas 4800] [--seed 0] [--only "path"] [--out coverage]

For each kind of world and ladders of 5, 8 and 20 runs: the share of new runs at the target inside each interval,
errors, widths and seconds a fit; then verdicts on ideas of known worth. A newcomer would pool everything: a method that
covers on average can still be too narrow in one kind of world, so every kind has its own line. Breaks beyond the ladder
and targets starved of data cannot be foreseen; their lines are reported and counted in no total.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.common import write
from windtunnel.errors import InputError
from windtunnel.forecasts import compare, fit
from windtunnel.ladder import Target
from windtunnel.laws.law import Sizes
from windtunnel.worlds import DESIGNS, World, draw_idea, draw_power_law, draw_ridge, draw_two_regimes

LEVELS = (0.5, 0.8, 0.9, 0.95)
RUNS = (5, 8, 20)
UNFORESEEABLE = ("break beyond the ladder", "ridge, starved")
KINDS: Mapping[str, Callable[[np.random.Generator, int], World]] = {
    **{f"power law, {design}": partial(draw_power_law, design=design) for design in DESIGNS},
    **{f"ridge, {design}": partial(draw_ridge, design=design) for design in DESIGNS},
    "break inside the ladder": draw_two_regimes,
    UNFORESEEABLE[0]: partial(draw_two_regimes, beyond=True),
    UNFORESEEABLE[1]: partial(draw_ridge, starved=True),
}


def target_of(sizes: Sizes) -> Target:
    """The Target at sizes of one entry."""
    assert sizes.params is not None and sizes.tokens is not None
    return Target(params=float(sizes.params[0]), tokens=float(sizes.tokens[0]))


def foretell(world: World, generator: np.random.Generator) -> dict[str, float]:
    """One draw: where the new run fell in each interval, as a multiple of the interval's arm on that side."""
    runs = world.observations(generator)
    start = time.perf_counter()
    answer = fit(runs).forecast(target_of(world.ladder.target), 0.9)
    found = {"seconds": time.perf_counter() - start, "reliable": float(answer.reliable)}
    truth, median = np.log(runs.to_predict().loss[0]), np.log(answer.loss.median)
    expected = float(world.truth(world.ladder.target)[0])
    found["error"] = float(median - truth)
    found["bias"] = (answer.loss.median - expected) / world.fall
    for interval in answer.intervals:
        if interval.level in LEVELS:
            arms = np.log([interval.low, interval.high]) - median
            found[f"reach {interval.level:g}"] = float((truth - median) / (arms[1] if truth > median else -arms[0]))
            found[f"width {interval.level:g}"] = float(arms[1] - arms[0])
    return found


def summary(draws: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Coverage, errors and widths of many draws; `over_oracle` is the width over that which would just cover."""
    column = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    covered = {f"{level:g}": share(np.abs(column[f"reach {level:g}"]) <= 1) for level in LEVELS}
    just = float(np.quantile(np.abs(column["reach 0.95"]), 0.95))
    low, middle, high = np.quantile(column["bias"], [0.25, 0.5, 0.75]).tolist()
    return {
        "draws": len(draws),
        "coverage": covered,
        "missed_at_0.9": {"run_lower": share(column["reach 0.9"] < -1), "run_higher": share(column["reach 0.9"] > 1)},
        "median_error_percent": round(100 * float(np.median(np.abs(column["error"]))), 3),
        "error_over_fall": {"quarter": round(low, 3), "median": round(middle, 3), "three_quarters": round(high, 3)},
        "median_width_0.95_percent": round(100 * float(np.median(column["width 0.95"])), 3),
        "over_oracle": round(1 / just, 3),
        "reliable": share(column["reliable"] > 0),
        "seconds_per_fit": round(float(np.median(column["seconds"])), 3),
    }


def share(mask: np.ndarray) -> float:
    """The share that is true."""
    return round(float(np.mean(mask)), 4)


def decide(kind: str, runs: int, generator: np.random.Generator) -> dict[str, float]:
    """One idea judged: P(better) that was said, and whether it is better (0.5: exactly equal)."""
    idea = draw_idea(generator, runs, kind)
    base, changed = idea.observations(generator)
    verdict = compare(base, changed, target_of(idea.base.ladder.target))
    delta = float(idea.delta(idea.base.ladder.target)[0])
    return {
        "said": verdict.probability_better,
        "true": 0.5 if delta == 0 else float(delta < 0),
        "held": float(verdict.delta.low <= delta <= verdict.delta.high),
        "wrong": float((verdict.verdict == "helps" and delta >= 0) or (verdict.verdict == "hurts" and delta <= 0)),
        "sure": float(verdict.verdict in ("helps", "hurts")),
    }


def reliability(draws: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What was said against what was so, in bins of P(better) folded to the side that was said to win."""
    said, true = (np.array([draw[name] for draw in draws]) for name in ("said", "true"))
    return {
        "draws": len(draws),
        "brier": round(float(np.mean((said - true) ** 2)), 4),
        "delta_covered_at_0.9": share(np.array([draw["held"] for draw in draws]) > 0),
        "sure": share(np.array([draw["sure"] for draw in draws]) > 0),
        "sure_and_wrong": share(np.array([draw["wrong"] for draw in draws]) > 0),
        "bins": said_and_right(said, true),
    }


def said_and_right(said: np.ndarray, true: np.ndarray, weight: np.ndarray | None = None) -> list[dict[str, float]]:
    """Bins of a probability, folded to the side that was said to win: its mean, how often that side won, how many."""
    weight = np.ones(len(said)) if weight is None else weight
    right = np.where(said >= 0.5, true, 1 - true)
    said_right = np.maximum(said, 1 - said)
    edges = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0 + 1e-9]
    bins = [(said_right >= low) & (said_right < high) for low, high in pairwise(edges)]
    means = [
        (
            float(np.average(said_right[b], weights=weight[b])),
            float(np.average(right[b], weights=weight[b])),
            int(b.sum()),
        )
        for b in bins
        if b.any()
    ]
    return [{"said": round(s, 3), "right": round(r, 3), "n": n} for s, r, n in means]


def forecasts(draws: int, seed: int, only: str) -> dict[str, Any]:
    """The summary of every kind and ladder, and for each ladder of all power laws and of all that can be foreseen."""
    found: dict[str, Any] = {}
    for runs in RUNS:
        pool: dict[str, list[dict[str, float]]] = {"all power laws": [], "all foreseeable": []}
        for number, (kind, draw) in enumerate(KINDS.items()):
            if only not in kind:
                continue
            generator = np.random.default_rng([seed, runs, number])
            each = [foretell(draw(generator, runs), generator) for _ in range(draws)]
            pool["all power laws"] += each if kind.startswith("power law") else []
            pool["all foreseeable"] += each if kind not in UNFORESEEABLE else []
            found[f"{kind}, {runs} runs"] = told(f"{kind}, {runs} runs", summary(each))
        for name, each in pool.items():
            if each:
                found[f"{name}, {runs} runs"] = told(f"{name}, {runs} runs", summary(each))
    return found


def told(name: str, line: dict[str, Any]) -> dict[str, Any]:
    """The summary, after printing what is looked at first."""
    covered = " ".join(f"{level}:{value:.2f}" for level, value in line["coverage"].items())
    fall, missed = line["error_over_fall"]["median"], line["missed_at_0.9"]
    print(
        f"{name:34} n {line['draws']:4} cover {covered} | missed low {missed['run_lower']:.2f} high "
        f"{missed['run_higher']:.2f} | error {line['median_error_percent']:6.2f} %, bias/fall {fall:+.3f} | "
        f"width/oracle {line['over_oracle']:.2f} | {line['seconds_per_fit']:.2f} s",
        flush=True,
    )
    return line


def verdicts(draws: int, seed: int) -> dict[str, Any]:
    """P(better) against the truth for every kind of idea, and for all kinds that change something."""
    found: dict[str, Any] = {}
    pool: list[dict[str, float]] = []
    for number, kind in enumerate(("constant", "fading", "crossing", "none")):
        generator = np.random.default_rng([seed, 100 + number])
        each, refused = [], 0
        for _ in range(draws // 4):
            try:
                each.append(decide(kind, int(generator.choice(RUNS)), generator))
            except InputError:
                refused += 1
        found[kind] = reliability(each) | {"refused": refused}
        pool += each if kind != "none" else []
        print(kind, found[kind], flush=True)
    return found | {"all but none": reliability(pool)}


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=60, help="worlds of each kind and ladder")
    parser.add_argument("--ideas", type=int, default=4800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", default="coverage")
    args = parser.parse_args()
    result: dict[str, Any] = {"draws": args.draws, "ideas": args.ideas, "seed": args.seed}
    result["forecasts"] = forecasts(args.draws, args.seed, args.only) if args.draws else {}
    result["verdicts"] = verdicts(args.ideas, args.seed) if args.ideas else {}
    print(write(args.out, result))


if __name__ == "__main__":
    main()
