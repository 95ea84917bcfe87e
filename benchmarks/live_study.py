"""What a study loses of its throughput while fifty browsers look at its growing store.

A pack trains on the same core as the server of the live view, and the clients are on another, so that all the server
does is taken from the study: the most that a machine with that one core can lose. Spans with and without clients follow
each other, in an order drawn anew for each pair; without clients the server stands still. Told is the share that the
study loses of its steps in a second of the core's time, the study's and the server's together, so that what else runs
there does not count; by the clock; and the server's share of that core's time, which does not swing with the machine.

    python -m benchmarks.live_study [--pairs 10] [--span 60] [--clients 50] [--runs 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import interval, write
from benchmarks.live_view import clients_of, cpu, grow, served
from windtunnel.errors import InputError

STEPS = struct.Struct("q")


def measured(pairs: int, span: float, clients: int, runs: int, *, seed: int) -> dict[str, Any]:
    """The share lost, pair by pair, with its interval."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InputError("two cores are needed, one for the study and the server, one for the clients")
    order, added = random.Random(seed), 0
    lost, by_clock, alone, shares = [], [], [], []
    looking = threading.Event()
    with (
        served(runs) as (server, port, store), training() as (study, steps),
        clients_of(port, clients, looking) as tally, going_on(server),
    ):  # fmt: skip
        for process in (server, study):
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores[:1])
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[1:2])
        for pair in range(-1, pairs):  # the first is not counted: pages are built, the study gets past its start
            rates, clock = {}, {}
            for watched in order.sample((False, True), 2):
                (looking.set if watched else looking.clear)()
                time.sleep(2.0)  # nobody waits for an answer of a server that stands still
                os.kill(server, signal.SIGCONT if watched else signal.SIGSTOP)  # short spans would save it up for later
                before, began, busy = steps(), time.monotonic(), (cpu(study), cpu(server))
                added += grow(store, runs + added, began + span)
                done, seconds = steps() - before, time.monotonic() - began
                own, taken = cpu(study) - busy[0], cpu(server) - busy[1]
                rates[watched], clock[watched] = done / (own + taken), done / seconds
                if watched and pair >= 0:
                    shares.append(taken / (own + taken))
            if pair >= 0:
                lost.append(1 - rates[True] / rates[False])
                by_clock.append(1 - clock[True] / clock[False])
                alone.append(rates[False])
                said = f"{100 * lost[-1]:.2f} % of {alone[-1]:.1f} steps/s; the server took {100 * shares[-1]:.2f} %"
                print(f"{pair + 1} of {pairs}: {said}", flush=True)
    return {
        "clients": clients, "runs_at_first": runs, "runs_added": added, "span_s": span, "seed": seed, "answers": tally,
        "share_of_throughput_lost": interval(lost), "by_pair": lost, "by_the_clock": interval(by_clock),
        "servers_share_of_the_core": interval(shares),
        "steps_a_processor_second_alone": float(np.median(alone)),
    }  # fmt: skip


@contextmanager
def going_on(process: int) -> Iterator[None]:
    """At the end, however it comes, the process goes on if it was stopped: it is to be asked to leave."""
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def training() -> Iterator[tuple[int, Callable[[], int]]]:
    """A process that trains a pack on one thread: its number, and how many steps it has done."""
    with tempfile.NamedTemporaryFile() as counter:
        counter.write(STEPS.pack(0))
        counter.flush()
        command = [sys.executable, "-m", "benchmarks.live_study", "--train", counter.name]

        def steps() -> int:
            return int(STEPS.unpack(Path(counter.name).read_bytes())[0])

        with subprocess.Popen(command) as process:
            try:
                while steps() < 10:
                    if process.poll() is not None:
                        raise InputError("the study beside the server stopped; what it said stands above")
                    time.sleep(0.1)
                yield process.pid, steps
            finally:
                process.send_signal(signal.SIGKILL)


def train(counter: str) -> None:
    """Train a pack of 16 without end and write its steps to a file."""
    import torch

    from benchmarks.pack import pack_of
    from windtunnel import data, recipes
    from windtunnel.train.engine import Engine

    torch.set_num_threads(1)
    pack = pack_of(recipes.transformer_mup_adamw(data=data.stdlib(context=64)), 32, 16)
    engine = Engine(pack, torch.device("cpu"), True)
    state = engine.start()
    with open(counter, "r+b", buffering=0) as file:
        while True:
            engine.advance(state)
            file.seek(0)
            file.write(STEPS.pack(state.step))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--span", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(args.train)
    found = measured(args.pairs, args.span, args.clients, args.runs, seed=args.seed)
    print(json.dumps(found, indent=1))
    write("live_study", found)


if __name__ == "__main__":
    main()
