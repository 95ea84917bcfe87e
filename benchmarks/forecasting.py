"""The scored track record: every public table through the public API, one method and one set of constants for all.

    python -m benchmarks.forecasting            # writes benchmarks/results/forecasting.json and docs/track-record.md
    python -m benchmarks.forecasting --same     # runs again and fails unless all digits but seconds are the committed
    python -m benchmarks.forecasting --page     # runs nothing; writes the page from the JSON
    python -m benchmarks.forecasting --check    # runs nothing; fails unless the page shows what the JSON holds

The rows to fit are fitted, each hidden run is foretold, and its loss is looked at only then. A newcomer would ask
whether the constants of the intervals saw the scored tables: those in use were learned from most of them, so coverage
stands twice, once with the constants in use and once with constants learned without the table and its kin.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import beyond_loss, constants, tables
from benchmarks.common import RESULTS, write
from benchmarks.page import PAGE, page
from benchmarks.scored import Told, foretell, line, mean, over_series, rmsle, rounded
from windtunnel.errors import InputError
from windtunnel.forecasts.constants import LEARNED

PROCESSES = 2
# Tables that hold the same runs, or figures of the same paper; a table is scored without any of its kin.
KIN = (
    {"porian_frontier", "porian_frontier_train", "porian_isoflop"},
    {"chinchilla", "openathena", "misfitting"},
    {"olmo", "olmo_bpb"},
    {"repeated", "repeated_final"},
)
QUESTIONS = {
    "schedules": beyond_loss.schedules, "step_law": beyond_loss.step_law, "ideas": beyond_loss.ideas,
    "tasks": beyond_loss.tasks, "mixtures": beyond_loss.mixtures,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the record: which series (and hidden runs) it is about, the best known error in % and the bar.

    `inside`: the bar is that every hidden run lies inside its 95 % interval.
    """

    label: str
    table: str
    known: str = ""
    bar: float | None = None
    part: str = ""
    most_epochs: float = np.inf
    inside: bool = False

    def of(self, told: Sequence[Told]) -> list[Told]:
        """The forecasts that this line scores."""
        mine = [t for t in told if t.table == self.table and self.part in t.name]
        return mine if self.most_epochs == np.inf else [t.where(t.epochs <= self.most_epochs) for t in mine]


ROWS = (
    Row("Gadre, over-trained, C4", "gadre", "2.47 free, 0.95 tied", 0.75),
    Row("Porian frontier, validation", "porian_frontier", "1.94", 1.0),
    Row("Porian frontier, training", "porian_frontier_train"),
    Row("marin, 4 optimizers to 1.2B", "marin", "0.41", 0.35),
    Row("Chinchilla points", "chinchilla", "1.48", 1.2),
    Row("OLMo ladder to 3B, C4", "olmo", "1.03", 0.8, "-> 3B"),
    Row("OLMo ladder to 7B, 13B, C4", "olmo", "3.40", None, "-> 7B", inside=True),
    Row("OLMo ladder to 3B, task losses", "olmo_bpb", "", None, "-> 3B"),
    Row("OLMo ladder to 7B, 13B, task losses", "olmo_bpb", "2.10, 4.02, 1.37 by task", None, "-> 7B"),
    Row("Mu-scaling widths", "mu_scaling", "0.19"),
    Row("92 learning curves", "curves92", "3.67"),
    Row("repeated data", "repeated"),
    Row("repeated data, up to 60 epochs", "repeated", "6.7", 5.0, "", 60.0),
    Row("repeated data, last points to 8.7B", "repeated_final"),
    Row("Porian isoFLOP points", "porian_isoflop", "3.53"),
    Row("Gemstones, last checkpoints", "gemstones", "1.16 (all checkpoints)"),
    Row("Step Law, best of each grid", "steplaw_best", "0.93"),
    Row("OpenEuroLLM, best of each cell", "oellm"),
    Row("isoFLOP experiments of Open Athena", "openathena"),
    Row("misfitting sweeps", "misfitting"),
    Row("noisy quadratic system, batch sizes", "nqs", "4.20, 2.76 by design"),
    Row("CLIP zero-shot error", "openclip"),
    Row("fine-tuning loss", "sft"),
    Row("ColPret curves, 40 % shown", "colpret"),
)


def main() -> None:
    """Run, compare or check, as asked."""
    path = RESULTS / "forecasting.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    for name in ("same", "page", "check"):
        only.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args()
    if asked.check:
        fail_unless(PAGE.read_text() == page(*results()), f"{PAGE} does not show {path}")
        return
    if asked.page:
        PAGE.write_text(page(*results()))
        return
    found = json.loads(json.dumps(record()))  # as it will be read again
    if asked.same:
        fail_unless(digits(found) == digits(json.loads(path.read_text())), f"a second run differs from {path}")
        return
    write("forecasting", found)
    PAGE.write_text(page(*results()))
    print(PAGE.read_text())


