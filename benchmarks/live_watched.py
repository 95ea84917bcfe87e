"""What fifty readers of a live page take from the study that trains beside it: steps a second with them and without.

A real study trains its target, one long run; `windtunnel report STUDY.py --serve` shows it. In turns of equal length
(with, without, without, with, ...) fifty clients ask for its page every three seconds, as its script does, or nobody
does. Compared are the steps of the two turns of a pair; the server runs throughout. On a machine that is busy with
other things a pair scatters by far more than the bar: the median and its interval say so, and the processor's seconds
of the server and of the readers say what was taken where.

    python -m benchmarks.live_watched [--pairs 12] [--seconds 15] [--clients 50]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import write
from benchmarks.live_view import _client, _cpu, _get, _memory

STUDY = """
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW

data = wt.data.text(context=64, repeat=True)
study = wt.Study(
    name="watched",
    base=wt.recipes.transformer_mup_adamw(data=data).but(
        optimizer=AdamW(lr=wt.tuned(2**-9, 2**-4)), batch=FixedBatch(examples=4)
    ),
    ladder=wt.Ladder.widths((16, 24, 32, 40), depth=2, head_width=8, tokens=20_000, seeds=2),
    target=wt.Target(rung=wt.Rung(width=96, depth=2, heads=12, tokens=50_000_000)),
    judge=wt.Judge(data=data, tokens=16_384, evaluations=1),
    tuning=wt.Tuning(points=3, seeds=1, recheck=0),
    train_target=True,
)
"""


class Counting:
    """Writes how many steps of the target were made, and when, wherever the study tells of its progress."""

    def __init__(self, file: Path) -> None:
        self.file, self.target = file, False

    def stage(self, name: str, packs: Any) -> None:
        self.target = name == "target"

    def progress(self, progress: Any) -> None:
        if self.target:
            aside = self.file.with_suffix(".new")
            aside.write_text(f"{progress.step} {time.monotonic()}")
            aside.replace(self.file)

    def finished(self, pack: Any) -> None: ...
    def say(self, sentence: str) -> None: ...


def train(folder: Path) -> None:
    """The study's own process: one device, one thread, until it is stopped."""
    from windtunnel.cli.shared import load_study
    from windtunnel.launch.here import Here
    from windtunnel.store import Store

    watch = Counting(folder / "steps")
    load_study(str(folder / "watched.py")).run(Store(folder / "store"), launcher=Here(devices=1), watch=watch)


def measured(pairs: int, seconds: float, clients: int) -> dict[str, Any]:
    """Start study and server, take the turns, and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "watched.py").write_text(STUDY)
        study = subprocess.Popen([sys.executable, "-m", "benchmarks.live_watched", "--train", name])
        try:
            _until_it_trains(study, folder, 600)
            command = [
                sys.executable,
                "-m",
                "windtunnel",
                "report",
                str(folder / "watched.py"),
                "--serve",
                "127.0.0.1:0",
            ]
            with subprocess.Popen(
                [*command, "--store", str(folder / "store")],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as server:
                try:
                    return _turns(study.pid, server, folder, pairs, seconds, clients)
                finally:
                    server.send_signal(signal.SIGINT)
                    server.wait(60)
        finally:
            study.kill()
            study.wait()


def _turns(study: int, server: Any, folder: Path, pairs: int, seconds: float, clients: int) -> dict[str, Any]:
    port = int(server.stdout.readline().rsplit(":", 1)[1].strip().rstrip("/"))
    page = _get(port, "/", "")[1].split(b'href="study/')[1].split(b'"', 1)[0].decode()
    _watch(port, page, seconds, clients)  # the first page is built before anything is counted
    taken: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(2 * pairs):
        watched = number % 4 in (0, 3)
        own, steps, began = {"study": _cpu(study), "server": _cpu(server.pid)}, _steps(folder), time.process_time()
        answers = _watch(port, page, seconds, clients) if watched else time.sleep(seconds) or {}
        spent = {name: _cpu(pid) - own[name] for name, pid in (("study", study), ("server", server.pid))}
        (made, at), (before, since) = _steps(folder), steps
        made -= before
        taken[watched].append({
            "steps_per_second": made / (at - since), "steps_per_cpu_second": made / spent["study"],
            "server_share_of_a_core": spent["server"] / seconds, "memory_mib": _memory(server.pid),
            "readers_share_of_a_core": (time.process_time() - began) / seconds, **answers,
        })  # fmt: skip
        print(f"{number + 1}/{2 * pairs} {'watched' if watched else 'alone  '} {taken[watched][-1]}", flush=True)
    return _compared(taken[True], taken[False], seconds, clients)


def _watch(port: int, page: str, seconds: float, clients: int) -> dict[str, float]:
    """Fifty clients for one turn; what they were answered."""
    tally: dict[Any, Any] = {200: 0, 304: 0, "slowest": 0.0}
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(port, f"/study/{page}", until - 1, n, clients, tally))
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, until - time.monotonic()))
    for thread in threads:
        thread.join()
    return {"answers": tally[200] + tally[304], "pages": tally[200], "slowest_answer_s": tally["slowest"]}


def _steps(folder: Path) -> tuple[int, float]:
    step, at = (folder / "steps").read_text().split()
    return int(step), float(at)


def _compared(
    with_: list[dict[str, float]], without: list[dict[str, float]], seconds: float, clients: int
) -> dict[str, Any]:
    """Median loss of throughput over pairs with a 90 % bootstrap interval, and what the processes took."""
    found: dict[str, Any] = {"clients": clients, "pairs": len(with_), "seconds_a_turn": seconds}
    draw = np.random.default_rng(0)
    for name in ("steps_per_second", "steps_per_cpu_second"):
        lost = np.array([1 - a[name] / b[name] for a, b in zip(with_, without, strict=True)])
        medians = np.median(draw.choice(lost, (4000, len(lost))), axis=1)
        low, high = np.quantile(medians, (0.05, 0.95))
        found[f"lost_{name}"] = {"median": float(np.median(lost)), "low": float(low), "high": float(high), "level": 0.9}
        found[f"{name}_alone"] = float(np.median([one[name] for one in without]))
    for name, turns in (("watched", with_), ("alone", without)):
        found[f"server_share_of_a_core_{name}"] = float(np.mean([one["server_share_of_a_core"] for one in turns]))
        found[f"readers_share_of_a_core_{name}"] = float(np.mean([one["readers_share_of_a_core"] for one in turns]))
    found["server_memory_mib"] = [round(one["memory_mib"], 1) for one in with_]
    found["answers"], found["pages"] = (int(sum(one[name] for one in with_)) for name in ("answers", "pages"))
    found["slowest_answer_s"] = max(one["slowest_answer_s"] for one in with_)
    found["load_of_the_machine"] = os.getloadavg()[1]
    return found


def _until_it_trains(study: Any, folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not (folder / "steps").exists():
        if study.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"The study has not begun its target (exit code {study.poll()}).")
        time.sleep(0.5)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train is not None:
        train(args.train)
        return
    found = measured(args.pairs, args.seconds, args.clients)
    print(json.dumps(found, indent=1))
    write("live_watched", found)


if __name__ == "__main__":
    main()
