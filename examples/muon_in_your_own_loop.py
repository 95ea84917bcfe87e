"""An optimizer part in a training loop of your own: rates tuned at width 16 train width 64, Muon beside AdamW.

Run: python examples/muon_in_your_own_loop.py. A toy on one batch, some seconds of one core: it shows how, not which
one is the better optimizer; for that, give both to a Study.
"""

import statistics

import torch
from torch import nn
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.parts.optimizers import AdamW, Muon

STEPS, SEEDS = 60, 3


class Model(nn.Module):
    """A network that knows nothing of windtunnel."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(64, width), nn.Linear(width, 64)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + self.down(F.gelu(self.up(x))))


def trained(part, width, seed):
    """The last loss of your loop; the four lines that are windtunnel's have a mark."""
    tokens = torch.randint(64, (32, 33), generator=torch.Generator().manual_seed(seed))
    scales = wt.adopt(Model, base=16, target=width, optimizer=part)  # ours
    model = Model(width)
    scales.initialize(model, seed=seed)  # ours
    optimizer = wt.bridge.TorchOptimizer(part, scales.attach(model), scales)  # ours
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        schedule.step()
    scales.check(optimizer)  # ours: the schedule kept the table's ratios
    return loss.item()


def main():
    """Tune both at width 16, train width 64, say which was better."""
    best = {}
    for name, make in {
        "AdamW": lambda rate: AdamW(lr=rate),
        "Muon": lambda rate: Muon(lr=4 * rate, others_lr=rate),
    }.items():
        rate = min((3e-3, 1e-2, 3e-2, 1e-1), key=lambda rate: trained(make(rate), 16, seed=0))
        losses = [trained(make(rate), 64, seed) for seed in range(SEEDS)]
        best[name] = statistics.mean(losses)
        print(f"{name}: rate {rate:g} of width 16 gives {best[name]:.3f} at width 64 (mean of {SEEDS} seeds)")
    print(f"On this toy {min(best, key=best.get)} is better.")


if __name__ == "__main__":
    main()
