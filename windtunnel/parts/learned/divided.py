"""small_fc where each process has some of a tensor: on its own part, with two sums over the processes a step.

What an entry's features need of the whole tensor is a few sums. First the mean second moment, the factored statistic
over the axis that is shared and the mean of the other one; then the sizes of the features, by which these are divided.
It takes both, for features are no sums of what the first ones are made of: roots of (second moment x scale + epsilon),
and row factors held above a share of their mean. A newcomer would gather the tensor: every process then holds it and
its state whole, and all do the same work. Accumulators move in place, so that a step needs no second set of them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from windtunnel.parts.learned import network
from windtunnel.parts.learned.features import (
    FACTORED,
    MOMENTA,
    WHOLE,
    Layout,
    Moments,
    Statistics,
    factors_of,
    first_moments,
    layout_of,
    scale_of,
    scaled,
    seen,
    unseen,
    with_roots,
)
from windtunnel.parts.learned.small_fc import decays_of, leaves_of, moments_of
from windtunnel.parts.learned.weights import Weights
from windtunnel.recipe import Site

OTHERS, A, B = WHOLE  # the axes of a tensor as the rule sees it
Sums = Generator[list[Tensor], list[Tensor], tuple[Tensor, dict[str, Tensor]]]
Sum = Generator[list[Tensor], list[Tensor], Any]


@dataclass(frozen=True)
class DividedFC:
    """The rule for a tensor of which every process has a part of axis `dim`, of the site's shape as a whole."""

    weights: Weights
    site: Site
    dim: int

    @property
    def axes(self) -> dict[str, tuple[int, int]]:
        """Which axis of a leaf of the state the processes share, and how long it is in all; others are alike on all."""
        whole, axis = self._whole, self._axis
        sides = {"over_b": (OTHERS, A) if whole.factored else (), "over_a": (OTHERS, B)}
        names = ("square", *(f"mean_{k}" for k in range(MOMENTA)))
        own = {name: (self.dim, self.site.shape[self.dim]) for name in names}
        return own | {
            name: (1 + kept.index(axis), whole.shape[axis]) for name, kept in sides.items() if axis in kept
        }  # leaves are (3, others, side)

    def init(self, param: Tensor) -> dict[str, Tensor]:
        """As the rule's, of this part."""
        layout = self._layout(param.shape)
        first = first_moments(seen(param[None], layout), layout)
        return leaves_of(first, layout, param) | {"steps": param.new_zeros(())}

    def update(self, grad: Tensor, state: Mapping[str, Tensor], param: Tensor, hp: Mapping[str, Tensor]) -> Sums:
        """The step to add to this part and the new state; what it yields must be summed over the processes."""
        card, layout = self.weights.card, self._layout(param.shape)
        grads, params = seen(grad[None], layout), seen(param[None], layout)
        net, decays = self.weights.network(param.device, param.dtype), decays_of(card.decays, param)
        dense_sums, moved_by = network.in_parts(net, card.features, grads, params)
        moments, mean_square, row_mean = yield from self._moments(decays, grads, moments_of(state, layout), layout)

        scale = scale_of(mean_square) if card.features.scale_free else None
        over_a, over_b = scaled(moments, scale)
        row_mean = row_mean if scale is None else row_mean * (scale * scale)
        factors = factors_of(card.features, over_a, over_b, layout, row_mean)
        bare = Statistics(factors, None, over_a, scale)
        dense = dense_sums(card.features, grads, params, moments, layout, bare)
        mean, columns, *rows = yield from self._sizes(dense, over_a, over_b)

        found = Statistics(factors, rows[0] if rows else None, columns, scale)
        steps = state["steps"].clamp(max=max(card.horizon - 1, 0))[None]
        said = moved_by(net, card.features, card.magnitude, grads, params, moments, layout, steps, found, mean)
        move = unseen(said, layout, param.shape)[0] * -card.step_size
        new = leaves_of(moments, layout, param) | {"steps": state["steps"] + 1}
        return hp["lr"] * (move - hp["weight_decay"] * param), new

    def _moments(self, decays: Tensor, grads: Tensor, moments: Moments, layout: Layout) -> Sum:
        """The first sum: accumulators after this gradient, their mean square, the row statistic's mean over rows."""
        axis, whole = self._axis, self._whole.shape
        moments, squares = _advanced(decays, grads, moments, layout, axis)
        rows_apart = layout.factored and axis == (A if layout.row_is_a else B)
        rows = [_row(moments, layout).sum(-1, keepdim=True)] if rows_apart else []
        square, *sums = yield [moments.square.sum(WHOLE, keepdim=True), *squares, *rows]
        if squares:
            moments = _completed(decays, moments, sums.pop(0) / whole[axis], axis)
        row_mean = sums.pop(0) / whole[axis] if rows_apart else _row(moments, layout).mean(-1, keepdim=True)
        return moments, square / prod(whole), row_mean

    def _sizes(self, dense: Tensor, *statistics: Tensor) -> Sum:
        """The second sum: the dense features' mean squares, and the statistics (over a, over b) normalised."""
        whole, eps = self._whole, self.weights.card.features.normaliser_eps
        sides = (B, A) if whole.factored else (B,)
        both = [with_roots(statistic) for statistic, _ in zip(statistics, sides, strict=False)]
        sums = {side: (each * each).sum((-2, -1), keepdim=True) for side, each in zip(sides, both, strict=True)}
        apart = [side for side in sides if self._axis in (OTHERS, side)]  # of which processes have parts
        dense, *joined = yield [dense, *(sums[side] for side in apart)]
        sums |= dict(zip(apart, joined, strict=True))
        means = [sums[side] / (whole.shape[0] * whole.shape[side]) for side in sides]
        normal = [each * torch.rsqrt(mean + eps) for each, mean in zip(both, means, strict=True)]
        return dense / float(max(1, prod(whole.shape))), *normal

    @property
    def _whole(self) -> Layout:
        return layout_of(self.site.shape, self.weights.card.features.square_axes)

    @property
    def _axis(self) -> int:
        """The axis of (others, a, b) that the processes share."""
        place = self._whole.order.index(self.dim) - len(self._whole.order)
        return B if not self._whole.factored else max(place, OTHERS)

    def _layout(self, shape: Sequence[int]) -> Layout:
        """The whole tensor's, but for its size: which axis is the largest is not this part's to say."""
        whole = self._whole
        if not whole.factored:
            return Layout(whole.order, (1, 1, prod(shape)), False, False)
        *others, a, b = (shape[i] for i in whole.order)
        return Layout(whole.order, (prod(others), a, b), True, whole.row_is_a)


