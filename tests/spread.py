"""Training over a few gloo processes of this machine, for the tests: start them, and what each of them does."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.multiprocessing as mp

from windtunnel.train.ranks import joined
from windtunnel.train.sharded import ShardedEngine  # noqa: F401  imported for the processes that are forked from here


def over(world: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `work(ranks, *args)` gives on each of `world` processes; raises what process 0 raised."""
    _one_that_imported_torch()
    where = (world, _free_port(), work, str(folder), args)
    mp.start_processes(_inside, where, nprocs=world, start_method="forkserver")
    found = [pickle.loads((folder / f"gave-{rank}").read_bytes()) for rank in range(world)]
    for gave in found:
        if isinstance(gave, BaseException):
            raise gave
    return found


def _one_that_imported_torch() -> None:
    """Start the process that the others are forked from, so that torch is imported once and not by each of them."""
    from multiprocessing import forkserver

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # it looks for what it preloads nowhere else (Python 3.11)
    multiprocessing.set_forkserver_preload(["spread"])
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def _inside(rank: int, world: int, port: int, work: Callable[..., Any], folder: str, args: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(torch.device("cpu")) as ranks:
        try:
            gave = work(ranks, *args)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            gave = error
    Path(folder, f"gave-{rank}").write_bytes(pickle.dumps(gave))


def _free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]
