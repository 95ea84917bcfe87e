"""B51: magnitude invariant parametrizations of hypernetworks (2304.07645): constant inputs, additive outputs.

Read: the abstract and the introduction; the mechanism as restated in our facts. A small network turns a strength g of
regularization, 0 to 1, into the weights of the main one, so that one training serves all strengths. Plain: weights =
h(g), which is proportional to g, so are its gradients. Invariant: g enters as (cos, sin) of its quarter turn, of norm
one, and what comes out is added to ordinary weights. Each example of a batch has a strength of its own, evenly spaced;
here the strength smooths labels. A newcomer would give h biases, which hide the proportion and not the trouble.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.ladder import Rung, Size
from windtunnel.parts.transforms.layers import chosen, shapes, swapped
from windtunnel.recipe import DataShape, Recipe

FEATURES = 16  # of the hypernetwork's hidden layers (guess; the paper has 16 to 128)


@dataclass(frozen=True, kw_only=True)
class Hypernetwork:
    """Every linear layer but the last (of `of`, the recipe's model part) gets its weights from one small network.

    Its tensors are called hyper.first, hyper.second (no width) and NAME.heads (features, outputs, inputs), stacked
    hidden matrices. `invariant` says which form; the plain one has no weights of its own.
    """

    of: Any
    features: int = FEATURES
    invariant: bool = True

    roles = {"*.heads": ("hidden", "-oi"), "*.first": "fixed", "*.second": "fixed"}  # noqa: RUF012

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module with its layers replaced, those weights that are kept under their names."""
        hyper = Hyper(self.features, self.invariant)
        return swapped(model, chosen(model), lambda layer: Generated(layer, hyper, self.features, self.invariant))

    def size(self, size: Size, rung: Rung, data: DataShape) -> Size:
        """A head a feature more, one set of weights generated an example."""
        weights = sum(out * within for out, within in shapes(self.of, rung, data))
        own = self.features * ((2 if self.invariant else 1) + self.features)
        more = self.features * weights + own - (0 if self.invariant else weights)
        flops = 6.0 * (self.features * weights + own) / data.tokens_per_example
        return replace(size, non_embedding=size.non_embedding + more, flops_per_token=size.flops_per_token + flops)


class Hyper(nn.Module):
    """Strengths (examples) to features (examples, features): two layers without biases."""

    only: float | None = None  # a strength for all examples

    def __init__(self, features: int, invariant: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(features, 2 if invariant else 1))
        self.second = nn.Parameter(torch.empty(features, features))
        self.invariant = invariant

    def forward(self, examples: int) -> Tensor:
        given = strengths(examples, self.first.device)
        if self.only is not None:
            given = torch.full_like(given, self.only)
        turn = given * (math.pi / 2)
        code = torch.stack((turn.cos(), turn.sin()), -1) if self.invariant else given[:, None]
        # a root of two for what a ReLU takes away
        return F.relu(F.linear(F.relu(F.linear(code, self.first)), self.second)) * 2.0


class Generated(nn.Linear):
    """A linear layer whose weights are an example's own."""

    def __init__(self, layer: nn.Linear, hyper: Hyper, features: int, invariant: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.hyper, self.bias = hyper, layer.bias
        kept: Any = layer.weight if invariant else None
        self.register_parameter("weight", kept)
        self.heads = nn.Parameter(torch.empty(features, *layer.weight.shape, device=layer.weight.device))

    def generated(self, examples: int) -> Tensor:
        """Weights (examples, outputs, inputs)."""
        found = torch.einsum("bk,koi->boi", self.hyper(examples), self.heads)
        if self.weight is not None:  # the mean over features, so that Adam's steps move the sum as they move a weight
            return found / len(self.heads) + self.weight
        return found * len(self.heads) ** -0.5  # the weights themselves, which must begin in their size

    def forward(self, input: Tensor) -> Tensor:
        flat = input.reshape(len(input), -1, input.shape[-1])
        outputs = torch.bmm(flat, self.generated(len(input)).mT).view(*input.shape[:-1], -1)
        return outputs if self.bias is None else outputs + self.bias


def strengths(examples: int, device: torch.device) -> Tensor:
    """The strength of each example of a batch, evenly over 0 to 1."""
    return (torch.arange(examples, device=device) + 0.5) / examples


@dataclass(frozen=True, kw_only=True)
class SmoothedByStrength:
    """Cross-entropy with labels smoothed by each example's strength, up to `most`."""

    most: float = 0.5

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (examples, tokens)."""
        log, much = outputs.log_softmax(-1), self.most * strengths(len(outputs), outputs.device)[:, None]
        hard = -log.gather(-1, targets[..., None])[..., 0]
        return (1 - much) * hard - much * log.mean(-1)


def invariant_hypernetwork(base: Recipe) -> Recipe:
    """A hypernetwork with inputs of one norm and outputs added to weights trains more steadily, over more rates."""
    hyper = Hypernetwork(of=base.model)
    return base.but(transforms=(*base.transforms, hyper), objective=SmoothedByStrength())
