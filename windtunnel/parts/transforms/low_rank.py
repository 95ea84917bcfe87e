"""LoRA (2106.09685) and LoRA-XS (2405.17604): a weight, and beside it a product of thin matrices.

weight + left @ right, or weight + left @ core @ right with a small square core. Which of them are trained is the
optimizer's business (`AdamWOn`), what they begin as a stretch's. A newcomer would draw both thin matrices at random: as
in the paper `left` begins at zero, so the network begins as what it was; with a core, both thin ones want values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.parts.transforms.layers import chosen, shapes, swapped
from windtunnel.recipe import DataShape


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Thin matrices of `rank` beside every linear layer of `of` (the recipe's model part) that matches `where`.

    Its tensors are called NAME.left (outputs, rank), NAME.right (rank, inputs), NAME.core (rank, rank). `left` begins
    at zero and learns at the plain rate, `right` as a hidden matrix does; a core is the same at all widths.
    """

    of: Any
    rank: int = 8
    core: bool = False
    where: str = "*"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"LowRank(rank={self.rank}): give the columns of the thin matrices, at least 1.")

    @property
    def roles(self) -> dict[str, str]:
        """A left matrix is scaled as a bias is (zero, no decay): its fan-in does not grow."""
        return {"*.left": "bias", "*.right": "hidden"} | ({"*.core": "fixed"} if self.core else {})

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module with its layers replaced by ones that share their tensors, under the same names."""
        return swapped(model, chosen(model, self.where), lambda layer: Adapted(layer, self.rank, self.core))

    def size(self, size: Size, rung: Rung, data: DataShape) -> Size:
        """The thin matrices more, each met once; the frozen weights' gradients are computed too, and counted."""
        found = shapes(self.of, rung, data, self.where)
        more = sum(self.rank * (out + within) + self.core * self.rank**2 for out, within in found)
        flops = size.flops_per_token + 6.0 * more
        return replace(size, non_embedding=size.non_embedding + more, flops_per_token=flops)


class Adapted(nn.Linear):
    """A linear layer with a low-rank term."""

    def __init__(self, layer: nn.Linear, rank: int, core: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        device = layer.weight.device
        self.left = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        self.right = nn.Parameter(torch.zeros(rank, layer.in_features, device=device))
        self.core = nn.Parameter(torch.zeros(rank, rank, device=device)) if core else None

    def forward(self, input: Tensor) -> Tensor:
        thin = F.linear(input, self.right)
        if self.core is not None:
            thin = F.linear(thin, self.core)
        return F.linear(input, self.weight, self.bias) + F.linear(thin, self.left)
