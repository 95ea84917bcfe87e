"""A worker process: packs come in on standard input, events go out on standard output as JSON lines.

Started by `here.py` only. Reading happens on a thread of its own, so that a closed pipe (the study was killed) ends the
worker at once even in the middle of a pack; the pack's checkpoint is then what the next run goes on from. On SIGTERM a
worker checkpoints its pack and leaves.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import IO, Any

PROGRESS_SECONDS = 0.05  # between reports; a budget is stopped to half of what all workers do between two
LEFT = 128 + signal.SIGTERM  # the exit code of a worker that was asked to leave and has checkpointed


def main() -> None:
    """Serve packs until the pipe closes."""
    pipe, events = sys.stdin.buffer, os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a part prints goes to standard error, not among the events
    setup = pickle.loads(_receive(pipe))
    sys.path[:] = setup["sys.path"]
    packs: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read, args=(pipe, packs), daemon=True).start()
    _serve(packs, events, setup)


def _serve(packs: queue.Queue[bytes], events: IO[str], setup: dict[str, Any]) -> None:
    import torch

    from windtunnel.errors import InputError, Stopped
    from windtunnel.launch.errand import refusal
    from windtunnel.launch.here import device_of
    from windtunnel.launch.leave import asked_to_leave
    from windtunnel.launch.one import execute
    from windtunnel.store import Store

    torch.set_num_threads(1)
    store, said = Store(setup["store"]), [0.0]
    device = device_of(setup["worker"])
    together = 1 if device.type == "cuda" else setup["workers"]  # a GPU is a worker's own, the host's memory is shared

    def report(progress: Any) -> None:
        if time.monotonic() - said[0] > PROGRESS_SECONDS or progress.step == progress.steps or progress.said:
            said[0] = time.monotonic()
            _tell(events, progress=asdict(progress))

    while True:
        try:
            pack = pickle.loads(packs.get())  # written by the process that started this one; SIGTERM may end the wait
            with asked_to_leave() as stop:
                execute(pack, store, device=device, report=report, stop=stop, packs_at_once=together)
            _tell(events, finished=pack.key)
            if stop():
                raise Stopped
        except Stopped:
            os._exit(LEFT)  # at once: an orderly exit aborts on the pipe that the reading thread holds
        except MemoryError as error:
            _tell(events, **{"input error": str(error) or "A worker is out of memory; train fewer packs at once."})
        except (InputError, OSError) as error:
            _tell(events, **refusal(error))
        except Exception:
            _tell(events, error=traceback.format_exc())


def _tell(events: IO[str], **event: Any) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


def _read(pipe: IO[bytes], packs: queue.Queue[bytes]) -> None:
    while True:
        packs.put(_receive(pipe))


def _receive(pipe: IO[bytes]) -> bytes:
    header = pipe.read(8)
    data = pipe.read(int.from_bytes(header, "little")) if len(header) == 8 else b""
    if not data:
        os._exit(0)  # the study is gone; leave at once, whatever the main thread is doing
    return data


if __name__ == "__main__":
    main()
