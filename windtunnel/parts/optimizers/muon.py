"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon): orthogonalised momentum for hidden matrices, AdamW elsewhere.

The step has unit spectral norm times sqrt(fan_out / fan_in), the convention whose learning rate is free of width
(2602.20937); a newcomer would add a 1/width on top, which counts the width twice. Embeddings, readout and vectors take
`others` with a learning rate of their own: sharing one made the optimum drift by 0.4 log2 a doubling of width, one of
their own by 0.13 (measured, width 16 to 64, 100k tokens, 2 seeds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, zeros_like

from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.recipe import Site, tuned

# Quintic Newton-Schulz coefficients of the Muon post: singular values end within about 0.7 to 1.2 after five rounds.
QUINTIC = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon with Nesterov momentum. `others_lr` is AdamW's learning rate for the other tensors."""

    lr: float = tuned(2e-3, 2e-1)
    others_lr: float = tuned(1e-3, 1e-1)
    momentum: float = 0.95
    weight_decay: float = 0.0
    eps: float = 1e-8
    others: AdamW = AdamW(lr=1.0)  # noqa: RUF009  its lr, decay and eps are not read: Muon's own are
    rounds: int = 5

    def geometry(self, site: Site) -> str:
        """Spectral for hidden matrices, entrywise for the rest."""
        return "spectral" if site.role == "hidden" else self.others.geometry

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The momentum for hidden matrices, AdamW's state for the rest."""
        return {"mean": zeros_like(param)} if site.role == "hidden" else self.others.init(param, site)

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        if site.role != "hidden":
            return self.others.update(grad, state, param, self._others_hp(hp), site)
        mean = hp["momentum"] * state["mean"] + (1 - hp["momentum"]) * grad
        ahead = hp["momentum"] * mean + (1 - hp["momentum"]) * grad
        matrices = ahead if site.axes.startswith("-") else ahead.flatten(1)  # stacked ones one by one
        direction = orthogonalize(matrices, self.rounds).view_as(param)
        step = -hp["lr"] * (site.fan_out / site.fan_in) ** 0.5 * direction
        return step - hp["lr"] * hp["weight_decay"] * param, {"mean": mean}

    def _others_hp(self, hp: Mapping[str, Tensor]) -> dict[str, Any]:
        fixed = {f.name: getattr(self.others, f.name) for f in fields(self.others)}
        return fixed | {"lr": hp["others_lr"], "weight_decay": hp["weight_decay"], "eps": hp["eps"]}


def orthogonalize(matrix: Tensor, rounds: int) -> Tensor:
    """The nearest matrix with all singular values near 1, by `rounds` of the quintic Newton-Schulz iteration."""
    a, b, c = QUINTIC
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
