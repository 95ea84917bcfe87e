"""Rules for the outer step of local training: K workers take H steps each, then one step is made of where they went.

Every rule is an ordinary part whose "gradient" is how far the workers' mean has come, the other way round (DiLoCo's
outer gradient): averaging is SGD at rate 1, SlowMo (1910.00643) has momentum, LOpt-A (2312.02204) is a learned rule. In
the residual form the learned step is added to the average instead of replacing it: without it LOpt-A was no match for
tuned SlowMo (measured). LAgg as published has a feature for each worker, in order, and so belongs to one K; here it
sees the mean and four statistics of the workers, whatever their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, zeros_like

from windtunnel.errors import InputError
from windtunnel.parts.learned.features import WHOLE, Layout, seen
from windtunnel.parts.learned.small_fc import SmallFC, stepped
from windtunnel.parts.learned.weights import Weights
from windtunnel.recipe import Parametrization, Site, tuned

STATISTICS = ("deviation", "least", "most", "agreement")


def statistics_of(deltas: Tensor) -> dict[str, Tensor]:
    """What K workers' ways (K, ...) say besides their mean: the same number of tensors for any K.

    Standard deviation, least, most, and the mean of the signs, which is 1 or -1 where all agree.
    """
    apart = deltas.std(0, correction=0)
    return dict(zip(STATISTICS, (apart, deltas.amin(0), deltas.amax(0), deltas.sign().mean(0)), strict=True))


@dataclass(frozen=True, kw_only=True)
class SlowMo:
    """Slow momentum around local steps (1910.00643): the velocity of outer gradients, over the local rate there.

    `momentum` 0 and `lr` 1 is plain averaging.
    """

    lr: float = tuned(1e-2, 2.0)
    momentum: float = 0.8

    geometry = "gradient"
    displaces = True  # its rate is a share of the way that the workers went, which is the same at every width

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The velocity, zero."""
        return {"velocity": zeros_like(param)}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        velocity = hp["momentum"] * state["velocity"] + grad
        return -hp["lr"] * velocity, {"velocity": velocity}


@dataclass(frozen=True, kw_only=True)
class LearnedOuter:
    """LOpt-A, or LAgg for any number of workers, as the card's `outer` says: {"residual": bool, "statistics": bool}.

    With statistics, `hp` holds what `statistics_of` returns, of the outer gradient. Raises InputError for weights of
    another rule.
    """

    weights: Weights
    lr: float = 1.0

    geometry = "entrywise"

    def __post_init__(self) -> None:
        if self.weights.card.rule != "small_fc" or "residual" not in self.weights.card.outer:
            raise InputError(
                f"LearnedOuter was given weights of {self.weights.card.rule!r} that were not trained around local ones."
            )

    @property
    def parametrization(self) -> Parametrization:
        """The width rule of the weights' training."""
        return self.weights.parametrization()

    @property
    def identity(self) -> str:
        """What an outer state is kept under."""
        return f"outer {self.weights.hash}"

    @property
    def statistics(self) -> bool:
        """Whether it looks at the workers' statistics."""
        return bool(self.weights.card.outer.get("statistics"))

    def remark(self, rounds: int) -> str:
        """As SmallFC's, of outer steps."""
        return SmallFC(weights=self.weights).remark(rounds)

    def suits(self, parametrization: Any) -> None:
        """Raise InputError for another parametrization than that of the weights' training."""
        self.weights.check(parametrization)

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """As SmallFC's."""
        return SmallFC(weights=self.weights).init(param, site)

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""

        def more(grads: Tensor, layout: Layout) -> tuple[Tensor, ...]:
            return further({n: seen(hp[n][None], layout) for n in STATISTICS}, grads) if self.statistics else ()

        move, new = stepped(self.weights, grad, state, param, more)
        return hp["lr"] * move - (grad if self.weights.card.outer["residual"] else 0), new


def further(statistics: Mapping[str, Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """The workers' statistics as features: over the outer gradient's own size, so that they are free of scale."""
    size = torch.rsqrt(grad.square().mean(WHOLE, keepdim=True).clamp(min=1e-36))
    scaled = [statistics[name] * size for name in STATISTICS[:-1]]
    return (*scaled, statistics[STATISTICS[-1]])
