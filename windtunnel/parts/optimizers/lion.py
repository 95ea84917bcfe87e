"""Lion (2302.06675): the sign of an interpolation between momentum and gradient, with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, zeros_like

from windtunnel.recipe import Site, tuned


@dataclass(frozen=True, kw_only=True)
class Lion:
    """Lion with the paper's betas; its best lr is some 3 to 10 times below AdamW's (paper)."""

    lr: float = tuned(1e-5, 3e-2)
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    geometry = "entrywise"

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The momentum, zero."""
        return {"mean": zeros_like(param)}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        direction = (hp["beta1"] * state["mean"] + (1 - hp["beta1"]) * grad).sign()
        mean = hp["beta2"] * state["mean"] + (1 - hp["beta2"]) * grad
        return -hp["lr"] * (direction + hp["weight_decay"] * param), {"mean": mean}
