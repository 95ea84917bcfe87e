"""C17: intrinsic dimensionality of fine-tuning (2012.13255): train a few numbers that move all weights at random.

Read: the abstract, and section 3 as restated in our facts. theta = theta0 + P theta_d with a fixed random P; the least
d that reaches nine tenths of what full fine-tuning does is the intrinsic dimension (`studies/gallery/adapted.py` finds
it). The paper's P is the Fastfood transform; here every weight follows one of the d numbers with a random sign, so the
columns are orthogonal too, and a step costs a lookup. The paper's variant with a trained scale a layer is not here:
each weight moves in units of its initial size, 1 / sqrt(fan-in), which is the width rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.ladder import Rung, Size
from windtunnel.parts.phases import Adapting
from windtunnel.parts.transforms.layers import swapped
from windtunnel.recipe import DataShape, Recipe

DIMENSIONS = 256


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """Every linear layer and lookup table moved by the same `dimensions` numbers, called "...coordinates"."""

    dimensions: int = DIMENSIONS
    seed: int = 0

    roles = {"*coordinates": "bias"}  # noqa: RUF012  as biases: zero at the start, at the plain rate

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module with its layers replaced by ones that share their tensors, under the same names."""
        layers = {name: m for name, m in model.named_modules() if type(m) in (nn.Linear, nn.Embedding)}
        draw = torch.Generator().manual_seed(self.seed)
        shared = nn.Parameter(torch.zeros(self.dimensions))
        return swapped(model, layers, lambda layer: _KINDS[type(layer)](layer, shared, draw))

    def size(self, size: Size, rung: Rung, data: DataShape) -> Size:
        """The numbers more; lookups cost no product."""
        return replace(size, non_embedding=size.non_embedding + self.dimensions)


class MovedLinear(nn.Linear):
    """A linear layer whose weight is moved by the shared numbers."""

    def __init__(self, layer: nn.Linear, coordinates: nn.Parameter, draw: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias, self.coordinates = layer.weight, layer.bias, coordinates
        _follow(self, draw, layer.in_features**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight + moved(self), self.bias)


class MovedEmbedding(nn.Embedding):
    """A lookup table that is moved by the shared numbers."""

    def __init__(self, layer: nn.Embedding, coordinates: nn.Parameter, draw: torch.Generator) -> None:
        super().__init__(layer.num_embeddings, layer.embedding_dim, device="meta")
        self.weight, self.coordinates = layer.weight, coordinates
        _follow(self, draw, 1.0)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight + moved(self))


def moved(layer: nn.Module) -> Tensor:
    """What the shared numbers add to a layer's weight."""
    coordinates, follows, signs = layer.coordinates, layer.follows, layer.signs
    return coordinates[follows] * signs  # type: ignore[index,operator]


def _follow(layer: nn.Linear | nn.Embedding, draw: torch.Generator, size: float) -> None:
    # on the CPU whatever the default device, so that a module built without storage has true tables when it is moved
    shape, among = tuple(layer.weight.shape), len(layer.coordinates)  # type: ignore[arg-type]
    pick = torch.randint(0, among, (math.prod(shape),), generator=draw, device="cpu").view(shape)
    sign = torch.randint(0, 2, (math.prod(shape),), generator=draw, device="cpu").view(shape)
    layer.register_buffer("follows", pick, persistent=False)
    layer.register_buffer("signs", (2.0 * sign - 1.0) * size, persistent=False)


_KINDS = {nn.Linear: MovedLinear, nn.Embedding: MovedEmbedding}


def random_subspace(base: Recipe, dimensions: int = DIMENSIONS) -> Recipe:
    """A pre-trained network can be adapted in a random subspace of few dimensions, fewer the better it was trained."""
    return base.but(phases=Adapting(transforms=(Subspace(dimensions=dimensions),), trained="*coordinates"))
