"""Ten thousand runs in one store: seconds to list them, with and without the cache of rows, and to open and read them.

Records are made without flushing each to disk, which is not what is measured. Every figure is the median of several
fresh processes, as wall seconds and as seconds of processor (of use on a machine that others share).

    python -m benchmarks.scale --runs 10000
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import windtunnel as wt

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the records of the tests serve here


def made(path: Path, count: int) -> None:
    """A store of so many runs."""
    from test_store import run

    store, flush = wt.Store(path), os.fsync
    os.fsync = lambda descriptor: None
    try:
        for seed in range(count):
            store.add(run(seed))
    finally:
        os.fsync = flush


def timed(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Wall and processor seconds of a fresh Python."""
    here = str(Path(wt.__file__).resolve().parents[1])
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"WINDTUNNEL_CACHE": str(cache), "PYTHONPATH": here}
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    from benchmarks.common import write

    parser = argparse.ArgumentParser(description="a store of many runs")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store, cache = Path(name) / "store", Path(name) / "cache"
        made(store, args.runs)
        listing = ["-m", "windtunnel", "runs", "--store", str(store)]
        read = f"import windtunnel as wt; wt.Store({str(store)!r})"
        result: dict[str, Any] = {"runs": args.runs, "times": args.times}
        asked = {
            "import alone": (["-c", "import windtunnel.store"], args.times),
            "open": (["-c", read], args.times),
            "list, no cache yet": (listing, 1),
            "list": (listing, args.times),
            "all runs with curves": (["-c", f"{read}.runs()"], 1),
        }
        for what, (arguments, times) in asked.items():
            walls, processor = zip(*(timed(arguments, cache) for _ in range(times)), strict=True)
            result[what] = {"wall seconds": round(statistics.median(walls), 2),
                            "processor seconds": round(statistics.median(processor), 2)}  # fmt: skip
        result["load average"] = os.getloadavg()[0]
    for what, found in result.items():
        print(f"{what}: {found}")
    write("scale", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
