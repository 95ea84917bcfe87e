"""A2: the sharpness-aware step of DSI++ (2212.09744), SAM's (2010.01412): the gradient at the worst point nearby.

Read: both abstracts and SAM's equations 2 and 3 as restated in our facts. The gradient that AdamW follows is taken at
w + radius * g / |g|, the norm being over the whole network. A newcomer would normalise tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Recipe, Site, tuned


@dataclass(frozen=True, kw_only=True)
class SharpnessAware:
    """AdamW on the gradient taken `radius` uphill; two gradients a step, so twice the FLOPs."""

    lr: float = tuned(1e-4, 1e-1)
    radius: float = 0.05  # the papers' usual value
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0

    geometry = "entrywise"
    cost = 2.0

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """AdamW's."""
        return AdamW().init(param, site)

    def totals(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> dict[str, Tensor]:
        """The squared norm of the gradient."""
        return {"squared_norm": grad.square().sum()}

    def look_ahead(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> Tensor:
        """The way to the worst point within `radius`, to first order."""
        return grad * (hp["radius"] / (hp["squared_norm"] + 1e-24).sqrt())

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """AdamW's, of that gradient."""
        return AdamW().update(grad, state, param, hp, site)


def sharpness_aware(base: Recipe) -> Recipe:
    """Descending at the worst point of a small ball finds flatter minima, which forget less and generalise better."""
    return base.but(optimizer=SharpnessAware())
