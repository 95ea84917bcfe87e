"""Shampoo (1802.09568) with running means (2309.06497): L^-1/4 M R^-1/4, with L and R the mean G G' and G' G.

The step of one gradient alone is the orthogonal factor U V' of its singular value decomposition, so the rule is Muon's
without its factor. A side longer than `largest` has no preconditioner and the other takes the whole root, -1/2, which
keeps the step orthogonal (one-sided, as in 2409.11321). A newcomer would cut long sides into blocks of one size, as
large runs do; each block's step is then as large as any other's, and the rule for width is Adam's. Roots are taken
anew at every step, by eigenvalues, because a pack cannot branch; damping is a share of the largest eigenvalue, as in
the code of 2002.09018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, zeros_like

from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.recipe import Site, tuned

OTHERS = AdamW(lr=1.0)  # reads its numbers from hp alone


@dataclass(frozen=True, kw_only=True)
class Shampoo:
    """Shampoo for hidden matrices; `others_lr` is AdamW's learning rate for embeddings, readout and vectors.

    `beta1`, `eps` and `weight_decay` are AdamW's as well. `damping` times the largest eigenvalue is added to all.
    """

    lr: float = tuned(2e-3, 2e-1)
    others_lr: float = tuned(1e-3, 1e-1)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    damping: float = 1e-6
    largest: int = 2048

    def geometry(self, site: Site) -> str:
        """Orthogonal for hidden matrices, entrywise for the rest."""
        return "orthogonal" if _whole(site) else OTHERS.geometry

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The momentum, the means of G G' and G' G and the step count, zero; AdamW's state for what is not hidden."""
        if not _whole(site):
            return OTHERS.init(param, site)
        grams = {name: param.new_zeros(n, n) for name, n in self._sides(param).items()}
        return {"mean": zeros_like(param), "steps": param.new_zeros(())} | grams

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        if not _whole(site):
            return OTHERS.update(grad, state, param, {**hp, "lr": hp["others_lr"]}, site)
        steps, g = state["steps"] + 1, grad.flatten(1)
        new = {"mean": hp["beta1"] * state["mean"] + (1 - hp["beta1"]) * grad, "steps": steps}
        sides = self._sides(param)
        direction = new["mean"].flatten(1) / (1 - hp["beta1"] ** steps)
        for name in sides:
            outer = g @ g.mT if name == "left" else g.mT @ g
            new[name] = hp["beta2"] * state[name] + (1 - hp["beta2"]) * outer
            root = inverse_root(new[name] / (1 - hp["beta2"] ** steps), len(sides), hp["damping"])
            direction = root @ direction if name == "left" else direction @ root
        return -hp["lr"] * (direction.view_as(param) + hp["weight_decay"] * param), new

    def _sides(self, param: Tensor) -> dict[str, int]:
        """The sides with a preconditioner and their lengths: always the shorter one, the other if not too long."""
        sides = {"left": len(param), "right": param.numel() // len(param)}
        shorter, longer = sorted(sides, key=lambda name: sides[name])
        return sides if sides[longer] <= self.largest else {shorter: sides[shorter]}


def _whole(site: Site) -> bool:
    """A hidden matrix, and not a stack of several, which one preconditioner would mix."""
    return site.role == "hidden" and "-" not in site.axes


def inverse_root(matrix: Tensor, halvings: int, damping: Tensor | float) -> Tensor:
    """(matrix + damping x its largest eigenvalue)^-1/2, -1/4, ... after 1, 2, ... `halvings` of the exponent, of a
    symmetric matrix without negative eigenvalues; zero for a zero matrix."""
    size = matrix.abs().amax()
    finite = torch.nan_to_num(
        matrix / torch.where(size > 0, size, 1.0), posinf=0.0, neginf=0.0
    )  # eigh raises on others
    values, vectors = torch.linalg.eigh(finite)
    values = (values.clamp_min(0) + damping * values.amax()) * size
    for _ in range(halvings):  # not a power: its last bit depends on how many matrices are batched (measured)
        values = values.sqrt()
    return (vectors * torch.where(size > 0, 1 / values, 0.0)) @ vectors.mT
