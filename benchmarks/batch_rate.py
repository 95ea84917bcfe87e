"""Batch size and learning rate on the digits' perceptron: the largest rate that trains, and what foretells it.

    python -m benchmarks.batch_rate [--part edges|below|curvature|ladder]

Check B1 of the plan: log-log slope of the largest rate that does not diverge against the batch, SGD 1 +- 0.2 up to its
plateau, Adam 0.5 +- 0.15, and the plateau from the measured eigenvalues right within a factor of 2. Every run has the
same examples (10 passes), as in the paper (2006.09092), so a small batch takes more steps. A newcomer would look for
NaN: cross-entropy rarely gives one, so each reading of "does not diverge" is reported. docs/batch-and-rate.md has the
table. Parts are kept in the result file, so each can be measured again alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import windtunnel as wt
from benchmarks import batch_rate_curvature, batch_rate_ladder, batch_rate_runs
from benchmarks.batch_rate_runs import BATCHES, BELOW, SEEDS
from benchmarks.common import RESULTS, write
from windtunnel.scaling.slopes import plain

BARS = {"sgd": (1.0, 0.2), "adam": (0.5, 0.15)}
FACTOR = 2.0


def edges() -> dict[str, Any]:
    """The largest rate of every batch, seed and reading, with the bend of each."""
    found: dict[str, Any] = {}
    for name in BARS:
        tables = batch_rate_runs.edges(name)
        found[name] = {
            reading: {"rates": table.tolist(), "bend": bend_of(table), "slope": whole(table), "rules": rules(table)}
            for reading, table in tables.items()
        }
        for reading, row in found[name].items():
            print(name, reading, row["bend"], row["slope"], flush=True)
    return found


def below(measured: dict[str, Any]) -> dict[str, Any]:
    """SGD's largest rates at batches below those of the check, and the bend of all batches together."""
    found: dict[str, Any] = {}
    for reading, table in batch_rate_runs.edges("sgd", BELOW, batch_rate_runs.GRID_BELOW).items():
        whole_table = np.concatenate([table, np.array(measured["sgd"][reading]["rates"])])
        sizes = (*BELOW, *BATCHES)
        inflated = wt.curvature.inflation(sizes, 2 / whole_table)
        found[reading] = {
            "batches": sizes, "rates": table.tolist(), "bend": bend_of(whole_table, sizes),
            "saturating": {"plateau": inflated.plateau, "low": inflated.plateau_low, "high": inflated.plateau_high,
                           "misfit": inflated.misfit},
            "local_slopes": (np.diff(np.log(whole_table).mean(axis=1)) / np.log(2)).tolist(),
        }  # fmt: skip
        print(reading, found[reading], flush=True)
    return found


def curvature(measured: dict[str, Any]) -> dict[str, Any]:
    """Eigenvalues of mini-batches along a safe run at every batch."""
    found: dict[str, Any] = {}
    for name in BARS:
        rates = np.exp(np.log(np.array(measured[name]["trains"]["rates"])).mean(axis=1))
        found[name] = {"points": batch_rate_curvature.along(name, dict(zip(BATCHES, rates / 8, strict=True)))}
        print(name, "measured along safe runs", flush=True)
    return found


def foretold(points: dict[str, Any]) -> dict[str, Any]:
    """What the points say of the largest rates, and where those bend."""
    found = {name: batch_rate_curvature.summary(name, each["points"]) for name, each in points.items()}
    for each in found.values():
        each["bends"] = {source: bend_of(np.array(table)) for source, table in each["foretold"].items()}
    return found


def verdicts(measured: dict[str, Any], predicted: dict[str, Any]) -> dict[str, Any]:
    """The bars of the plan beside what was measured, for every reading."""
    rows: dict[str, Any] = {}
    for name, (slope, bar) in BARS.items():
        for reading, row in measured[name].items():
            value = row["bend"]["slope"] if name == "sgd" else row["slope"]["value"]
            found = {"slope": value, "slope_met": value is not None and abs(value - slope) <= bar}
            if name == "sgd":  # Adam's rates rise over all batches, so that there is no plateau to be foretold
                found["plateau"] = row["bend"]["plateau"]
                halved = _half_point(2 / np.array(row["rates"]))
                found["half_point"] = halved  # the other definition of a plateau: where noise and the whole are equal
                for source, table in predicted[name]["foretold"].items():
                    value = _half_point(2 / np.array(table))
                    found[f"half_point_from_{source}"] = {"value": value, "factor": value / halved}
                for source, each in predicted[name]["bends"].items():
                    factor = each["plateau"] / row["bend"]["plateau"]
                    met = 1 / FACTOR <= factor <= FACTOR
                    found[f"plateau_from_{source}"] = {"value": each["plateau"], "factor": factor, "met": met}
            rows[f"{name} {reading}"] = found
    return rows


def from_below(found: dict[str, Any]) -> dict[str, Any]:
    """SGD's bar once more, with the batches below those of the check."""
    slope, bar = BARS["sgd"]
    return {
        f"sgd {reading}, from B = {BELOW[0]}": {
            "slope": row["bend"]["slope"], "slope_met": abs(row["bend"]["slope"] - slope) <= bar,
            "plateau": row["bend"]["plateau"],
        }
        for reading, row in found.items()
    }  # fmt: skip


def _half_point(eigenvalues: np.ndarray) -> float:
    return wt.curvature.inflation(BATCHES, eigenvalues).plateau


def bend_of(table: np.ndarray, batches: tuple[int, ...] = BATCHES) -> dict[str, Any] | None:
    """A rise and a plateau as plain data; None where a rate is missing."""
    if not np.all(np.isfinite(table)):
        return None
    found = wt.curvature.bend(batches, table)
    return {name: plain(getattr(found, name)) for name in (
        "slope", "slope_low", "slope_high", "plateau", "plateau_low", "plateau_high", "top", "misfit")}  # fmt: skip


def whole(table: np.ndarray) -> dict[str, Any]:
    """The slope over all batches, with its interval."""
    from windtunnel.scaling.slopes import slope_of

    return slope_of(BATCHES, table).to_json()


def rules(table: np.ndarray) -> dict[str, Any]:
    """How far the linear and the square-root rule reach from the smallest batch."""
    from windtunnel.scaling.rules import carry

    found = [wt.curvature.rule_reach(rule, BATCHES, table) for rule in (carry.linear, carry.square_root)]
    return {each.rule: {"until": each.until, "ended": each.ended, "off": each.off} for each in found}


def main() -> None:
    """Measure the parts asked for (all by default), keep the others, and write the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["edges", "below", "curvature", "ladder"], action="append")
    arguments = parser.parse_args()
    path = RESULTS / "batch_rate.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    result.pop("machine", None)
    parts: dict[str, Callable[[], Any]] = {
        "edges": edges,
        "below": lambda: below(result["edges"]),
        "curvature": lambda: curvature(result["edges"]),
        "ladder": batch_rate_ladder.measured,
    }
    for part in arguments.part or parts:
        begin = time.process_time()
        result[part] = parts[part]()
        result.setdefault("core_seconds", {})[part] = round(time.process_time() - begin)
        write("batch_rate", result)
    if "edges" in result and "curvature" in result:
        result["foretold"] = foretold(result["curvature"])
        result["verdicts"] = verdicts(result["edges"], result["foretold"]) | from_below(result.get("below", {}))
    result |= {"batches": BATCHES, "seeds": len(SEEDS), "passes": batch_rate_runs.PASSES}
    print(write("batch_rate", rounded(result)))


def rounded(value: Any) -> Any:
    """Plain data with six significant digits."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
