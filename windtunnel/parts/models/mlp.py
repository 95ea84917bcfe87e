"""A plain multilayer perceptron for images: flatten, `depth` hidden layers with ReLU, a linear readout."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.ladder import Rung, Size
from windtunnel.recipe import DataShape


class Perceptron(nn.Module):
    """Images (examples, channels, rows, columns) to logits (examples, 1, classes): one prediction an image."""

    def __init__(self, rung: Rung, data: DataShape) -> None:
        super().__init__()
        widths = [prod(data.example_shape)] + [rung.width] * rung.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.readout = nn.Linear(rung.width, data.classes)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.readout(x).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class MLP:
    """The perceptron at any rung: `width` units in each of `depth` hidden layers."""

    def build(self, rung: Rung, data: DataShape) -> nn.Module:
        """A fresh module; its initial values will be replaced by the parametrization's."""
        return Perceptron(rung, data)

    def size(self, rung: Rung, data: DataShape) -> Size:
        """Exact counts; there is no embedding. The input needs no gradient, so its layer costs 4 per weight."""
        d, inputs = rung.width, prod(data.example_shape)
        hidden = (rung.depth - 1) * d * d + d * data.classes
        biases = rung.depth * d + data.classes
        return Size(
            embedding=0, non_embedding=inputs * d + hidden + biases, flops_per_token=4.0 * inputs * d + 6.0 * hidden
        )
