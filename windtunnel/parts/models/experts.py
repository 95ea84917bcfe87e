"""Mixture of experts as the `mlp` of a Transformer: each token is sent to `active` of `count` gated experts.

As in Mixtral (2401.04088): a linear router, the softmax over the chosen logits weighs the chosen experts' outputs.
Every expert is computed for every token and what was not chosen is multiplied by zero, so that no shape depends on a
value and a pack can batch it; sizes count what a token needs, not what is wasted here. Each expert is a module of its
own: an optimizer that is written for one matrix sees one, where a stack would be orthogonalised as a whole. A newcomer
would leave the router to the shapes, which cannot tell it from the readout; `roles` says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.parts.models.transformer import SwiGLU


class Mixture(nn.Module):
    """Router and experts, `down(silu(gate x) * up x)` each, over inputs (..., d)."""

    def __init__(self, width: int, hidden: int, count: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(SwiGLU(width, hidden) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        shares = routed(self.router(x), self.active)
        outputs = [expert(x) * share for expert, share in zip(self.experts, shares.split(1, dim=-1), strict=True)]
        return torch.stack(outputs).sum(0)


def routed(logits: Tensor, active: int) -> Tensor:
    """Shares of the experts (..., count): softmax over the `active` largest logits, zero elsewhere."""
    bar = logits.topk(active, dim=-1).values[..., -1:]
    return F.softmax(logits.masked_fill(logits < bar, -torch.inf), dim=-1)


@dataclass(frozen=True, kw_only=True)
class Experts:
    """`count` experts of hidden width `share` x width (rounded to a multiple of 8), `active` of them a token.

    2601.20205: hyperparameters transfer while `share` and `active` / `count` are held; nobody claims more.
    """

    count: int = 4
    active: int = 2
    share: float = 1.0

    roles = {"*.router.weight": "router"}  # noqa: RUF012

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.count:
            raise InputError(f"Experts(count={self.count}, active={self.active}): a token meets 1 to `count` experts.")

    def __call__(self, width: int) -> nn.Module:
        """A fresh module for one block."""
        return Mixture(width, self.hidden(width), self.count, self.active)

    def hidden(self, width: int) -> int:
        """An expert's hidden width."""
        return max(8, round(width * self.share / 8) * 8)

    def params(self, width: int) -> int:
        """All parameters of one block's mixture."""
        return width * self.count + 3 * width * self.hidden(width) * self.count

    def idle(self, width: int) -> int:
        """Those among them that a token does not meet."""
        return 3 * width * self.hidden(width) * (self.count - self.active)
