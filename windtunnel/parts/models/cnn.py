"""A small convolutional network for images: a 3x3 stem, `depth` 3x3 layers with ReLU, global mean, linear readout."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.ladder import Rung, Size
from windtunnel.recipe import DataShape


class ConvNet(nn.Module):
    """Images (examples, channels, rows, columns) to logits (examples, 1, classes)."""

    def __init__(self, rung: Rung, data: DataShape) -> None:
        super().__init__()
        self.stem = nn.Conv2d(data.example_shape[0], rung.width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(rung.width, rung.width, 3, padding=1) for _ in range(rung.depth))
        self.readout = nn.Linear(rung.width, data.classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.readout(x.mean(dim=(2, 3))).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class CNN:
    """The convolutional network at any rung: `width` channels in a stem and `depth` further layers."""

    def build(self, rung: Rung, data: DataShape) -> nn.Module:
        """A fresh module; its initial values will be replaced by the parametrization's."""
        return ConvNet(rung, data)

    def size(self, rung: Rung, data: DataShape) -> Size:
        """Exact counts. A convolution's weight works once a pixel; the image needs no gradient (stem: 4 per weight)."""
        channels, rows, columns = data.example_shape
        d, pixels = rung.width, rows * columns
        stem, layers, readout = 9 * channels * d, rung.depth * 9 * d * d, d * data.classes
        biases = (rung.depth + 1) * d + data.classes
        return Size(
            embedding=0,
            non_embedding=stem + layers + readout + biases,
            flops_per_token=pixels * (4.0 * stem + 6.0 * layers) + 6.0 * readout,
        )
