"""Two studies started at once on one store with --on ray, and a pack's lock fought over by eight processes.

The promise: the second study joins the first, each pack is trained once, both end with the same answer. What is counted
is who held a lock at the same time as another, and which runs were trained although they were already recorded.

    python -m benchmarks.together --turns 10000 --keep
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import write
from benchmarks.kill import compared, numbers
from benchmarks.kill_ray import STUDY, _start

COUNTING = """

import os
from windtunnel.store import Store

if not hasattr(Store, "add_uncounted"):
    Store.add_uncounted = Store.add

    def add(self, run):
        fresh = self.add_uncounted(run)
        with open({log!r}, "a") as file:
            file.write(f"{{run.key}} {{fresh}}\\n")
        return fresh

    Store.add = add
"""
FIGHT = """
import os, sys
from pathlib import Path
from windtunnel.launch.one import locked
import windtunnel.launch.one as one
one.LOCK_SECONDS = 0.0005
folder, turns, overlaps = Path(sys.argv[1]), int(sys.argv[2]), 0
for turn in range(turns):
    name = str((turn * 7 + os.getpid()) % 4)
    with locked(folder / f"{name}.lock"):
        try:
            os.close(os.open(folder / f"{name}.held", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            overlaps += 1
        else:
            os.unlink(folder / f"{name}.held")
print(overlaps)
"""


def fight(folder: Path, turns: int, processes: int = 8) -> dict[str, Any]:
    """Take four locks `turns` times over by eight processes; how often two held the same one."""
    command = [sys.executable, "-c", FIGHT, str(folder), str(turns // processes)]
    path = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, env=path, text=True) for _ in range(processes)]
    overlaps = [int(rival.communicate()[0]) for rival in rivals]
    return {"processes": processes, "turns": turns // processes * processes, "overlaps": sum(overlaps)}


def together(folder: Path, tokens: int = 1024) -> dict[str, Any]:
    """Two studies at once on one store; what was trained twice, and what differs from one study alone."""
    file, log = folder / "killed_study.py", folder / "added.txt"
    file.write_text(STUDY.format(corpus=None, tokens=tokens) + COUNTING.format(log=str(log)))
    code = [_start(file, folder / "undisturbed", "here").wait()]
    log.unlink()
    began = time.monotonic()
    both = [_start(file, folder / "shared", "ray") for _ in range(2)]
    code += [study.wait() for study in both]
    lines = [line.split() for line in log.read_text().splitlines()]
    return {
        "exit_codes": code,  # 3: done, though a forecast fails its own backtest; this study is far too small for one
        "runs": len(numbers(folder / "undisturbed")),
        "recorded": sum(fresh == "True" for _, fresh in lines),
        "trained_twice": sum(fresh == "False" for _, fresh in lines),
        "differences": compared(numbers(folder / "undisturbed"), folder / "shared"),
        "seconds": round(time.monotonic() - began),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="two studies on one store, eight processes on one lock")
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/together.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {"locks": fight(Path(folder), args.turns), "studies": together(Path(folder))}
    if args.keep:
        write("together", result)
    print(result)
    studies = result["studies"]
    return 1 if result["locks"]["overlaps"] or studies["trained_twice"] or studies["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
