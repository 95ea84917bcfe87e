"""Scale tables under sharding: two processes on gloo, DistributedDataParallel and both FSDPs, beside one process."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_adopt import TARGET, Plain, adopted, train

from windtunnel.train.ranks import leave

pytestmark = pytest.mark.slow


def trained(wrap):
    """Logits after three AdamW steps of the adopted model; every process sees the same batch."""
    scales, model = adopted(), Plain(TARGET)
    scales.initialize(model, seed=0)
    model = wrap(scales.attach(model))
    return train(model, torch.optim.AdamW(scales.groups(model, 1e-2, weight_decay=0.1)))


def in_a_process(rank, kind, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        logits = trained(WRAPS[kind])
        if rank == 0:
            torch.save(logits, f"{folder}/{kind}.pt")
    finally:
        leave()


def sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def flattened(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


WRAPS = {"ddp": torch.nn.parallel.DistributedDataParallel, "fsdp2": sharded, "fsdp1": flattened}


@pytest.mark.parametrize("kind", WRAPS)
def test_a_sharded_model_trains_as_one_that_is_not(kind, tmp_path):
    """Slow: starts two processes. The tags of other tools are gone here; a table by name is not."""
    port = 29500 + os.getpid() % 1000 + list(WRAPS).index(kind) * 1000
    mp.spawn(in_a_process, (kind, port, str(tmp_path)), nprocs=2)
    torch.testing.assert_close(torch.load(tmp_path / f"{kind}.pt"), trained(lambda model: model), rtol=1e-4, atol=1e-5)
