"""B15: BitNet b1.58 Reloaded (2407.09527): weights of three values, trained through.

Read: the abstract and equations 1 to 4 as restated in our facts. The forward pass uses round(clip(w / scale, -1, 1))
times the scale, which is the median (this paper) or mean (BitNet) of |w|; gradients pass straight to w. Activations
stay in float here: the paper's 8 bits are about memory, and its losses are about weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from windtunnel.parts.transforms import Mapped
from windtunnel.recipe import Recipe


@dataclass(frozen=True)
class Ternary:
    """A weight as -scale, 0 or +scale; `median` says which scale of |w|."""

    median: bool = True

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight that is used; its gradient is the weight's own."""
        sizes = weight.detach().abs().flatten()
        scale = (sizes.median(0).values if self.median else sizes.mean()).clamp(min=1e-12)
        three = (weight.detach() / scale).clamp(-1, 1).round() * scale
        return weight + (three - weight.detach())


def ternary_weights(base: Recipe) -> Recipe:
    """Weights of three values, scaled by the median, cost a constant factor in size that bigger networks make up."""
    return base.but(transforms=(*base.transforms, Mapped(through=Ternary())))


def ternary_weights_by_mean(base: Recipe) -> Recipe:
    """Weights of three values, scaled by the mean, are no better than by the median."""
    return base.but(transforms=(*base.transforms, Mapped(through=Ternary(median=False))))
