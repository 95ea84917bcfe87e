"""C46: deep learning on a data diet (2107.07075): drop the examples that are learned early.

Read: the abstract and definition 2 as restated in our facts. EL2N is |softmax(f(x)) - one-hot|, averaged over several
networks a little way into training; the highest are kept. The networks that score are small perceptrons trained here
once a process; their FLOPs are not billed to the run, and are to be set beside all runs that use the subset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.parts.data.altered import Subset
from windtunnel.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class HardestByEL2N:
    """The `share` of examples with the highest scores, leaving out the `noisiest` share at the very top."""

    share: float = 0.5
    noisiest: float = 0.0
    networks: int = 5
    passes: int = 10  # a tenth of the paper's training
    width: int = 32
    seed: int = 0

    def __call__(self, data: Any) -> np.ndarray:
        """The numbers of the examples kept."""
        order = np.argsort(-scores(self, data), kind="stable")
        first = round(self.noisiest * len(order))
        return np.sort(order[first : first + max(1, round(self.share * len(order)))])


def scores(by: HardestByEL2N, data: Any) -> np.ndarray:
    """EL2N of every training example."""
    if data.shape().tokens_per_example != 1:
        raise InputError("EL2N scores examples with one label each, as images; a text has one for every token.")
    inputs, targets = (torch.from_numpy(a) for a in data.taken(np.arange(data.examples())))
    flat, wanted = inputs.flatten(1), targets.flatten()
    total = torch.zeros(len(flat))
    for number in range(by.networks):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(by.seed * 1000 + number)
            net = _briefly_trained(by, flat, wanted, data.shape().classes)
        with torch.no_grad():
            total += (net(flat).softmax(-1) - F.one_hot(wanted, data.shape().classes)).norm(dim=-1)
    return (total / by.networks).numpy()


def _briefly_trained(by: HardestByEL2N, flat: Tensor, wanted: Tensor, classes: int) -> nn.Module:
    net = nn.Sequential(nn.Linear(flat.shape[1], by.width), nn.ReLU(), nn.Linear(by.width, classes))
    rule = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(by.passes):
        for lot in torch.randperm(len(flat)).split(64):
            loss = F.cross_entropy(net(flat[lot]), wanted[lot])
            rule.zero_grad()
            loss.backward()
            rule.step()
    return net


def data_diet(base: Recipe) -> Recipe:
    """The half of the examples that is hardest early in training is as good as all of them."""
    return base.but(data=Subset(base.data, HardestByEL2N()))
