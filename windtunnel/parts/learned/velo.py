"""VeLO, as published for use: each tensor and step has a small network of its own, mixed from a bank (2211.09760).

A recurrent network reads thirty numbers of each tensor, and of all tensors through a maximum, and says how to mix 256
networks into the one that moves the tensor's entries, and how far. It follows the loss and the share of the training
that is done, so it must be told both. A newcomer would tune its rate; it has none: lr is 1, a schedule would act beside
the one it has learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.learned import network
from windtunnel.parts.learned.features import Layout, first_moments, layout_of, seen, unseen
from windtunnel.parts.learned.lstm import first_losses, heard, inputs_of, mixed, recurred
from windtunnel.parts.learned.shapes import NETWORK
from windtunnel.parts.learned.small_fc import decays_of, leaves_of, moments_of
from windtunnel.parts.learned.weights import Weights
from windtunnel.recipe import Parametrization, Site

RULE = "velo"
MOST_GRADIENT = 1000.0  # entries of a gradient are held within this (published)
MIX = 100.0  # what the mean over the bank is multiplied by (published)


@dataclass(frozen=True, kw_only=True)
class VeLO:
    """The rule with trained weights. A step is proportional to the tensor's root mean square.

    Needs the loss of each step and the horizon in steps: the engine tells both, `TorchOptimizer(horizon=...)` and
    `step(loss=...)` in a loop of your own. Raises InputError for weights of another rule.
    """

    weights: Weights
    lr: float = 1.0
    weight_decay: float = 0.0

    geometry = "relative"
    needs = ("loss", "horizon")

    def __post_init__(self) -> None:
        if self.weights.card.rule != RULE:
            raise InputError(f"VeLO was given weights of {self.weights.card.rule!r}; they belong to another part.")

    @property
    def parametrization(self) -> Parametrization:
        """The width rule of the weights' training."""
        return self.weights.parametrization()

    @property
    def identity(self) -> str:
        """What an optimizer's state is kept under: the rule and the hash of its weights."""
        return f"{RULE} {self.weights.hash}"

    def suits(self, parametrization: object) -> None:
        """Raise InputError for another parametrization than that of the weights' training."""
        self.weights.check(parametrization)

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """Accumulators and the loss's averages from zero, the recurrent network's trained first state, the steps."""
        layout, net = self._layout(param), self._net(param)
        start = {name: net[f"start.{name}"][0].clone() for name in ("hidden", "cell")}
        moments = leaves_of(first_moments(seen(param[None], layout), layout), layout, param)
        return moments | start | first_losses(param) | {"steps": param.new_zeros(())}

    def maxima(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> dict[str, Tensor]:
        """What every tensor hears of the others."""
        return {"largest": mixed(self._net(param), self._inputs(state, param, hp)[0])}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        card, net, layout = self.weights.card, self._net(param), self._layout(param)
        inputs, losses = self._inputs(state, param, hp)
        hidden, cell = recurred(net, inputs, hp["largest"].to(param.dtype), state["hidden"], state["cell"])
        grads, params = (seen(t[None], layout) for t in (grad.clamp(-MOST_GRADIENT, MOST_GRADIENT), param))
        said, moments = network.moved(
            own_network(net, hidden), card.features, card.magnitude, grads, params, moments_of(state, layout),
            decays_of(card.decays, param), layout, state["steps"][None],
        )  # fmt: skip
        size = torch.sqrt((param * param).mean() + 1e-9) * (hidden @ net["rate.w"] + net["rate.b"])[0] * card.step_size
        move = unseen(said, layout, param.shape)[0] * -size - hp["weight_decay"] * param
        new = leaves_of(moments, layout, param) | losses | {"hidden": hidden, "cell": cell}
        return hp["lr"] * move, new | {"steps": state["steps"] + 1}

    def _inputs(
        self, state: Mapping[str, Tensor], param: Tensor, hp: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The recurrent network's inputs, from the accumulators before this gradient, and the loss's averages."""
        features, losses = heard(state, hp["loss"], hp["horizon"])
        means = [state[f"mean_{k}"] for k in range(3)]
        return inputs_of(param, means, state["square"], state["steps"] / hp["horizon"], features), losses

    def _layout(self, param: Tensor) -> Layout:
        return layout_of(param.shape, self.weights.card.features.square_axes)

    def _net(self, like: Tensor) -> dict[str, Tensor]:
        return {name: value.to(like.device) for name, value in self.weights.tensors.items()}


def own_network(net: Mapping[str, Tensor], hidden: Tensor) -> dict[str, Tensor]:
    """The mean of the bank's networks, each times its control, times MIX; (1, ...) each."""
    controls = hidden @ net["controls.w"] + net["controls.b"]
    shares = controls * (MIX / len(controls))
    return {
        name: (shares @ net[f"bank.{name}"].flatten(1)).unflatten(0, net[f"bank.{name}"].shape[1:])[None]
        for name in NETWORK
    }
