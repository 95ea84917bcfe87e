"""Do intervals still hold where they decide how much of the ladder is trained, and what is saved?

    python -m benchmarks.stopping [--draws 200] [--only worlds|tables]        # writes benchmarks/results/stopping.json

A study with a `half_width` buys rungs until its interval is narrow enough: whoever stops when an interval looks good
will find it too narrow more often than it says. So ladders are bought as a study buys them (`windtunnel.study.buying`;
here by steps in compute, there by sizes with all their horizons), and rung by rung for comparison, in exact worlds and
on the public tables, and the last interval is set beside a new run at the target. What the whole ladder's interval does
on the same draws stands beside it. By how much an interval that ends a ladder must be widened (`ENDS_LADDER`) is
learned from the tables: the least of STRETCHES with which such intervals hold as often as the whole ladder's; every
table is scored with what the others say too. The order was chosen on worlds of seeds below 1000, which are not drawn
here; no table had a part in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.common import write
from benchmarks.coverage import target_of
from benchmarks.scored import targets
from windtunnel.errors import InputError
from windtunnel.forecasts import fit
from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.forecasts.interval import Interval
from windtunnel.ladder import Target
from windtunnel.laws.noise import rungs
from windtunnel.laws.observations import Observations
from windtunnel.study.buying import FIRST, in_order
from windtunnel.worlds import draw_power_law, draw_ridge, draw_two_regimes

LEVEL, WANTED = 0.9, (0.01, 0.02, 0.03, 0.05)
STRETCHES = (1.0, 1.25, 1.5, 1.75, 2.0)
ORDER = "every other"
RUNS, FIRST_SEED = (8, 20), 1000
WORLDS: Mapping[str, Callable[..., Any]] = {
    "power law, path": partial(draw_power_law, design="path"),
    "power law, horizon": partial(draw_power_law, design="horizon"),
    "ridge, path": partial(draw_ridge, design="path"),
    "ridge, horizon": partial(draw_ridge, design="horizon"),
    "break inside the ladder": draw_two_regimes,
}
TABLES: Sequence[Callable[[], Iterator[tables.Series]]] = (
    tables.gadre, tables.porian_frontier, tables.porian_isoflop, tables.marin, tables.chinchilla, tables.olmo,
    tables.mu_scaling, tables.curves92, tables.gemstones, tables.oellm, tables.openathena, tables.misfitting,
    tables.nqs, tables.openclip, tables.colpret,
)  # fmt: skip


class Ladder:
    """Runs with their rungs and price, and what each part of them says of a target."""

    def __init__(self, runs: Observations, target: Target, truth: float) -> None:
        self.runs, self.target, self.truth = runs, target, truth
        self.label = rungs(runs)
        self.rungs = sorted(set(self.label.tolist()))
        self.said: dict[tuple[int, ...], tuple[Interval, bool] | None] = {}

    def says(self, kept: Sequence[int]) -> tuple[Interval, bool] | None:
        """The interval from some rungs and whether it is reliable; None where no law can be fitted."""
        key = tuple(sorted(kept))
        if key not in self.said:
            try:
                fitted = fit(self.runs.where(np.isin(self.label, key)), draws=100)
                self.said[key] = fitted.forecast(self.target, LEVEL).loss, fitted.reliable
            except InputError:
                self.said[key] = None
        return self.said[key]

    def price(self, kept: Sequence[int]) -> float:
        """The share of the whole ladder's FLOPs."""
        flops = self.runs.flops if self.runs.flops is not None else self.runs.size
        return float(flops[np.isin(self.label, kept)].sum() / flops.sum())

    def bought(self, purchases: Sequence[Sequence[int]], wanted: float, stretch: float) -> list[int]:
        """The rungs that are bought until the interval, widened by `stretch`, is reliable and narrow enough."""
        kept: list[int] = []
        for some in purchases:
            kept = [*kept, *some]
            said = self.says(kept)
            if said is not None and said[1] and widened(said[0], stretch).half_width <= wanted:
                break
        return kept

    def rows(self, kind: str, name: str) -> Iterator[dict[str, Any]]:
        """One row for each order, stretch and half-width: what was paid, and whether the interval holds the truth."""
        whole = self.says(self.rungs)
        if whole is None or len(self.rungs) <= FIRST:
            return
        climbing = [self.rungs[:FIRST], *([rung] for rung in self.rungs[FIRST:])]
        for order, purchases in {ORDER: in_order(self.rungs), "climbing": climbing}.items():
            for stretch, wanted in product(STRETCHES, WANTED):
                kept = self.bought(purchases, wanted, stretch)
                said, early = self.says(kept), len(kept) < len(self.rungs)
                assert said is not None
                yield {
                    "kind": kind, "name": f"{kind} {name}", "order": order, "wanted": wanted, "stretch": stretch,
                    "early": early, "price": self.price(kept),
                    "held": widened(said[0], stretch if early else 1.0).holds(self.truth),
                    "whole held": whole[0].holds(self.truth),
                }  # fmt: skip


