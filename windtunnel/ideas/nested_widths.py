"""B11: SortedNet (2309.00255): one set of weights whose first units are the smaller models.

Read: the abstract and introductions of both versions; the update scheme as restated in our facts. Here a step takes all
of a few widths: examples of a batch go through prefixes of the network in turn, so their gradients are accumulated, and
which examples is a matter of the data's random order. A prefix is what is left when the other units are zero: RMSNorm
sees the zeros and makes the rest larger by just what the smaller fan-in lacks, so muP's initial sizes stay right. All
units are computed here and the others multiplied by zero; the bill says so. Judged is the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.parts.transforms.layers import swapped
from windtunnel.recipe import Recipe

SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Nested:
    """Every linear layer but the last and every lookup table gives only its first units, a `share` for each example."""

    shares: tuple[float, ...] = SHARES

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module with its layers replaced by ones that share their tensors, under the same names."""
        layers = {name: m for name, m in model.named_modules() if type(m) in (nn.Linear, nn.Embedding)}
        last = [name for name, layer in layers.items() if type(layer) is nn.Linear][-1]
        layers.pop(last)
        return swapped(model, layers, lambda layer: _KINDS[type(layer)](layer, self.shares))


class NestedLinear(nn.Linear):
    """A linear layer's first units."""

    only: float | None = None

    def __init__(self, layer: nn.Linear, shares: tuple[float, ...]) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias, self.shares = layer.weight, layer.bias, shares

    def forward(self, input: Tensor) -> Tensor:
        return first_units(self, F.linear(input, self.weight, self.bias))


class NestedEmbedding(nn.Embedding):
    """A lookup table's first units."""

    only: float | None = None

    def __init__(self, layer: nn.Embedding, shares: tuple[float, ...]) -> None:
        super().__init__(layer.num_embeddings, layer.embedding_dim, device="meta")
        self.weight, self.shares = layer.weight, shares

    def forward(self, input: Tensor) -> Tensor:
        return first_units(self, F.embedding(input, self.weight))


def first_units(layer: Any, outputs: Tensor) -> Tensor:
    """Outputs (examples, ..., units) with the last units of each example zero: by its place in a batch while training.

    A layer's `only`, a share for all examples, takes a smaller model out; without it all units are judged.
    """
    if layer.only is None and not layer.training:
        return outputs
    units, shares = outputs.shape[-1], layer.shares if layer.only is None else (layer.only,)
    limits = torch.tensor([max(1, round(share * units)) for share in shares], device=outputs.device)
    mine = limits[torch.arange(len(outputs), device=outputs.device) % len(limits)]
    return outputs * (torch.arange(units, device=outputs.device) < mine.view(-1, *[1] * (outputs.ndim - 1)))


def take(model: nn.Module, share: float | None) -> None:
    """Make a nested network one of its prefixes, or (None) all of them again."""
    for module in model.modules():
        if isinstance(module, NestedLinear | NestedEmbedding):
            module.only = share


_KINDS: dict[type[nn.Module], Any] = {nn.Linear: NestedLinear, nn.Embedding: NestedEmbedding}


@dataclass(frozen=True)
class PrefixLoss:
    """`loss_at_0.25` and so on: a probe of what each prefix of a nested network loses, in nats per token."""

    shares: tuple[float, ...] = SHARES

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """The mean over the judge's held-out examples."""
        found = {}
        for share in self.shares:
            take(model, share)
            with torch.no_grad():
                sums = [F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") for x, y in batches]
            found[f"loss_at_{share:g}"] = float(torch.stack(sums).sum()) / sum(y.numel() for _, y in batches)
        take(model, None)
        return found


def nested_widths(base: Recipe) -> Recipe:
    """One network whose first units are smaller models serves every width almost as well as one of that width."""
    return base.but(transforms=(*base.transforms, Nested()))
