"""Execute packs on this machine: in this process, or in worker processes of one thread each.

One thread a worker, because these packs are many small operations: two threads on one small operation are slower than
one, and a fixed count gives the same bits on every machine. Workers are fresh interpreters that get packs through a
pipe; when this process dies, however, their pipe closes and they stop. A worker that dies is replaced and its pack goes
on from its checkpoint, a few times: then the pack itself is what kills it. SIGTERM makes workers checkpoint and leave.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO, Any

import torch

from windtunnel.errors import InputError, Paused, Stopped
from windtunnel.launch.errand import refused
from windtunnel.launch.leave import GRACE_SECONDS, asked_to_leave, stopped_by_sigterm
from windtunnel.launch.one import Report, execute, sweep
from windtunnel.launch.sent import pickled
from windtunnel.launch.width import most_on_cores, most_rows
from windtunnel.launch.worker import LEFT
from windtunnel.store import Store
from windtunnel.train.loop import Progress
from windtunnel.train.pack import Pack

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# A step frees what the next one needs: glibc is told to keep up to 256 MiB of it instead of asking the system again,
# which took a tenth of a step at 14 thousand parameters and a fortieth at 130 thousand (measured, engine.py kept).
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
REPLACED = 2  # times that a worker that dies is replaced for one pack: three deaths are no accident (chosen)


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine. `devices` is the number of packs trained at once; None: one a GPU, or one a CPU core."""

    devices: int | None = None

    def __call__(
        self,
        packs: Sequence[Pack],
        store: Store,
        report: Report | None = None,
        finished: Callable[[Pack], None] | None = None,
    ) -> None:
        """Train and record all packs; `report` hears of steps and `finished` of packs, in this process.

        Raises Stopped on SIGTERM, and Paused where `report` does, after a checkpoint of every pack in flight.
        """
        sweep(store)
        most = 1 if store.in_memory else self.devices or default_devices()  # a worker would not see that store
        workers = min(most, len(packs))
        if workers < 1:
            return
        if workers == 1:
            _in_process(packs, store, report, finished)
        else:
            _Workers(workers, store, report, finished).train(packs)
            sweep(store)  # what a worker that was replaced left half-written

    def pack_rows(self, asked: int, store: Store, params: int) -> int:
        """Most rows of a pack, of so many of one shape and size that are asked."""
        devices = self.devices or default_devices()
        return most_rows(asked, devices) if device_of(0).type == "cuda" else most_on_cores(asked, devices, params)


def default_devices() -> int:
    """One a GPU; without one, one a CPU core this process may use."""
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def device_of(worker: int) -> torch.device:
    """The device of a worker: GPUs in turn, else the CPU."""
    return (
        torch.device("cuda", worker % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )


def _in_process(
    packs: Sequence[Pack], store: Store, report: Report | None, finished: Callable[[Pack], None] | None
) -> None:
    with _one_thread(), asked_to_leave() as stop:
        for pack in packs:
            execute(pack, store, device=device_of(0), report=report, stop=stop)
            if stop():
                raise Stopped
            if finished is not None:
                finished(pack)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Workers:
    """A few worker processes fed from one queue, each watched by a thread of this process."""

    def __init__(
        self, count: int, store: Store, report: Report | None, finished: Callable[[Pack], None] | None
    ) -> None:
        self.store, self.report, self.finished = store, report, finished
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.waiting: queue.Queue[Pack] = queue.Queue()
        self.latest: dict[str, Progress] = {}  # of each pack
        self.starting, self.ending = threading.Lock(), False  # no worker is started once they are being stopped
        self.processes = [_start(i) for i in range(count)]

    def train(self, packs: Sequence[Pack]) -> None:
        """Feed all packs; returns when every one is recorded, raises what stopped a worker."""
        for pack in packs:
            self.waiting.put(pack)
        threads = [threading.Thread(target=self._feed, args=(i,), daemon=True) for i in range(len(self.processes))]
        try:
            with stopped_by_sigterm():
                for thread in threads:
                    thread.start()
                self._listen(len(packs))
        except (Stopped, Paused):
            self._let_leave()
            raise
        finally:
            with self.starting:
                self.ending = True
            for process in self.processes:
                process.kill()
                process.wait()
            for thread in threads:
                thread.join()
            for process in self.processes:
                _close(process)

    def _let_leave(self) -> None:
        with self.starting:
            self.ending = True
        for process in self.processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def _listen(self, left: int) -> None:
        while left:
            kind, value = self.events.get()
            if kind == "progress" and self.report is not None:
                self.report(value)
            elif kind == "finished":
                left -= 1
                if self.finished is not None:
                    self.finished(value)
            elif kind == "stopped":
                raise value

    def _feed(self, index: int) -> None:
        try:
            self._set_up(index)
            while True:
                try:
                    pack = self.waiting.get_nowait()
                except queue.Empty:
                    return
                self._train(index, pack)
        except BaseException as error:  # whatever it is, the listening thread must hear of it
            self.events.put(("stopped", error))

    def _train(self, index: int, pack: Pack) -> None:
        """Have a worker train a pack; one that dies is replaced, and the pack goes on from its checkpoint."""
        for died in range(REPLACED + 1):
            process = self.processes[index]
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # a dead worker: following it says how it died
                _send(process.stdin, pack)
            if self._follow(process, pack):
                return
            how = _death(process.wait(), pack)
            if died == REPLACED or self.ending:
                raise InputError(
                    f"{how}, {died + 1} times. For SIGKILL the usual cause is lack of memory: train fewer packs at "
                    f"once (--devices). Finished runs are kept; run again to go on."
                )
            self._say(pack, f"{how}; another goes on from the pack's last checkpoint.")
            self._replace(index)

    def _replace(self, index: int) -> None:
        with self.starting:
            if self.ending:
                raise InputError("The workers were stopped.")
            _close(self.processes[index])
            self.processes[index] = _start(index)
        self._set_up(index)

    def _set_up(self, index: int) -> None:
        pipe = self.processes[index].stdin
        assert pipe is not None
        with suppress(BrokenPipeError):
            setup = {"sys.path": sys.path, "store": self.store.where, "worker": index, "workers": len(self.processes)}
            _send(pipe, setup)

    def _follow(self, process: subprocess.Popen[bytes], pack: Pack) -> bool:
        """Pass on what a worker tells of a pack; False if it died."""
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                return False  # it died in the middle of a word
            event = json.loads(line)
            if "progress" in event:
                self.latest[pack.key] = Progress(**event["progress"])
                self.events.put(("progress", self.latest[pack.key]))
            elif "finished" in event:
                self.events.put(("finished", pack))
                return True
            elif (refusal := refused(event)) is not None:
                raise refusal
            else:
                raise RuntimeError(event["error"])
        if process.wait() == LEFT:
            raise Stopped
        return False

    def _say(self, pack: Pack, sentence: str) -> None:
        """A sentence of this process about a pack, on the way that the pack's own take."""
        last = self.latest.get(pack.key) or Progress(pack.key, 0, 1, {}, 0.0)
        self.events.put(("progress", replace(last, said=(sentence,))))


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was not yet read by the worker goes nowhere
                pipe.close()


def _death(code: int, pack: Pack) -> str:
    how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"A worker {how} while training {len(pack.specs)} runs at {pack.rung}"


def _start(index: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "windtunnel.launch.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a ctrl-C reaches this process only, which stops its workers itself
        env=KEEPS_MEMORY | os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _send(pipe: IO[bytes], message: Any) -> None:
    data = pickled(message)
    pipe.write(len(data).to_bytes(8, "little") + data)
    pipe.flush()
