"""C15: a closer look at rehearsal-free continual learning (2203.17269): anchors to the network one starts from.

Read: abstract and section 4 as restated in our facts. Two of its family: L2 to the earlier weights, on the matrices of
attention alone or on all; and distillation of the earlier network's predictions. EWC's Fisher weights are not here. A
newcomer would anchor a first stretch too: there the anchor is the initial network, so these belong into a later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.parts.objectives import CrossEntropy
from windtunnel.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class WeightAnchor:
    """Cross-entropy and strength * |w - w at the start|^2 over tensors whose name holds `where` ("": all)."""

    strength: float = 1e-3  # guess; the paper tunes it
    where: str = ""

    needs = ("params", "start")

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> Tensor:
        """Losses (examples, tokens), each with the penalty."""
        start, now = given["start"], given["params"]
        far = torch.stack([(now[n] - start[n]).square().sum() for n in now if self.where in n]).sum()
        return CrossEntropy()(outputs, targets) + self.strength * far


@dataclass(frozen=True, kw_only=True)
class PredictionAnchor:
    """Cross-entropy mixed with the divergence from what the network at the start predicts."""

    strength: float = 1.0

    needs = ("reference",)
    cost = 4 / 3  # a forward pass more, of a forward and a backward pass that cost three

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> Tensor:
        """Losses (examples, tokens)."""
        before, now = given["reference"].log_softmax(-1), outputs.log_softmax(-1)
        return CrossEntropy()(outputs, targets) + self.strength * (before.exp() * (before - now)).sum(-1)


def weight_anchor(base: Recipe) -> Recipe:
    """Pulling weights to where a stretch began forgets less of what was learned before it."""
    return base.but(objective=WeightAnchor())


def prediction_anchor(base: Recipe) -> Recipe:
    """Staying close to the predictions of the network at the start forgets less of what it knew."""
    return base.but(objective=PredictionAnchor())
