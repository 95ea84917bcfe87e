"""What the live view takes from the machine while fifty browsers look at a growing store for a minute.

Fifty clients ask for a study's page as its script does, when they are told to, each with the tag it has; a run is
recorded every two seconds, so pages change. Counted are the CPU seconds of the server's process (its share of a core is
what a study beside it can lose, with two cores or one) and its resident memory early and late. A loaded machine makes
answers late, not dear, so CPU time is told, not latency alone.

    python -m benchmarks.live_view [--seconds 60] [--clients 50] [--runs 1000]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from benchmarks.common import write
from windtunnel.store import Store

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the runs of the tests serve here

EVERY = 3.0  # seconds within which all clients come for the first time


def measured(seconds: float, clients: int, runs: int) -> dict[str, float]:
    """One minute of it: CPU share, memory, answers."""
    with served(runs) as (pid, port, store):
        return _watched(pid, port, store, seconds, clients, runs)


@contextmanager
def served(runs: int) -> Iterator[tuple[int, int, Store]]:
    """A server over a store of so many runs: its process, port and store."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        for seed in range(runs):
            add(store, seed)
        command = [sys.executable, "-m", "windtunnel", "report", "--serve", "127.0.0.1:0", "--store", store.where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline().rsplit(":", 1)[1].strip().rstrip("/"))
            try:
                yield server.pid, port, store
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(30)


@contextmanager
def clients_of(port: int, clients: int, looking: threading.Event) -> Iterator[dict[str, float]]:
    """That many clients, who look at the store's study while `looking` is set; their tally of answers."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as link:
        page = _get(link, "/", "")[1].split(b'href="study/')[1].split(b'"', 1)[0].decode()
    tally, ended = {"200": 0, "304": 0, "slowest": 0.0, "lost": 0}, threading.Event()
    threads = [
        threading.Thread(target=_client, args=(port, f"/study/{page}", EVERY * n / clients, looking, ended, tally))
        for n in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    if tally["lost"]:
        raise ConnectionError(f"{tally['lost']} of {clients} clients had no answer; the figures would be of fewer")


def grow(store: Store, first: int, until: float) -> int:
    """Record a run every two seconds until then; how many."""
    added = 0
    while time.monotonic() < until:
        add(store, first + added)
        added += 1
        time.sleep(max(0.0, min(2.0, until - time.monotonic())))
    return added


def _watched(pid: int, port: int, store: Store, seconds: float, clients: int, runs: int) -> dict[str, float]:
    until = time.monotonic() + seconds
    looking = threading.Event()
    looking.set()
    with clients_of(port, clients, looking) as tally:
        time.sleep(seconds / 4)
        before, memory, began = cpu(pid), _memory(pid), time.monotonic()
        added = grow(store, runs, until - 1)
        spent, span, later = cpu(pid) - before, time.monotonic() - began, _memory(pid)
    return {
        "clients": clients, "runs_at_first": runs, "runs_added": added, "seconds": span,
        "server_share_of_one_core": spent / span, "memory_mib_after_a_quarter": memory, "memory_mib_at_the_end": later,
        "answers": tally["200"] + tally["304"], "answers_with_a_page": tally["200"],
        "slowest_answer_s": tally["slowest"],
    }  # fmt: skip


def add(store: Store, seed: int) -> None:
    """Record one more run."""
    from test_store import run

    store.add(run(seed, labels={"study": "watched", "idea": "base", "stage": "ladder"}))


def _client(
    port: int, path: str, first: float, looking: threading.Event, ended: threading.Event, tally: dict[str, float]
) -> None:
    """As a browser: one connection, kept open while the server keeps it."""
    tag, waits, link = "", first, http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not ended.wait(waits):
        started, waits = time.monotonic(), EVERY
        if looking.is_set():
            try:
                status, _, tag, again = _get(link, path, tag)
                tally[str(status)] += 1
            except (OSError, KeyError):
                tally["lost"] += 1
                return
            tally["slowest"] = max(tally["slowest"], time.monotonic() - started)
            waits = again + random.random()
    link.close()


def _get(link: http.client.HTTPConnection, path: str, tag: str) -> tuple[int, bytes, str, float]:
    for _ in range(2):  # a server closes connections that were idle; the next look opens one again
        with suppress(http.client.RemoteDisconnected, ConnectionError):
            link.request("GET", path, headers={"If-None-Match": tag, "Accept-Encoding": "gzip" if tag else "identity"})
            answer = link.getresponse()
            again = float(answer.getheader("x-look-again") or EVERY)
            return answer.status, answer.read(), answer.getheader("etag") or "", again
        link.close()
    raise ConnectionError("the live view does not answer")


def cpu(pid: int) -> float:
    """CPU seconds of a process, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    found = measured(args.seconds, args.clients, args.runs)
    print(json.dumps(found, indent=1))
    write("live_view", found)


if __name__ == "__main__":
    main()
