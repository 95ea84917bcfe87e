"""LARS (1708.03888): heavy-ball momentum over gradients made as large as a share of the weights they move.

The trust ratio is taken before the momentum, as in the paper, so that steps along one direction add up to
lr / (1 - momentum) of the weights; a newcomer who sets LAMB's rate here takes ten times its steps. As there, the rate
is not free of width. Gains and biases are moved by plain SGD at the same rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, zeros_like

from windtunnel.parts.optimizers.lamb import VECTORS, trust
from windtunnel.recipe import Site, tuned


@dataclass(frozen=True, kw_only=True)
class LARS:
    """LARS; `lr` is the paper's rate times its trust coefficient, `weight_decay` is added to the gradient."""

    lr: float = tuned(1e-4, 1e-1)
    momentum: float = 0.9
    weight_decay: float = 0.0

    def geometry(self, site: Site) -> str:
        """Relative for what has a fan-in, SGD's for gains and biases."""
        return "gradient" if site.role in VECTORS else "relative"

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The velocity, zero."""
        return {"velocity": zeros_like(param)}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state; the rate is inside the velocity, as in the paper."""
        direction = grad + hp["weight_decay"] * param
        ratio = 1.0 if site.role in VECTORS else trust(param, direction)
        velocity = hp["momentum"] * state["velocity"] - hp["lr"] * (ratio * direction)
        return velocity, {"velocity": velocity}
