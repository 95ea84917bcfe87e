"""How near to its budget a study stops, and how near the estimate said first comes to what the study then took.

Each round runs one study in a fresh store through `windtunnel run --budget`, stopped at three growing budgets and then
let through, in FLOPs or in device time, on one or two devices. What was spent is read from the store's own files.

    python -m benchmarks.budget --rounds 4
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import windtunnel as wt
from benchmarks.common import write
from benchmarks.kill import environment
from windtunnel.study.budget import Budget, Meter
from windtunnel.study.stages import Stages
from windtunnel.train import checkpoint

STUDY = '''\
"""Written by benchmarks/budget.py."""
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch

data = wt.data.text(context=32, validation=0.1, repeat=True)
study = wt.Study(
    name="budgeted",
    base=wt.recipes.transformer_mup_adamw(data=data).but(batch=FixedBatch(examples=8)),
    ladder=wt.Ladder.widths((16, 24, 32, 48), depth=1, tokens={tokens}, head_width=8, seeds=2),
    target=wt.Target(rung=wt.Rung(width=96, depth=1, heads=12, tokens={tokens})),
    tuning=wt.Tuning(points=5, seeds=2),
    judge=wt.Judge(data=data, tokens=4096, evaluations=4),
)
'''
SHARES = (0.2, 0.45, 0.75)


def round_of(folder: Path, seconds: bool, devices: int, tokens: int) -> dict[str, Any]:
    """One study through three budgets and to its end."""
    file, place = folder / "budgeted_study.py", folder / "store"
    file.write_text(STUDY.format(tokens=tokens))
    study = _loaded(file)
    foretold = study.plan(wt.Store(place)).flops
    total, stops = (foretold if not seconds else None), []
    said = _run(file, place, devices, "1s" if seconds else "1")  # the estimate is said, then it stops at once
    estimate = _minutes(said) * 60 * devices
    total = estimate if total is None else total
    for share in SHARES:
        amount = share * total
        if "The budget is spent" in _run(file, place, devices, f"{amount:.6g}s" if seconds else f"{amount:.6g}"):
            stops.append(_spent(study, wt.Store(place), seconds) / amount - 1)  # else the study was done before
    _run(file, place, devices, f"{1e9:.6g}s" if seconds else "1e18")
    flops, took = (_spent(study, wt.Store(place), s) for s in (False, True))
    return {
        "budget in": "seconds" if seconds else "FLOPs", "devices": devices, "device seconds": round(took, 1),
        "stopped at, over the budget": [round(s, 5) for s in stops],
        "FLOPs foretold / spent": round(foretold / flops, 4), "seconds foretold / spent": round(estimate / took, 3),
    }  # fmt: skip


def _run(file: Path, store: Path, devices: int, budget: str) -> str:
    command = ["run", str(file), "--store", str(store), "--devices", str(devices), "--budget", budget]
    done = subprocess.run(
        [sys.executable, "-m", "windtunnel", *command], env=environment(), capture_output=True, text=True
    )
    if done.returncode not in (0, 3, 4):
        raise RuntimeError(done.stderr[-2000:])
    return done.stderr


def _minutes(said: str) -> float:
    found = re.search(r"about (\S+) minutes on", said)
    assert found is not None, said
    return float(found[1])


def _loaded(file: Path) -> wt.Study:
    names: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names["study"]


def _spent(study: wt.Study, store: wt.Store, seconds: bool) -> float:
    """What records and the newest checkpoints cost."""
    meter, stages = Meter(Budget(1.0, seconds=seconds), study.name, store), Stages(study, store)
    state = stages.tuning("base")
    asked = [*state.asked, *stages.ladder("base", state.values)]
    asked += [ask for asks in stages.recheck("base", state.values).values() for ask in asks]
    found = meter.recorded
    for pack in stages.packs(asked):
        steps, took = checkpoint.spent(store.flight(pack.key))
        found += took if seconds else pack.size().training_flops(steps * pack.tokens_per_step())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="a study within budgets")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64_000)
    args = parser.parse_args()
    rounds = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            rounds.append(round_of(Path(name), bool(number % 2), 1 + number // 2 % 2, args.tokens))
        print(rounds[-1], "load", os.getloadavg()[0], flush=True)
        over = [abs(s) for r in rounds for s in r["stopped at, over the budget"]]
        result = {
            "stops": len(over), "within 1 %": sum(s <= 0.01 for s in over), "median distance": statistics.median(over),
            "farthest": max(over), "rounds": rounds, "load average": os.getloadavg()[0],
        }  # fmt: skip
        write("budget", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
