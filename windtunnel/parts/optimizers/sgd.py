"""Stochastic gradient descent with heavy-ball momentum, torch's form: velocity = momentum velocity + grad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, zeros_like

from windtunnel.recipe import Site, tuned


@dataclass(frozen=True, kw_only=True)
class SGD:
    """SGD; `weight_decay` is coupled (added to the gradient), as in torch.optim.SGD."""

    lr: float = tuned(1e-3, 1e1)
    momentum: float = 0.9
    weight_decay: float = 0.0

    geometry = "gradient"

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The velocity, zero."""
        return {"velocity": zeros_like(param)}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        velocity = hp["momentum"] * state["velocity"] + grad + hp["weight_decay"] * param
        return -hp["lr"] * velocity, {"velocity": velocity}
