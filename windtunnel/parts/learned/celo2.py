"""Celo2 (2602.19142): a trained network gives the direction of a hidden matrix's step, the user its size.

The direction is made of the features of VeLO without time, orthogonalised if asked, and divided by its root mean
square, so that a step is as large as AdamW's whatever the weights were trained under: rate, schedule and decay are the
user's, and any parametrization holds. All else (vectors, embeddings, readout) takes AdamW at 20 times the rate. A
newcomer would normalise a convolution or stacked experts as one tensor: each matrix is one by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.learned import network
from windtunnel.parts.learned.features import Layout, Moments, first_moments, layout_of
from windtunnel.parts.learned.small_fc import decays_of
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.parts.optimizers.muon import orthogonalize
from windtunnel.recipe import Site, tuned

RULE = "celo2"
MOST_GRADIENT = 1000.0  # entries of a gradient are held within this (published)
OTHERS = AdamW(lr=1.0)  # its numbers are Celo2's own
OTHERS_NUMBERS = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}


@dataclass(frozen=True, kw_only=True)
class Celo2:
    """The rule with trained weights; `lr` is that of hidden matrices, 3e-4 with a cosine to a tenth as published.

    `orthogonal` brings the direction's singular values near one before it is divided by its root mean square (five
    rounds of Newton-Schulz). `others_rate` times lr, `beta1`, `beta2` and `eps` are AdamW's. A step shrinks a weight by
    its rate x weight_decay. Raises InputError for weights of another rule.
    """

    weights: Weights
    lr: float = tuned(3e-5, 3e-3)
    orthogonal: bool = False
    weight_decay: float = 0.0
    others_rate: float = 20.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.weights.card.rule != RULE:
            raise InputError(f"Celo2 was given weights of {self.weights.card.rule!r}; they belong to another part.")

    def geometry(self, site: Site) -> str:
        """Entries of root mean square one; orthogonal ones are then sqrt(larger fan) x orthogonal, as Moonshot's."""
        return "matched" if self.orthogonal and site.role == "hidden" else OTHERS.geometry

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """Three momenta, the second moment and the factored ones for hidden matrices, AdamW's state for the rest."""
        if site.role != "hidden":
            return OTHERS.init(param, site)
        seen, layout = self._opened(param, site)
        return _leaves(first_moments(seen, layout), param, site)

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        grad = bounded(grad)
        if site.role != "hidden":
            return OTHERS.update(grad, state, param, {**hp, "lr": hp["lr"] * hp["others_rate"]}, site)
        card = self.weights.card
        seen, layout = self._opened(param, site)
        said, moments = network.moved(
            self.weights.network(param.device, param.dtype), card.features, card.magnitude, matrices(grad, site), seen,
            _moments(state, site), decays_of(card.decays, param), layout, param.new_zeros(len(seen)),
        )  # fmt: skip
        step = unmatrices(self._sized(said), param, site) * card.step_size
        return -hp["lr"] * (step + hp["weight_decay"] * param), _leaves(moments, param, site)

    def _sized(self, direction: Tensor) -> Tensor:
        """Of root mean square one, each matrix of (batch, 1, out, in) by itself."""
        if self.orthogonal:
            norm = torch.linalg.vector_norm(direction, dim=(-2, -1), keepdim=True) + 1e-8
            direction = orthogonalize(direction / norm, self.rounds)
        return of_size_one(direction)

    def _opened(self, param: Tensor, site: Site) -> tuple[Tensor, Layout]:
        seen = matrices(param, site)
        return seen, layout_of(seen.shape[2:], self.weights.card.features.square_axes)


def bounded(grad: Tensor) -> Tensor:
    """A gradient as Celo2 takes it."""
    return grad.clamp(-MOST_GRADIENT, MOST_GRADIENT)


def of_size_one(direction: Tensor) -> Tensor:
    """Each matrix of (batch, 1, out, in) over its root mean square."""
    mean = direction.square().mean((-2, -1), keepdim=True)
    return direction * torch.rsqrt(mean.clamp(min=1e-30))  # nothing stays nothing


def matrices(tensor: Tensor, site: Site) -> Tensor:
    """(others, 1, out, in): one matrix for each place of a kernel, each copy of a stack."""
    moved = tensor.permute(_order(tensor, site))
    return moved.reshape(-1, 1, *moved.shape[-2:])


def unmatrices(values: Tensor, like: Tensor, site: Site) -> Tensor:
    """What `matrices` made, in the shape of `like`."""
    order = _order(like, site)
    back = sorted(range(len(order)), key=lambda i: order[i])
    return values.reshape([like.shape[i] for i in order]).permute(back)


def _order(tensor: Tensor, site: Site) -> list[int]:
    axes = site.axes or "oi" + "-" * (tensor.ndim - 2)
    last = [axes.index("o"), axes.index("i")]
    return [i for i in range(tensor.ndim) if i not in last] + last


def _leaves(moments: Moments, param: Tensor, site: Site) -> dict[str, Tensor]:
    """Accumulators as a state: those of the tensor's shape one by one, so that they can be sharded as it is."""
    whole = {f"mean_{k}": m for k, m in enumerate(moments.means)} | {"square": moments.square}
    state = {name: unmatrices(value, param, site) for name, value in whole.items()}
    return state | {"over_a": moments.over_a, "over_b": moments.over_b}


def _moments(state: Mapping[str, Tensor], site: Site) -> Moments:
    """What `_leaves` took apart."""
    means = tuple(matrices(state[f"mean_{k}"], site) for k in range(3))
    return Moments(means, matrices(state["square"], site), state["over_b"], state["over_a"])
