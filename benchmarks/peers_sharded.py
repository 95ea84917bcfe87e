"""The rows that need torch.distributed: two processes on gloo, each given the same batch (words: peers_failures.py).

A row must train as one process does. Where a tool documents two ways, the better one counts. A newcomer would start the
processes and wait: one that fails alone leaves the other waiting, so every process writes its verdict and is ended.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from benchmarks.peers_failures import RIGHT, TARGET, Row, same, stepped, told, trained
from benchmarks.peers_models import BASE, Tool, tools

PROCESSES, SECONDS = 2, 120
DDP = nn.parallel.DistributedDataParallel


def sharded(tool: Tool) -> str:
    """FSDP2's fully_shard on every block and the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected = trained(tool, *tool.made(TARGET))
    model, beside = tool.made(TARGET)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    return same(trained(tool, fully_shard(model, mesh=mesh), beside), expected)


def flattened(tool: Tool) -> str:
    """FSDP1 with use_orig_params=True."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    expected = trained(tool, *tool.made(TARGET))
    model, beside = tool.made(TARGET)
    whole = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    return same(trained(tool, whole, beside), expected)


def replicated(tool: Tool) -> str:
    """DistributedDataParallel."""
    expected = trained(tool, *tool.made(TARGET))
    model, beside = tool.made(TARGET)
    return same(trained(tool, DDP(model), beside), expected)


def zero(tool: Tool) -> str:
    """ZeroRedundancyOptimizer: with the tool's optimizer class, else with torch's and the tool's groups."""
    from torch.distributed.optim import ZeroRedundancyOptimizer as Zero

    lr = 2.0 ** (tool.start + 2)
    expected = trained(tool, *tool.made(TARGET))
    model, beside = tool.made(TARGET)
    params, of_torch = list(model.parameters()), partial(Zero, optimizer_class=torch.optim.AdamW)
    uu, mup = (import_module(f"{name}") for name in ("unit_scaling.optim", "mup"))
    ways: dict[str, list[Callable[[], Any]]] = {
        "plain": [lambda: of_torch(params, lr=lr, weight_decay=0.0)],
        "ours": [lambda: of_torch(beside.groups(model, lr, weight_decay=0.0, eps=1e-8), lr=lr)],
        "mup": [
            lambda: Zero(params, optimizer_class=mup.MuAdamW, lr=lr, weight_decay=0.0),
            lambda: mup.MuAdam(params, impl=of_torch, lr=lr, weight_decay=0.0),
        ],
        "unit-scaling": [
            lambda: Zero(params, optimizer_class=uu.AdamW, lr=lr, weight_decay=0.0),
            lambda: of_torch(list(uu.scaled_parameters(params, uu.lr_scale_func_adam, lr=lr)), lr=lr),
        ],
    }
    failed = ""
    for way in ways[tool.name]:
        try:
            found = same(stepped(tool, DDP(model), way()), expected)
        except Exception as error:
            failed = failed or told(error, ())
            continue
        return f"{found} with its groups; with its optimizer class it {failed}" if failed else found
    return failed


class Named(nn.Module):
    """Tensors whose names begin or end with letters of "module."."""

    def __init__(self, tool: Tool, width: int):
        super().__init__()
        self.emb, self.mid = tool.layers.embedding(8, width), tool.layers.linear(width, width)
        self.out = tool.layers.readout(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.mid(self.emb(x)))


def saved_shapes(tool: Tool) -> str:
    """What is kept of a wrapped model is used for a bare one."""
    build, tokens = partial(Named, tool), torch.arange(8)
    if tool.name == "mup":
        mup: Any = import_module("mup")
        file = str(Path(tempfile.mkdtemp()) / "shapes.bsh")
        mup.make_base_shapes(DDP(build(BASE)), DDP(build(2 * BASE)), file)
        mup.set_base_shapes(build(TARGET), file)
        return RIGHT
    model, beside = tool.ready(build, TARGET, 0)
    whole: Any = DDP(model)
    found = [len(tool.adamw(m, beside, 1.0).param_groups) for m in (whole, model)]
    whole(tokens)
    return RIGHT if found[0] == found[1] else f"wrong: {found[0]} groups wrapped, {found[1]} bare"


SHARDED = (
    Row("DistributedDataParallel", replicated, ("DistributedDataParallel", "DDP")),
    Row("FSDP2 fully_shard", sharded, ("shard", "FSDP", "DTensor")),
    Row("FSDP1, use_orig_params=True", flattened, ("flat", "FSDP")),
    Row("ZeroRedundancyOptimizer", zero, ("ZeroRedundancy",)),
    Row("base shapes kept from DDP", saved_shapes, ("DistributedDataParallel", "DDP")),
)


def verdict(row: Row, tool: Tool) -> str:
    """What a row says of a tool: the first process that is not right, else the first."""
    number, name = SHARDED.index(row), tool.name
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        started: Any = spawn(_process, (number, name, port, folder), nprocs=PROCESSES, join=False)
        for each in started.processes:
            each.join(SECONDS)
            if each.is_alive():
                each.kill()
        said = [file.read_text() for file in sorted(Path(folder).glob("*.txt"))]
    unlike = [each for each in said if not each.startswith(RIGHT)]
    if len(said) < PROCESSES and not unlike:
        return f"raises: {PROCESSES - len(said)} of {PROCESSES} processes did not end in {SECONDS} s"
    return (unlike or said)[0]


def _process(rank: int, number: int, name: str, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    row = SHARDED[number]
    try:
        said = row.run(tools()[name])
    except Exception as error:
        said = told(error, row.words)
    Path(folder, f"{rank}.txt").write_text(said)
    os._exit(0)  # without waiting for a process that failed
