"""The process that speaks to Ray: errands come in on standard input, events go out on standard output as JSON lines.

Started by `ray.py` only. A task whose worker dies is given to another, which goes on from the pack's checkpoint; Ray's
own retries are off, because they count deaths and not whether the pack got further. When the pipe closes (the study
ended, or was killed) this process leaves the cluster, and the cluster kills the tasks of a driver that is gone.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import shutil
import sys
import threading
import time
import traceback
from collections import deque
from pathlib import Path
from typing import IO, Any

from windtunnel.errors import InputError
from windtunnel.launch.deaths import Deaths, gave_up, not_connected
from windtunnel.launch.errand import Heard, refusal, refused, told

POLL_SECONDS = 0.3
HANG_SECONDS = 10.0  # after the pipe closed, Ray may take this long to shut down (measured: 1 to 2 s)
OBJECT_STORE_BYTES = 100 * 2**20  # of a cluster of our own: packs are sent as small arguments, nothing large is kept


def train_there(path: list[str], sent: dict[str, Any]) -> dict[str, Any]:
    """What a Ray worker calls. Pickled whole, since this module is __main__: a worker finds windtunnel by `path`."""
    import sys

    sys.path[:0] = [place for place in path if place not in sys.path]
    from windtunnel.launch.errand import perform

    return perform(sent)


class Tasks:
    """The errands of one launch, on a cluster that this process is connected to."""

    def __init__(self, asked: dict[str, Any], events: IO[str], gone: threading.Event) -> None:
        self.asked, self.events, self.gone = asked, events, gone
        self.store, self.deaths, self.heard = Path(asked["store"]), Deaths(Path(asked["store"])), Heard()
        self.waiting = deque(asked["errands"])
        self.running: dict[Any, dict[str, Any]] = {}
        self.room = _room()

    def run(self) -> None:
        """Submit, wait, resubmit; until all errands are done or the study is gone."""
        import ray

        limit = self.asked["devices"] or len(self.waiting)
        while (self.waiting or self.running) and not self.gone.is_set():
            while self.waiting and len(self.running) < limit:
                self._submit(self.waiting.popleft())
            done, _ = ray.wait(list(self.running), num_returns=1, timeout=POLL_SECONDS)
            for task in done:
                self._settle(self.running.pop(task), task)
            for errand in self.running.values():
                self._tell_progress(errand["key"], told(self.store, errand["key"]))

    def _submit(self, errand: dict[str, Any]) -> None:
        import ray

        task = ray.remote(train_there).options(
            name=f"windtunnel {errand['says']}",
            num_cpus=1,
            num_gpus=1 if self.room["GPU"] else 0,
            # an estimate above any node's memory takes the largest node whole, rather than wait for ever
            memory=int(min(errand["memory"], self.room["memory"])),
            max_retries=0,
        )
        self.running[task.remote(self.asked["path"], errand["sent"])] = errand

    def _settle(self, errand: dict[str, Any], task: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer: dict[str, Any] = ray.get(task)  # type: ignore[assignment]
        except RayTaskError as error:  # not even windtunnel could be imported there
            raise InputError(
                f"A Ray worker could not begin to train: {_last_line(error)}. Every node needs the same Python and the "
                f"same windtunnel[train] as this machine, and the store's folder at the same path."
            ) from error
        except RayError as error:
            self._died(errand, error)
            return
        if "finished" in answer:
            self._tell_progress(errand["key"], answer["finished"])
            tell(self.events, finished=errand["key"])
        elif (refusal_there := refused(answer)) is not None:
            raise refusal_there
        else:
            raise RuntimeError(answer.get("error", answer))

    def _died(self, errand: dict[str, Any], error: Exception) -> None:
        how = f"{type(error).__name__}"
        print(f"{time.ctime()}: a worker died training {errand['says']}: {error}", file=sys.stderr, flush=True)
        if not self.deaths.again(errand["key"]):
            raise InputError(gave_up(errand["says"], how))
        self.waiting.appendleft(errand)

    def _tell_progress(self, key: str, progress: dict[str, Any] | None) -> None:
        news = self.heard.news(key, progress)
        if news is not None:
            tell(self.events, progress=news)


def _room() -> dict[str, float]:
    """GPUs of the cluster, and the memory of its largest node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {
        "GPU": sum(node.get("GPU", 0) for node in nodes),
        "memory": max((node.get("memory", 0) for node in nodes), default=0),
    }


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rstrip(".")


def _connect(address: str | None, folder: str) -> None:
    """Connect to a running cluster, or start one whose files are in `folder`."""
    import ray

    asked: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        asked |= {
            "address": "local", "num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": folder,
        }  # fmt: skip
    try:
        ray.init(**asked)
    except Exception as error:
        raise InputError(not_connected(address, f"{type(error).__name__}: {_last_line(error)}")) from error


def tell(events: IO[str], **event: Any) -> None:
    """One event to the study's process."""
    events.write(json.dumps(event) + "\n")
    events.flush()


def _read(pipe: IO[bytes], launches: queue.Queue[Any], gone: threading.Event) -> None:
    while len(header := pipe.read(8)) == 8:
        launches.put(pickle.loads(pipe.read(int.from_bytes(header, "little"))))
    gone.set()
    launches.put(None)
    time.sleep(HANG_SECONDS)
    os._exit(1)  # Ray hangs; its own processes die with this one


def _serve(launches: queue.Queue[Any], events: IO[str], gone: threading.Event, folder: str) -> None:
    """Connect at the first launch; the connection is kept for those that follow."""
    import ray

    while (asked := launches.get()) is not None:
        if not ray.is_initialized():
            _connect(asked["address"], folder)
            tell(events, gpus=int(_room()["GPU"]))
        Tasks(asked, events, gone).run()


def main() -> None:
    """Serve launches until the pipe closes; the argument is a folder for the files of a cluster of our own."""
    pipe, events = sys.stdin.buffer, os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray's own words go to the log, not among the events
    launches, gone, folder = queue.Queue(), threading.Event(), sys.argv[1]
    threading.Thread(target=_read, args=(pipe, launches, gone), daemon=True).start()
    try:
        _serve(launches, events, gone, folder)
    except InputError as error:
        tell(events, **refusal(error))
    except Exception:
        tell(events, error=traceback.format_exc())
    finally:
        import ray

        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # at once: an orderly exit aborts on the pipe that the reading thread may still hold


if __name__ == "__main__":
    main()
