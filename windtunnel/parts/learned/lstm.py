"""What VeLO knows of a whole tensor and of the training, and the recurrent network that reads it (2211.09760).

Thirty numbers a tensor: how much of the training is done, how the loss has gone, how large weights, momenta and second
moment are, the rank. A newcomer would use the accumulators after this step's gradient: these are from before it. The
oddities are published ones, and the published weights rest on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor

DONE = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # shares of the horizon
AVERAGES = 10  # of the loss, with half-lives from 10 steps to the horizon
RANKS = 5
INPUTS = len(DONE) + AVERAGES - 1 + 1 + RANKS + 3 + 3


def first_losses(like: Tensor) -> dict[str, Tensor]:
    """Averages of the loss and the lowest they were; in 64 bits, for features are differences of near equals."""
    kind = torch.float32 if like.device.type == "mps" else torch.float64
    zeros = torch.zeros(AVERAGES, dtype=kind, device=like.device)
    return {"losses": zeros, "lowest": zeros + 1e12}


def heard(state: Mapping[str, Tensor], loss: Tensor, horizon: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(nine features, averages and minima) after this loss; features are zero for the first two steps.

    A loss is held under twice the largest average. That one is corrected for its start as if it held one step more than
    it does (published), so that a second loss is held near the first.
    """
    old, steps = state["losses"], state["steps"].to(state["losses"].dtype)
    share = torch.linspace(0, 1, AVERAGES, dtype=old.dtype, device=old.device)
    halflives = torch.exp(log(10.0) + share * (horizon.to(old.dtype).log() - log(10.0)))
    filled = -torch.expm1(-(steps + 1) / halflives)
    loss = loss.to(old.dtype)
    bound = torch.where(steps == 0, loss, (old / filled).amax()).abs() * 2
    new = old - torch.expm1(-1 / halflives) * (torch.minimum(loss, bound) - old)
    now = new / filled
    lowest = torch.minimum(state["lowest"], now)
    over, longer = now[:-1] - lowest[:-1], now[1:] - lowest[:-1]
    features = (over / longer.clamp(min=1e-8) - 1).clamp(-1, 1)
    return torch.where(steps < 2, torch.zeros_like(features), features), {"losses": new, "lowest": lowest}


def inputs_of(param: Tensor, means: Sequence[Tensor], square: Tensor, done: Tensor, losses: Tensor) -> Tensor:
    """The (30,) numbers of a tensor, groups in the order of their published names; `done` is a share."""
    size = torch.rsqrt((param * param).mean().clamp(min=1e-9))
    centres = [(mean * size).mean() for mean in means]
    spread = [(mean * size - centre).square().mean() for mean, centre in zip(means, centres, strict=True)]
    square = square * size
    apart = [(square - centre).square().mean() for centre in centres]  # from the momenta's means: published
    times = torch.tanh(10 * (done.to(losses.dtype) - losses.new_tensor(DONE)))
    rank = [float(sum(side > 1 for side in param.shape) == k) for k in range(RANKS)]
    told = torch.cat([times, losses]).to(param.dtype)
    return torch.cat([
        told, _logged(square.mean())[None], param.new_tensor(rank), _logged(torch.stack(spread)),
        _logged(torch.stack(apart)),
    ])  # fmt: skip


def _logged(values: Tensor) -> Tensor:
    return 0.5 * torch.log(1e-8 + 10 * values.abs()).clamp(-5, 5)


def mixed(net: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """(units,): what a tensor adds to the others' inputs; the largest over all tensors counts."""
    return torch.relu(inputs @ net["mix.w"] + net["mix.b"])


def recurred(
    net: Mapping[str, Tensor], inputs: Tensor, largest: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """The LSTM's next (hidden, cell); the forget gate has a bias of one more."""
    seen = torch.cat([inputs @ net["into.w"] + net["into.b"] + largest, hidden])
    i, g, f, o = (seen @ net["lstm.w"] + net["lstm.b"]).chunk(4)
    cell = torch.sigmoid(f + 1) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell
