"""LAMB (1904.00962, Algorithm 2): Adam's step, made as large as `lr` times the weights it moves.

The trust ratio compares Frobenius norms of a whole tensor, so a step has a set size but Adam's direction. A newcomer
would call its learning rate free of width; where steps line up with activations it falls as 1/sqrt(fan-in) (measured,
`scaling/rules/reach.py`). Gains and biases take Adam's step at the same rate, as in the authors' code: a bias that
starts at zero would never move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, zeros_like

from windtunnel.recipe import Site, tuned

VECTORS = ("gain", "bias", "vector")


@dataclass(frozen=True, kw_only=True)
class LAMB:
    """LAMB with the paper's betas and eps and the identity as its scaling function; decay counts as part of the step,
    so that it turns weights and does not shrink them by lr x weight_decay."""

    lr: float = tuned(1e-3, 3e-1)
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0

    def geometry(self, site: Site) -> str:
        """Relative for what has a fan-in, entrywise for gains and biases."""
        return "entrywise" if site.role in VECTORS else "relative"

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """Both moments and the step count, zero."""
        return {"mean": zeros_like(param), "square": zeros_like(param), "steps": param.new_zeros(())}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        steps = state["steps"] + 1
        mean = hp["beta1"] * state["mean"] + (1 - hp["beta1"]) * grad
        square = hp["beta2"] * state["square"] + (1 - hp["beta2"]) * grad * grad
        root = square.sqrt() / (1 - hp["beta2"] ** steps).sqrt() + hp["eps"]
        direction = mean / root / (1 - hp["beta1"] ** steps) + hp["weight_decay"] * param
        ratio = 1.0 if site.role in VECTORS else trust(param, direction)
        return -hp["lr"] * (ratio * direction), {"mean": mean, "square": square, "steps": steps}


def trust(param: Tensor, direction: Tensor) -> Tensor:
    """|param| / |direction|, and 1 where either is zero."""
    weights, step = torch.linalg.vector_norm(param), torch.linalg.vector_norm(direction)
    known = (weights > 0) & (step > 0)
    return torch.where(known, weights / torch.where(known, step, 1.0), 1.0)
