"""What a step does to the particles' tensors of one group: each mover keeps its accumulators as `Moments`.

Small_fc moves every entry of every tensor. Celo2's network gives the direction of hidden matrices alone, and AdamW
moves the rest. A newcomer would train a direction's network together with a step size that it learns: then the rate and
the schedule of the meta-training stay in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.learned import celo2, native, network
from windtunnel.parts.learned.features import Features, Moments, first_moments, layout_of, seen, unseen
from windtunnel.parts.learned.outer import further
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import Weights
from windtunnel.recipe import Optimizer, Site

Net = Mapping[str, Tensor]  # a leading axis of the tensors that are moved


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The rule is Celo2 (2602.19142): directions of hidden matrices, each of root mean square one.

    All else takes AdamW at `others_rate` times the rate (20 as published), with Celo2's numbers. The rate of hidden
    matrices is the meta-training's `step_size`; whoever uses the weights chooses another. Raises InputError.
    """

    others_rate: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.others_rate < float("inf"):
            raise InputError(f"Direction(others_rate={self.others_rate}): it is a positive number.")


class Mover(Protocol):
    """Moves the tensors of a group, (batch, ...) one particle's after another; `learned` says by the network."""

    learned: bool

    def first(self, params: Tensor) -> Moments: ...
    def moved(
        self, net: Net, grads: Tensor, params: Tensor, old: Moments, decays: Tensor, steps: Tensor, rates: Tensor,
        statistics: Mapping[str, Tensor],
    ) -> tuple[Tensor, Moments]: ...  # fmt: skip


@dataclass(frozen=True)
class Entries:
    """Small_fc: every entry by itself. `magnitude` multiplies the network's second output."""

    site: Site
    features: Features
    magnitude: float
    learned = True

    def first(self, params: Tensor) -> Moments:
        """From zero."""
        layout = layout_of(self.site.shape, self.features.square_axes)
        return first_moments(seen(params, layout), layout)

    def moved(
        self, net: Net, grads: Tensor, params: Tensor, old: Moments, decays: Tensor, steps: Tensor, rates: Tensor,
        statistics: Mapping[str, Tensor],
    ) -> tuple[Tensor, Moments]:  # fmt: skip
        """The steps to add, and the accumulators after them."""
        layout = layout_of(self.site.shape, self.features.square_axes)
        grad, held = seen(grads, layout), seen(params, layout)
        more = further({n: seen(t, layout) for n, t in statistics.items()}, grad) if statistics else ()
        if not more and native.suits(grad, net["w1"].shape[-1]):
            said = native.step(
                net, self.features, self.magnitude, grad, held, old, old, layout, decays, steps, rates
            )  # in place
        else:
            said, old = network.moved(
                net, self.features, self.magnitude, grad, held, old, decays, layout, steps, more
            )  # fmt: skip
            said = said * rates[:, None, None, None]
        return unseen(said, layout, self.site.shape), old


@dataclass(frozen=True)
class Directions:
    """Celo2's hidden matrices."""

    site: Site
    features: Features
    learned = True

    def first(self, params: Tensor) -> Moments:
        """From zero, each matrix of a stack by itself."""
        held = celo2.matrices(params, self._stacked)
        return first_moments(held, layout_of(held.shape[2:], self.features.square_axes))

    def moved(
        self, net: Net, grads: Tensor, params: Tensor, old: Moments, decays: Tensor, steps: Tensor, rates: Tensor,
        statistics: Mapping[str, Tensor],
    ) -> tuple[Tensor, Moments]:  # fmt: skip
        """The steps to add, and the accumulators after them."""
        site = self._stacked
        grad, held = celo2.matrices(celo2.bounded(grads), site), celo2.matrices(params, site)
        each = len(held) // len(params)
        layout = layout_of(held.shape[2:], self.features.square_axes)
        net = {name: value.repeat_interleave(each, 0) for name, value in net.items()} if each > 1 else net
        decays, steps = decays.repeat_interleave(each, 0), steps.repeat_interleave(each)
        said, new = network.moved(net, self.features, 0.0, grad, held, old, decays, layout, steps)
        move = celo2.unmatrices(celo2.of_size_one(said), params, site)
        return move * rates.reshape(-1, *(1 for _ in self.site.shape)), new

    @property
    def _stacked(self) -> Site:
        """The site with the leading axis of particles as a stack."""
        return replace(self.site, axes="-" + (self.site.axes or "oi" + "-" * (len(self.site.shape) - 2)))


@dataclass(frozen=True)
class Others:
    """AdamW for what Celo2's network does not see."""

    site: Site
    direction: Direction
    learned = False

    def first(self, params: Tensor) -> Moments:
        """Both moments from zero; nothing else is kept."""
        nothing = params.new_zeros(len(params), 0)
        return Moments((torch.zeros_like(params), nothing, nothing), torch.zeros_like(params), nothing, nothing)

    def moved(
        self, net: Net, grads: Tensor, params: Tensor, old: Moments, decays: Tensor, steps: Tensor, rates: Tensor,
        statistics: Mapping[str, Tensor],
    ) -> tuple[Tensor, Moments]:  # fmt: skip
        """The steps to add, and the moments after them."""
        wide = (-1, *(1 for _ in self.site.shape))
        hp = {name: params.new_tensor(value) for name, value in celo2.OTHERS_NUMBERS.items()}
        hp["lr"] = -self.direction.others_rate * rates.reshape(wide)
        state = {"mean": old.means[0], "square": old.square, "steps": steps.reshape(wide)}
        move, new = celo2.OTHERS.update(celo2.bounded(grads), state, params, hp, self.site)
        return move, replace(old, means=(new["mean"], *old.means[1:]), square=new["square"])


def mover(site: Site, features: Features, magnitude: float, direction: Direction | None) -> Mover:
    """What moves tensors of this site."""
    if direction is None:
        return Entries(site, features, magnitude)
    return Directions(site, features) if site.role == "hidden" else Others(site, direction)


def part_of(weights: Weights) -> Optimizer:
    """The part that trains as the particles of these weights' meta-training were, Celo2 at the rate that was theirs.

    Raises InputError for weights of Celo2 that say no rate, as those that others published.
    """
    made = weights.card.made
    if weights.card.rule != celo2.RULE:
        return SmallFC(weights=weights)
    if "step_size" not in made or "others_rate" not in made:
        raise InputError(f"The weights {weights.hash} say no rate; give Celo2(weights=..., lr=..., others_rate=...).")
    return celo2.Celo2(weights=weights, lr=float(made["step_size"]), others_rate=float(made["others_rate"]))
