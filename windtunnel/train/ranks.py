"""The processes that train one model together: who this one is, its device, and the groups they talk over.

Three groups, because a collective must find the same group in the same state on every process: the mesh carries
gradients, `control` says what to do next and may wait for days, `saving` belongs to the thread that writes checkpoints.
A newcomer would use one group for all: a checkpoint's thread then takes messages that were meant for a gradient.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from windtunnel.errors import InputError

# A collective of training waits this long for a process that says nothing (a dead one is noticed at once); a process
# that is told what to do next may wait while another trains small models or fits a forecast. Both are guesses.
TRAINING, WAITING = timedelta(minutes=30), timedelta(days=30)

# A thread of gloo that holds the last collective's tensor needs Python to let go of it, and ends the process by SIGABRT
# where Python is going already (measured, torch 2.13: 9 of 25 two-process scripts that end right after a collective, 0
# of 25 with this wait; a barrier does not help). Leaving the groups would end the threads, but FSDP2 holds the groups.
SETTLING = 0.1


@dataclass(frozen=True)
class Ranks:
    """This process among `world`: its number, device, the mesh and the groups."""

    rank: int
    world: int
    device: torch.device
    mesh: Any
    control: Any
    saving: Any

    def told(self, message: Any = None) -> Any:
        """What process 0 says, on every process; the message is a Python object that can be pickled."""
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def heard(self, message: Any) -> list[Any]:
        """What every process says, on every process."""
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, message, group=self.control)
        return found

    def summed(self, *numbers: float) -> list[float]:
        """Sums over all processes, in double precision."""
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


def launched() -> bool:
    """Whether this process was started by torchrun, or by anything that says who it is in the same words."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them when all is well. Raises InputError outside torchrun."""
    if not launched():
        raise InputError(
            "This process was not started by torchrun; start it with torchrun --nproc-per-node N -m windtunnel run, or "
            "let windtunnel run --on torchrun --devices N do that."
        )
    device = device or _own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # as in every other launcher: the same bits on every machine
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=_meeting_place(), rank=rank, world_size=world, timeout=TRAINING)
    yield _grouped(device)
    leave()  # not after an error: it may wait for a process that is gone


def leave() -> None:
    """Leave all groups; the process may end then."""
    dist.destroy_process_group()
    time.sleep(SETTLING)


def _grouped(device: torch.device) -> Ranks:
    from torch.distributed.device_mesh import init_device_mesh

    return Ranks(
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        device=device,
        mesh=init_device_mesh(device.type, (dist.get_world_size(),)),
        control=dist.new_group(backend="gloo", timeout=WAITING),
        saving=dist.new_group(backend="gloo", timeout=TRAINING),
    )


def _meeting_place() -> Any:
    """Where the processes find one another, apart for every time torchrun starts them.

    torchrun keeps one store over its restarts (measured, torch 2.13), so that a process may find the address of one
    that was killed before and wait for it in vain; and its count of restarts differs between nodes (measured).
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    url = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store, _, _ = next(rendezvous(url, rank, world, timeout=TRAINING))
    return PrefixStore(f"windtunnel {_asked(store, rank) if rank else _answered(store, world)}", store)


def _asked(store: Any, rank: int) -> str:
    """The name of this start, as process 0 answers a question that nobody has asked before."""
    question = secrets.token_hex(8)
    store.set(f"question {rank}", question)
    store.wait([f"answer {question}"], TRAINING)
    name = store.get(f"answer {question}").decode()
    store.set(f"heard {name} {rank}", "yes")
    return name


def _answered(store: Any, world: int) -> str:
    """A new name for this start, once all others have heard it; questions of the dead are answered too."""
    name, deadline = secrets.token_hex(8), time.monotonic() + TRAINING.total_seconds()
    for rank in range(1, world):
        while not store.check([f"heard {name} {rank}"]):
            if store.check([f"question {rank}"]):
                store.set(f"answer {store.get(f'question {rank}').decode()}", name)
            if time.monotonic() > deadline:
                raise TimeoutError(f"Process {rank} did not come within {TRAINING}.")
            time.sleep(0.02)
    return name


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
