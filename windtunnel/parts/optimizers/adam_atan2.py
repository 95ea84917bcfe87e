"""Adam-atan2 (Everett et al. 2407.05872): AdamW with the quotient of its moments replaced by their angle.

The angle does not change when gradients do by a factor, so there is no epsilon to tune or to scale with width. It is
never more than pi/2 (Adam's quotient is not bounded) and near 1 it is 0.79 of Adam's: a newcomer who carries Adam's
rate over takes smaller steps. The authors' form; others multiply by constants (a = 1.27, b = 1) that undo this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, zeros_like

from windtunnel.recipe import Site, tuned


@dataclass(frozen=True, kw_only=True)
class AdamAtan2:
    """AdamW's moments and decay, no epsilon."""

    lr: float = tuned(1e-4, 1e-1)
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0

    geometry = "entrywise"

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
        root = square.sqrt() / (1 - hp["beta2"] ** steps).sqrt()
        angle = torch.atan2(mean / (1 - hp["beta1"] ** steps), root)
        return -hp["lr"] * (angle + hp["weight_decay"] * param), {"mean": mean, "square": square, "steps": steps}
