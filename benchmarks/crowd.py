"""Many processes on one store: a fresh one opened by 32 at once, and one study run by two and by eight at once.

Processes are forked and let go together by a barrier, so that they meet in the making of the store, which is where
other tools fail (Optuna: 7 of 8 died on a fresh SQLite file). What counts: failures, records missing or twice, and how
often a pack was trained by more than one process.

    python -m benchmarks.crowd --times 50 --studies 3
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import windtunnel as wt

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the records of the tests serve here
EACH = 2  # records of its own that each process adds, beside one that all add


def openings(folder: Path, *, processes: int, times: int, locks: bool = True) -> dict[str, Any]:
    """Open and fill a fresh store from many processes at once, several times; `locks` False: on a mount without any."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["windtunnel.store", "numpy", "test_store"])
    failures: list[str] = []
    records = slowest = 0
    for turn in range(times):
        path, barrier, told = folder / f"fresh-{turn}", context.Barrier(processes), context.Queue()
        crowd = [context.Process(target=_fill, args=(path, i, barrier, told, locks)) for i in range(processes)]
        for process in crowd:
            process.start()
        for _ in crowd:
            said, seconds = told.get(timeout=600)
            failures += [said] if said else []
            slowest = max(slowest, seconds)
        for process in crowd:
            process.join()
        told.close()
        records += len(wt.Store(path).runs())
        failures += [f"{p} is left" for p in path.rglob(".*") if locks]
        failures += [] if len(wt.Store(path).forecasts()) == 1 else ["not one forecast"]
    expected = times * (processes * EACH + 1)
    return {"processes": processes, "times": times, "failures": failures, "records": records,
            "records expected": expected, "slowest seconds": round(slowest, 2)}  # fmt: skip


def without_locks() -> None:
    """Let every lock of this process be refused, as a network mount without a lock service does."""

    def refused(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = refused


def _fill(path: Path, index: int, barrier: Any, told: Any, locks: bool) -> None:
    try:
        if not locks:
            without_locks()
        from test_store import forecast, run

        barrier.wait()
        started = time.monotonic()
        store = wt.Store(path)
        store.add(run(0))
        for i in range(EACH):
            if not store.add(run(1 + index * EACH + i)):
                raise RuntimeError("a record of its own was there before")
        # days differ, as when a clock strikes midnight in the middle
        store.add_forecast(forecast(created=f"2026-01-{1 + index % 28:02}T00:00:00+00:00"))
        store.sweep()
        told.put(("", time.monotonic() - started))
    except BaseException as error:  # whatever it is, it is what this looks for
        told.put((repr(error), 0.0))


def studies(folder: Path, *, processes: int) -> dict[str, Any]:
    """Run one study from many processes at once; what each ended with, and what lies in the store."""
    from tiny import write_corpus

    from benchmarks.kill import compared, numbers, study_text

    corpus = folder / "corpus"
    if not corpus.exists():
        corpus.mkdir()
        write_corpus(corpus)
    file = folder / "killed_study.py"
    file.write_text(study_text(str(corpus), 1024))
    alone, store = folder / "alone", folder / f"together-{processes}-{time.monotonic_ns()}"
    if not alone.exists():
        _run(file, alone).wait()
    started = time.monotonic()
    crowd = [_run(file, store) for _ in range(processes)]
    codes = [process.wait() for process in crowd]
    return {"processes": processes, "codes": sorted(codes), "seconds": round(time.monotonic() - started, 1),
            "runs": len(numbers(store)), "differences": compared(numbers(alone), store)}  # fmt: skip


def _run(file: Path, store: Path) -> subprocess.Popen[bytes]:
    here = str(Path(wt.__file__).resolve().parents[1])
    command = [sys.executable, "-m", "windtunnel", "run", str(file), "--store", str(store), "--devices", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    with open(file.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def main() -> int:
    from benchmarks.common import write

    parser = argparse.ArgumentParser(description="many processes on one store")
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--studies", type=int, default=1, help="times that two, and eight, run one study")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opened = openings(folder, processes=args.processes, times=args.times)
        print(json.dumps(opened | {"failures": opened["failures"][:5]}))
        ran = [studies(folder, processes=count) for _ in range(args.studies) for count in (2, 8)]
        print(json.dumps(ran, indent=1))
    write("crowd", {"fresh store": opened, "one study": ran})
    wrong = opened["failures"] or opened["records"] != opened["records expected"]
    return 1 if wrong or any(each["differences"] or set(each["codes"]) - {0, 3} for each in ran) else 0


if __name__ == "__main__":
    sys.exit(main())
