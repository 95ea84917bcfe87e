"""Local training: workers take 8 steps each between meetings; SlowMo or averaging makes one step of where they went.

Run: torchrun --nproc-per-node 2 examples/local_workers.py; without torchrun there is one worker. A toy on digits, some
seconds: it shows how, not which rule is the better one; for that, see docs/learned-optimizers.md.
"""

import os
import statistics

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group: imported later it holds the group, and processes may end badly
from torch import nn
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.parts.learned.outer import SlowMo

ROUNDS, STEPS, SEEDS = 12, 8, 3
DIGITS = wt.data.digits()


def build(width):
    """A network that knows nothing of windtunnel."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def trained(outer, seed, rank, workers):
    """The mean loss of the last round over all workers; the lines that are windtunnel's have a mark."""
    scales = wt.adopt(build, base=16, target=64, optimizer=outer)  # ours
    model = build(64)
    scales.initialize(model, seed=seed)  # ours: the same first values on all workers
    scales.attach(model)  # ours
    local = torch.optim.SGD(model.parameters(), lr=0.1)
    rounds = wt.bridge.LocalSteps(outer, model, scales, local, steps=STEPS)  # ours
    losses = []
    for step in range(ROUNDS * STEPS):
        x, y = (torch.from_numpy(a) for a in DIGITS.batch(seed=seed, step=step * workers + rank, size=32))
        local.zero_grad()
        loss = F.cross_entropy(model(x), y.flatten())
        loss.backward()
        local.step()
        rounds.step()  # ours: every eighth of these is a meeting
        losses.append(loss.detach())
    last = torch.stack(losses[-STEPS:]).mean()
    if workers > 1:
        dist.all_reduce(last)
    return float(last) / workers, rounds.bytes_per_round


def main():
    """Both rules on the same batches, a few seeds; worker 0 says which was better."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    means = {}
    for name, outer in {"averaging": SlowMo(lr=1.0, momentum=0.0), "SlowMo": SlowMo(lr=1.0, momentum=0.7)}.items():
        losses, sent = zip(*(trained(outer, seed, rank, workers) for seed in range(SEEDS)), strict=True)
        means[name] = statistics.mean(losses)
        if not rank:
            print(f"{name}, {workers} workers: {means[name]:.3f} (mean of {SEEDS} seeds), {sent[0]:,} bytes a round")
    if not rank:
        print(f"On this toy {min(means, key=means.get)} is better.")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