def _row(moments: Moments, layout: Layout) -> Tensor:
    """The row statistic."""
    return moments.over_b if layout.row_is_a else moments.over_a


def _advanced(
    decays: Tensor, grad: Tensor, moments: Moments, layout: Layout, axis: int
) -> tuple[Moments, list[Tensor]]:
    """As `features.advanced`, in place; of the statistic over the axis that is shared, this part's sum of squares."""
    share = 1 - decays[:, :, None, None, None]
    for k, mean in enumerate(moments.means):
        mean.lerp_(grad, share[:, k])
    squared = grad * grad
    moments.square.lerp_(squared, share[:, MOMENTA])
    squared, share = squared.add_(1e-30), share[:, MOMENTA + 1 :, 0]
    over_a, over_b, sums = moments.over_a, moments.over_b, list[Tensor]()
    if axis == A:
        sums.append(squared.sum(-2))
    else:
        over_a = torch.lerp(over_a, squared.mean(-2).unsqueeze(1), share)
    if layout.factored and axis == B:
        sums.append(squared.sum(-1))
    elif layout.factored:
        over_b = torch.lerp(over_b, squared.mean(-1).unsqueeze(1), share)
    return Moments(moments.means, moments.square, over_b, over_a), sums


def _completed(decays: Tensor, moments: Moments, mean: Tensor, axis: int) -> Moments:
    """With the statistic over the shared axis, whose mean of squares is known now."""
    share = 1 - decays[:, MOMENTA + 1 : MOMENTA + 1 + FACTORED, None, None]
    if axis == A:
        over_a = torch.lerp(moments.over_a, mean.unsqueeze(1), share)
        return Moments(moments.means, moments.square, moments.over_b, over_a)
    return Moments(moments.means, moments.square, torch.lerp(moments.over_b, mean.unsqueeze(1), share), moments.over_a)
