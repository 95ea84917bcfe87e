"""AdamW (1711.05101): bias-corrected first moment over root second moment, with decoupled weight decay.

`weight_decay` has PyTorch's meaning: each step shrinks a weight by lr x weight_decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, zeros_like

from windtunnel.recipe import Site, tuned


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled decay. beta2 0.95 is the usual choice for language models (guess: fits small batches too)."""

    lr: float = tuned(1e-4, 1e-1)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
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
        root = square.sqrt() / (1 - hp["beta2"] ** steps).sqrt() + hp["eps"]
        step = mean / root * (-hp["lr"] / (1 - hp["beta1"] ** steps)) - hp["lr"] * hp["weight_decay"] * param
        return step, {"mean": mean, "square": square, "steps": steps}
