"""C58: go wider instead of deeper (2107.11817), WideNet: one block for all depths, its parameters spent on experts.

Read: the abstract and the introduction, and the method as restated in our facts. Attention and a mixture of experts are
shared by all depths, every depth has norms of its own, whose gains make the same token look otherwise to the router.
The paper's balancing loss is not here (an objective does not see routers). Width rule: that of the shared tensors;
depth needs none, for blocks are uses of one block (a rule for depth refuses it). A newcomer would count a block a
depth: parameters do not grow with depth, FLOPs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.parts.models import Transformer
from windtunnel.parts.models.experts import Experts
from windtunnel.recipe import DataShape, Recipe, Tuned

FASTEST = 0.04  # at 0.1 the experts' outputs shrink with width (slope -0.45 [-0.68, -0.22]), at 0.02 they do not


@dataclass(frozen=True, kw_only=True)
class OneBlock:
    """A transformer whose blocks are one block; `own_norms`: but for their norms. `of` says what the block is."""

    of: Transformer
    own_norms: bool = True

    @property
    def roles(self) -> Mapping[str, str]:
        """The block's own."""
        return self.of.roles

    def build(self, rung: Rung, data: DataShape) -> nn.Module:
        """A fresh module; all blocks hold the first one's attention and mixture."""
        model: Any = self.of.build(rung, data)
        first, *others = model.blocks
        for block in others:
            block.attention, block.mlp = first.attention, first.mlp
            if not self.own_norms:
                block.attention_norm, block.mlp_norm = first.attention_norm, first.mlp_norm
        return model

    def size(self, rung: Rung, data: DataShape) -> Size:
        """One block's parameters and every depth's norms; the FLOPs of all depths."""
        deep, flat = self.of.size(rung, data), self.of.size(rung.but(depth=1), data)
        gains = 2 * rung.width * (2 if self.of.norm is nn.LayerNorm else 1) if self.of.gains and self.own_norms else 0
        return replace(
            flat, non_embedding=flat.non_embedding + (rung.depth - 1) * gains, flops_per_token=deep.flops_per_token
        )


def _shared(base: Recipe, experts: Experts | None = None, own_norms: bool = True) -> Recipe:
    """The base's transformer as one block of experts with trained gains."""
    if not isinstance(base.model, Transformer):
        raise InputError(
            f"A shared block is made of a Transformer; the recipe's model is a {type(base.model).__name__}."
        )
    block = replace(base.model, mlp=experts or Experts(count=4, active=2, share=2.0), gains=True)
    return base.but(model=OneBlock(of=block, own_norms=own_norms), optimizer=_calmer(base.optimizer))


def _calmer(optimizer: Any) -> Any:
    """The optimizer, its rate searched up to `FASTEST`."""
    open_ = getattr(optimizer, "lr", None)
    if not isinstance(open_, Tuned) or open_.high <= FASTEST:
        return optimizer
    return replace(optimizer, lr=replace(open_, high=FASTEST))


def wider_not_deeper(base: Recipe) -> Recipe:
    """One block of experts used at every depth, with norms of its own each time, does more with fewer parameters."""
    return _shared(base)


def shared_norms(base: Recipe) -> Recipe:
    """Sharing the norms over depth as well costs what norms of their own buy."""
    return _shared(base, own_norms=False)