def widened(loss: Interval, stretch: float) -> Interval:
    """An interval with both its arms longer, in the logarithm of the loss."""
    low, high = (loss.median * (end / loss.median) ** stretch for end in (loss.low, loss.high))
    return Interval(loss.median, low, high, loss.level)


def of_worlds(draws: int) -> Iterator[dict[str, Any]]:
    """Ladders of exact worlds, a new run at the target each."""
    for kind, (name, draw) in enumerate(WORLDS.items()):
        for runs in RUNS:
            for seed in range(FIRST_SEED, FIRST_SEED + draws):
                generator = np.random.default_rng([seed, runs, kind])
                world = draw(generator, runs)
                seen = world.observations(generator)
                truth = float(seen.to_predict().loss[0])
                yield from Ladder(seen.to_fit(), target_of(world.ladder.target), truth).rows(name, f"{runs} {seed}")
            print(name, runs, flush=True)


def of_tables() -> Iterator[dict[str, Any]]:
    """Public series with enough rungs; the largest of the hidden runs is the target."""
    for table in TABLES:
        for series in table():
            hidden = series.observations.to_predict()
            hidden = hidden.where(np.array([int(np.argmax(hidden.size))]))
            ladder = Ladder(series.observations.to_fit(), targets(hidden)[0], float(hidden.loss[0]))
            yield from ladder.rows(series.table, series.name)
        print(table.__name__, flush=True)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Price and coverage of some ladders: of all, and of those that were not trained to their end."""
    early = [row for row in rows if row["early"]]
    found = {"ladders": len(rows), "price": mean(rows, "price"), "held": mean(rows, "held")}
    found |= {"whole_held": mean(rows, "whole held"), "early": len(early)}
    found["early_ladders"] = len({row["name"] for row in early})  # one may end early for several half-widths
    if early:
        found |= {"early_price": mean(early, "price"), "early_held": mean(early, "held")}
        found["early_whole_held"] = mean(early, "whole held")
    return found


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of one column."""
    return round(float(np.mean([row[name] for row in rows])), 4)


def told(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By order: for each stretch; and with the one in use for each half-width over all kinds, and for each kind."""
    found: dict[str, Any] = {}
    for order in dict.fromkeys(row["order"] for row in rows):
        mine = [row for row in rows if row["order"] == order]
        found[order] = {f"stretch {s:g}": summary([row for row in mine if row["stretch"] == s]) for s in STRETCHES}
        mine = [row for row in mine if row["stretch"] == ENDS_LADDER]
        by = {f"half-width {w:g}": [row for row in mine if row["wanted"] == w] for w in WANTED}
        by |= {kind: [row for row in mine if row["kind"] == kind] for kind in dict.fromkeys(r["kind"] for r in mine)}
        found[order] |= {name: summary(some) for name, some in by.items()}
    return found


def learned(rows: Sequence[Mapping[str, Any]]) -> float:
    """The least stretch with which intervals that end a ladder hold as often as the whole ladder's on the same runs."""
    for stretch in STRETCHES:
        early = [row for row in rows if row["early"] and row["stretch"] == stretch and row["order"] == ORDER]
        if mean(early, "held") >= mean(early, "whole held"):
            return stretch
    return STRETCHES[-1]


def left_out(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all tables say the stretch is, what all but one say, and how intervals of each table do with the latter."""
    tables = dict.fromkeys(row["kind"] for row in rows)
    by = {table: learned([row for row in rows if row["kind"] != table]) for table in tables}
    scored = [row for row in rows if row["order"] == ORDER and row["stretch"] == by[row["kind"]]]
    return {"learned": learned(rows), "without": by, "scored": summary(scored)} | resampled(rows)


def resampled(rows: Sequence[Mapping[str, Any]], times: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Series drawn anew: how often each stretch would be learned, and how often intervals that end a ladder hold with
    the one in use, 5 to 95 %."""
    by: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["early"] and row["order"] == ORDER:
            by.setdefault(row["name"], []).append(row)
    names, generator = list(by), np.random.default_rng(seed)
    stretches, shares = [], []
    for _ in range(times):
        some = [row for name in generator.choice(names, len(names)) for row in by[name]]
        stretches.append(learned(some))
        shares.append(mean([row for row in some if row["stretch"] == ENDS_LADDER], "held"))
    low, high = np.quantile(shares, [0.05, 0.95]).round(3).tolist()
    return {"held_5_to_95_percent": (low, high), "learned_share": {s: stretches.count(s) / times for s in STRETCHES}}


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="of each kind of world and number of runs")
    parser.add_argument("--only", choices=("worlds", "tables"))
    args = parser.parse_args()
    found: dict[str, Any] = {"level": LEVEL, "first_seed": FIRST_SEED, "draws": args.draws, "runs": RUNS}
    if args.only != "tables":
        found["worlds"] = told(list(of_worlds(args.draws)))
    if args.only != "worlds":
        rows = list(of_tables())
        found |= {"stretch": left_out(rows), "tables": told(rows)}
    write("stopping", found)


if __name__ == "__main__":
    main()
