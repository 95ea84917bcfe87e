"""C1: weight compander (2306.16993): train v, use a bounded, odd function of it that is steep at zero.

Read: the abstract, and its restatement in our facts. The paper's own formula was not at hand: this is scale * arctan(v
/ (scale * slope)) with both fixed, steep at zero by 1 / slope and bounded by scale * pi / 2. Bound and initial values
are in units of each tensor's initial size, which the fan-in gives, so the map has a width rule. Its slope at zero
multiplies gradients: with slope = 1 it does not, and what is left is the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from windtunnel.parts.transforms import Mapped
from windtunnel.recipe import Recipe


@dataclass(frozen=True)
class Compander:
    """scale * arctan(v / (scale * slope)), scale being `bound` initial sizes, 1 / sqrt(fan-in) each."""

    bound: float = 3.0  # guess: initial values reach there
    slope: float = 1.0  # 1: no change at zero, so that a gain is not a learning rate's

    def __call__(self, weight: Tensor) -> Tensor:
        """The weight that is used."""
        scale = self.bound * prod(weight.shape[1:]) ** -0.5
        return scale * (weight / (scale * self.slope)).atan()


def weight_compander(base: Recipe) -> Recipe:
    """Squashing weights so that none gets large generalises better."""
    return base.but(transforms=(*base.transforms, Mapped(through=Compander())))