def results() -> list[dict[str, Any]]:
    """What the page shows: the committed record, and the speeds of `benchmarks/speed.py`."""
    return [json.loads((RESULTS / f"{name}.json").read_text()) for name in ("forecasting", "speed")]


def record() -> dict[str, Any]:
    """Everything, in a fixed order, on two processes."""
    began = time.perf_counter()
    series = [each for table in tables.ALL for each in table()]
    with ProcessPoolExecutor(PROCESSES) as pool:
        asked = {name: pool.submit(timed, question) for name, question in QUESTIONS.items()}
        told = list(pool.map(foretell, series, chunksize=2))
        adapted = beyond_loss.adapted(pool.map)
        answers = {name: answer.result() for name, answer in asked.items()}
    without = left_out()
    ninety_two = [t for t in told if t.table == "curves92"]
    others = [t for t in told if t.table != "curves92"]
    split_by_others = [t for t in told if t.table != "colpret"]
    return {
        "tables": [scored(row, told, without) for row in ROWS],
        "curves92_rmsle": rmsle(ninety_two, lambda t: t.domain),
        "all_series": over_series(told) | over_left_out(told, without),
        "all_but_curves92": over_series(others) | over_left_out(others, without),
        "all_but_colpret": over_series(split_by_others) | over_left_out(split_by_others, without),
        "fine_tuning_with_named_laws": adapted,
        **answers,
        "refused": {f"{t.table}, {t.name}": t.refused for t in told if t.refused},
        "constants_in_use": {name: getattr(LEARNED, name) for name in constants.WIDTHS},
        "seconds": round(time.perf_counter() - began, 1),
    }


def timed(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer with the seconds it took."""
    began = time.perf_counter()
    return question() | {"seconds": round(time.perf_counter() - began, 2)}


def scored(row: Row, told: Sequence[Told], without: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    """One line of the main table; `without` as `left_out` returns it."""
    mine = row.of(told)
    found = line(mine)
    met = found["coverage_95"] == 1.0 if row.inside else None
    if row.bar is not None:
        met = bool(found["error_percent"] <= row.bar)
    bar = "inside 95 %" if row.inside else "-" if row.bar is None else f"{row.bar:g}"
    held = over_left_out(mine, without) if any((t.table, t.name) in without for t in mine) else {}
    return {"label": row.label, "table": row.table, "best_known": row.known, "bar": bar, "met": met} | found | held


LEFT_OUT = ("coverage_80_left_out", "coverage_95_left_out")


def left_out() -> dict[tuple[str, str], np.ndarray]:
    """Coverage at 80 and 95 % of each series that constants are learned from, learned without its table and its kin;
    and of each other series whose kin they are learned from.

    The widths are learned anew; how members are stacked, and the laws' beliefs, are not: those are no fits to tables.
    """
    seen = [(each.table, each.name) for table in constants.TABLES for each in table()]
    learned, akin = {table for table, _ in seen}, dict[tuple[str, str], constants.Replay]()
    for each in (each for table in tables.ALL for each in table()):
        if each.table not in learned and kin_of(each.table) & learned:
            with suppress(InputError):  # a series that is refused has no score either
                akin[each.table, each.name] = constants.replayed(each.table, each.observations)
    replays = constants.replay_all(constants.WORLDS)
    weights = np.append(constants.weight([replay.table for replay in replays]), np.zeros(len(akin)))
    replays += akin.values()
    keys = [*seen, *[(replay.table, "") for replay in replays[len(seen) : len(replays) - len(akin)]], *akin]
    names, errors = np.array([replay.table for replay in replays]), constants.errors_of(replays, LEARNED)
    found = {}
    for table in dict.fromkeys(name for name, _ in (*seen, *akin)):
        c = constants.learn(errors, weights * ~np.isin(names, list(kin_of(table))), LEARNED)
        held = constants.scores(errors, c)[:, [2, 4]]
        found |= {key: row for key, row in zip(keys, held, strict=True) if key[0] == table}
    return found


def kin_of(table: str) -> set[str]:
    """The table and those that hold runs of it, or figures of its paper."""
    return {table}.union(*(group for group in KIN if table in group))


def over_left_out(told: Sequence[Told], without: Mapping[tuple[str, str], np.ndarray]) -> dict[str, float]:
    """Mean coverage of series, each by constants that did not see its table (those in use, where none did)."""
    in_use = {(t.table, t.name): np.array([t.held(0.8), t.held(0.95)]) for t in told if not t.refused}
    rows = np.array([without.get(key, held) for key, held in in_use.items()])
    return dict(zip(LEFT_OUT, rounded([mean(column) for column in rows.T]), strict=True))


def digits(found: Any) -> Any:
    """The record without what may differ between two runs: the machine, the day, and seconds."""
    if isinstance(found, Mapping):
        return {k: digits(v) for k, v in found.items() if k != "machine" and not k.startswith("seconds")}
    return [digits(each) for each in found] if isinstance(found, list) else found


def fail_unless(right: bool, complaint: str) -> None:
    """Exit 1 with the complaint, or say that all is well."""
    print("as committed" if right else complaint)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
