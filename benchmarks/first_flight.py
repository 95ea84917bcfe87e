"""The first flight, repeated with other study seeds: how far off were the forecasts, how often did the interval hold?

    python -m benchmarks.first_flight [--seeds 5] [--store runs/first_flight_seeds]

Every study seed is an independent repeat with a store of its own: other initial values, other data order, tuned anew.
An interrupted benchmark goes on. Forecasts are those that were sealed before the target was trained.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import windtunnel as wt
from benchmarks.common import write
from windtunnel.cli.live import Plain
from windtunnel.launch.here import Here

sys.path.insert(0, str(Path(__file__).parent.parent / "studies" / "first_flight"))
from study import study


def row(seed: int, name: str, result: wt.Result) -> dict[str, Any]:
    """One recipe of one repeat: forecast, truth, error, whether each interval held."""
    forecast, score = result.forecasts[name], result.scores[name][0]
    inside = {f"{i.level:g}": i.holds(score.truth) for i in forecast.intervals}
    return {
        "seed": seed, "recipe": name, "forecast": forecast.loss.to_json(), "truth": score.truth,
        "relative_error": score.relative, "inside": inside, "reliable": forecast.reliable,
        "made_before": score.made_before, "lr": forecast.hyperparameters["lr"].to_json(),
        "transfer": {f: str(t) for f, t in result.transfers[name].items()}, "caveats": list(forecast.caveats),
    }  # fmt: skip


def main() -> None:
    """Run the repeats, print each forecast beside its truth and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--store", default="runs/first_flight_seeds")
    args = parser.parse_args()
    rows, verdicts, minutes = [], [], []
    for seed in range(args.seeds):
        began, store = time.monotonic(), wt.Store(Path(args.store) / f"seed-{seed}")
        result = replace(study, seed=seed).run(store, launcher=Here(), watch=Plain())
        minutes.append((time.monotonic() - began) / 60)
        for name in result.forecasts:
            rows.append(row(seed, name, result))
            print(f"seed {seed}, {name}: {result.scores[name][0]}", flush=True)
        for name, verdict in result.verdicts.items():
            base, idea = (result.scores[n][0].truth for n in ("base", name))
            verdicts.append({"seed": seed} | verdict.to_json() | {"true_delta": idea - base})
    summary = {name: summed([r for r in rows if r["recipe"] == name]) for name in study.recipes()}
    print(summary)
    print(write("first_flight", {"summary": summary, "rows": rows, "verdicts": verdicts, "minutes": minutes}))


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median absolute error and how many intervals held."""
    return {
        "n": len(rows),
        "median_absolute_relative_error": median(abs(r["relative_error"]) for r in rows),
        "inside": {level: sum(r["inside"][level] for r in rows) for level in rows[0]["inside"]},
        "median_90_width": median((r["forecast"]["high"] - r["forecast"]["low"]) / r["truth"] for r in rows),
    }


if __name__ == "__main__":
    main()
