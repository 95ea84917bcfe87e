"""The process that runs a study killed with SIGKILL again and again: seconds until the same command trains on.

Beside every fifth restart stands a start of the same command in a fresh store on the same machine right after it, for
most of what passes is Python importing torch. The study says itself when the first step of a pack is done, and of which
runs; a run that was recorded before a start and takes a step after it was redone.

    python -m benchmarks.restart --kills 50
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import windtunnel as wt
from benchmarks import kill
from benchmarks.common import write

BESIDE = 5  # restarts to one fresh start
TELLING = """

import json, os, time
from windtunnel.train.engine import Engine

_told = open(os.environ["RESTART_LOG"], "a", buffering=1)
_advance = Engine.advance


def _telling(self, state):
    trains = [self.pack.specs[member].key for member in state.alive]
    _advance(self, state)
    if not getattr(self, "restart_told", False):
        self.restart_told = True
        _told.write(json.dumps({"step": state.step, "at": time.time(), "trains": trains}) + "\\n")


Engine.advance = _telling
"""


def torment(
    folder: Path,
    *,
    kills: int,
    seed: int,
    tokens: int,
    corpus: str | None = None,
    told: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Kill a study `kills` times, each time once it has trained a little; `told` hears the count after each study."""
    draw = random.Random(seed)
    file = folder / "killed_study.py"
    file.write_text(kill.study_text(corpus, tokens) + TELLING)
    again, beside, redone, differences, studies, done_at_kill = [], [], 0, [], 0, []
    truth: dict[str, Any] = {}
    while len(again) < kills:
        store, studies, number = folder / f"store-{studies}", studies + 1, 0
        while True:
            recorded = set(_recorded(store))
            process, log, started = _started(file, store)
            if not _told(process, log, 1):
                break  # nothing was left to train
            seconds = _steps(log)[0]["at"] - started
            if number:
                again.append(seconds)
                if len(again) % BESIDE == 1:
                    beside.append((seconds, _fresh(file, folder / "fresh")))
            redone += len(recorded & {key for event in _steps(log) for key in event["trains"]})
            number += 1
            if len(again) >= kills:
                process.wait()
                break
            _kill(process, draw.uniform(0.0, 1.5))
            done_at_kill.append(len(_recorded(store)))
        truth = truth or kill.numbers(store)
        differences += kill.differing(truth, store)
        told(_result(again, beside, redone, differences, studies, done_at_kill, len(truth)))
    return _result(again, beside, redone, differences, studies, done_at_kill, len(truth))


def _result(
    again: list[float], beside: list[tuple[float, float]], redone: int, differences: list[str], studies: int,
    done_at_kill: list[int], runs: int,
) -> dict[str, Any]:  # fmt: skip
    fresh = [after for _, after in beside]
    return {
        "kills": len(again), "studies": studies, "runs of a study": runs, "runs redone": redone,
        "differences": differences, "recorded when killed": done_at_kill,
        "seconds to the next step": _spread(again), "seconds of a fresh start to its first step": _spread(fresh),
        "ratio": _spread([a / b for a, b in beside]),
        "within 5 s": sum(seconds <= 5 for seconds in again), "fresh within 5 s": sum(s <= 5 for s in fresh),
        "later than its fresh start, seconds": _spread([a - b for a, b in beside]),
    }  # fmt: skip


def _started(file: Path, store: Path) -> tuple[subprocess.Popen[bytes], Path, float]:
    log = store.with_suffix(".told")
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "windtunnel", "run", str(file), "--store", str(store), "--devices", "1"]
    with open(file.with_suffix(".log"), "ab") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env=kill.environment() | {"RESTART_LOG": str(log)}
        )
    return process, log, time.time()


def _told(process: subprocess.Popen[bytes], log: Path, steps: int) -> bool:
    """Wait for first steps of packs; False if the process ended without."""
    while len(_steps(log)) < steps:
        if process.poll() is not None:
            if process.returncode not in (0, 3):
                raise RuntimeError(f"the study ended with code {process.returncode}")
            return len(_steps(log)) >= steps
        time.sleep(0.005)
    return True


def _kill(process: subprocess.Popen[bytes], after: float) -> None:
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _fresh(file: Path, store: Path) -> float:
    """Seconds from the start of the command to the first step, in a store of its own."""
    process, log, started = _started(file, store)
    _told(process, log, 1)
    found = _steps(log)[0]["at"] - started
    _kill(process, 0.0)
    shutil.rmtree(store)
    return found


def _steps(log: Path) -> list[dict[str, Any]]:
    """The first step of each pack, as the study told it."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _recorded(store: Path) -> list[str]:
    return list(wt.Store(store).keys()) if store.exists() else []


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {"n": 0}
    tenths = statistics.quantiles(values, n=10) if len(values) > 1 else values * 9
    found = {"n": len(values), "median": statistics.median(values), "a tenth below": tenths[0],
             "a tenth above": tenths[-1], "least": min(values), "most": max(values)}  # fmt: skip
    return {name: round(value, 3) for name, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="kill the process that runs a study and time its next step")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=6144)
    args = parser.parse_args()

    def keep(result: dict[str, Any]) -> None:
        write("restart", result | {"seed": args.seed, "load average": os.getloadavg()[0]})

    with tempfile.TemporaryDirectory() as name:
        result = torment(Path(name), kills=args.kills, seed=args.seed, tokens=args.tokens, told=keep)
    print(json.dumps(result, indent=1))
    keep(result)
    return 1 if result["runs redone"] or result["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
