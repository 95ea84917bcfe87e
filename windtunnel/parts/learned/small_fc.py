"""small_fc, and muLO: a network of a few hundred numbers says how far every weight moves (2203.11860, 2406.00153).

The step is rate x step_size x d x exp(magnitude x m), d and m the network's two outputs. muLO is the same rule with
weights trained under muP, and the parametrization of their card. A newcomer would tune the rate: it is 1, what the
weights were trained at; a schedule multiplies it. Decay is independent: a step shrinks a weight, as it was before the
step, by schedule x lr x weight_decay, at every width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.learned import network
from windtunnel.parts.learned.features import (
    Layout,
    Moments,
    first_moments,
    layout_of,
    seen,
    unseen,
)
from windtunnel.parts.learned.weights import Weights
from windtunnel.recipe import Parametrization, Site

RULE = "small_fc"


@dataclass(frozen=True, kw_only=True)
class SmallFC:
    """The rule with trained weights. Past the horizon of their training, time stands still in their features.

    Raises InputError for weights of another rule.
    """

    weights: Weights
    lr: float = 1.0
    weight_decay: float = 0.0

    geometry = "entrywise"

    def __post_init__(self) -> None:
        if self.weights.card.rule != RULE:
            raise InputError(f"SmallFC was given weights of {self.weights.card.rule!r}; they belong to another part.")

    @property
    def parametrization(self) -> Parametrization:
        """The width rule of the weights' training."""
        return self.weights.parametrization()

    @property
    def identity(self) -> str:
        """What an optimizer's state is kept under: the rule and the hash of its weights."""
        return f"{RULE} {self.weights.hash}"

    def remark(self, steps: int) -> str:
        """What is to be said after so many steps: that the horizon of the training is passed, or nothing."""
        if steps < self.weights.card.horizon:
            return ""
        return (
            f"The learned optimizer {self.weights.hash} was trained on up to {self.weights.card.horizon:,} steps; it "
            f"goes on as at the last of them. Let a schedule bring the rate down, or take weights of a longer horizon."
        )

    def suits(self, parametrization: Any) -> None:
        """Raise InputError for another parametrization than that of the weights' training."""
        self.weights.check(parametrization)

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """Three momenta, the second moment, factored second moments and the steps, from zero."""
        layout = layout_of(param.shape, self.weights.card.features.square_axes)
        return leaves_of(first_moments(seen(param[None], layout), layout), layout, param) | {
            "steps": param.new_zeros(())
        }

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        move, new = stepped(self.weights, grad, state, param)
        return hp["lr"] * (move - hp["weight_decay"] * param), new

    def divided(self, site: Site, dim: int) -> Any:
        """The rule for a part of axis `dim` of a tensor: two sums over the processes a step, nothing gathered.

        None where a part of that axis is no stretch of the factored statistics: a small axis behind another small one.
        """
        from windtunnel.parts.learned.divided import DividedFC  # it is made of what stands here

        order = layout_of(site.shape, self.weights.card.features.square_axes).order
        return None if 0 < order.index(dim) < len(order) - 2 else DividedFC(weights=self.weights, site=site, dim=dim)


def stepped(
    weights: Weights, grad: Tensor, state: Mapping[str, Tensor], param: Tensor,
    more: Callable[[Tensor, Layout], tuple[Tensor, ...]] = lambda grads, layout: (),
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The step at rate 1 and the new state; `more` makes the further features of the gradient as the rule sees it."""
    card = weights.card
    layout = layout_of(param.shape, card.features.square_axes)
    grads, params = seen(grad[None], layout), seen(param[None], layout)
    steps = state["steps"].clamp(max=max(card.horizon - 1, 0))[None]
    said, moments = network.moved(
        weights.network(param.device, param.dtype), card.features, card.magnitude, grads, params,
        moments_of(state, layout), decays_of(card.decays, param), layout, steps, more(grads, layout),
    )  # fmt: skip
    move = unseen(said, layout, param.shape)[0] * -card.step_size
    return move, leaves_of(moments, layout, param) | {"steps": state["steps"] + 1}


def decays_of(decays: Mapping[str, tuple[float, ...]], like: Tensor) -> Tensor:
    """A card's decays for tensors like this, (1, 7)."""
    row = [*decays["momentum"], *decays["rms"], *decays["factored"]]
    return torch.tensor([row], dtype=like.dtype, device=like.device)


def leaves_of(moments: Moments, layout: Layout, param: Tensor) -> dict[str, Tensor]:
    """One tensor's accumulators as a state: those of its shape one by one, so that they can be sharded as it is."""
    whole = {f"mean_{k}": m for k, m in enumerate(moments.means)} | {"square": moments.square}
    state = {name: unseen(value, layout, param.shape)[0] for name, value in whole.items()}
    return state | {"over_a": moments.over_a[0]} | ({"over_b": moments.over_b[0]} if layout.factored else {})


def moments_of(state: Mapping[str, Tensor], layout: Layout) -> Moments:
    """What `leaves_of` took apart."""
    means = tuple(seen(state[f"mean_{k}"][None], layout) for k in range(3))
    over_a = state["over_a"][None]
    over_b = state["over_b"][None] if layout.factored else over_a[..., :0]
    return Moments(means, seen(state["square"][None], layout), over_b, over_a)
