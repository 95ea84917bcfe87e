"""C2: self-tuning networks (1903.03088): a dropout rate that is learned in the run, from examples set aside.

Read: the abstract and sections 3 and 4 as restated in our facts. Every chosen layer answers to the rate with a second
matrix, W x + (c r) (W' x) row by row, the best response; training examples fit both matrices at rates drawn around the
present one, examples set aside move the rate alone, with an entropy term on how widely it is drawn. The paper takes two
steps of training to one of tuning; here every batch has two parts of one and one of the other, which is the same ratio
and one kind of step. A newcomer would tune on the judge's examples: they are set aside from the training data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.ladder import Rung, Size
from windtunnel.parts.data.set_aside import SHARE_OF_BATCH, SetAside
from windtunnel.parts.models import Transformer
from windtunnel.parts.transforms.dropout import NONE, mixed, normal
from windtunnel.parts.transforms.layers import chosen, shapes, swapped
from windtunnel.recipe import DataShape, Recipe


@dataclass(frozen=True, kw_only=True)
class SelfTuned:
    """The network (of the recipe's model part `of`) with a learned dropout rate behind layers that `where` names."""

    of: Any
    where: str = "*"
    start: float = 0.05  # the first rate
    spread: float = 0.5  # standard deviation of the rates that are tried, in logits (guess)
    needs = ("noise",)

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module around the one given, whose layers answer to the rate."""
        layers = chosen(model, self.where)
        places = {id(layer): place for place, layer in enumerate(layers.values())}
        swapped(model, layers, lambda layer: Answering(layer, places[id(layer)]))
        return SelfTuning(model, math.log(self.start / (1 - self.start)), math.log(self.spread))

    def size(self, size: Size, rung: Rung, data: DataShape) -> Size:
        """A second matrix and a response an output for every layer that answers, and the two numbers of the rate."""
        held = shapes(self.of, rung, data, self.where)
        more = sum(out * within + out for out, within in held) + 2
        flops = 6.0 * sum(out * within for out, within in held)
        return replace(size, non_embedding=size.non_embedding + more, flops_per_token=size.flops_per_token + flops)


class Offset(nn.Module):
    """A number that is learned, beside the one it began with."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start, self.bias = start, nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return self.start + self.bias


class SelfTuning(nn.Module):
    """Draws rates, tells them to the layers, and lets the examples set aside move them alone."""

    noise: Tensor

    def __init__(self, inner: nn.Module, logit: float, log_spread: float) -> None:
        super().__init__()
        self.inner, self.logit, self.log_spread = inner, Offset(logit), Offset(log_spread)
        self.register_buffer("noise", torch.tensor(NONE, dtype=torch.int64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        logit, spread = self.logit(), self.log_spread().exp()
        tuning = max(1, int(len(inputs) * SHARE_OF_BATCH)) if self.training else 0
        drawn = normal(self.noise, len(inputs)) * self.training
        trained = logit.detach() + spread.detach() * drawn[: len(inputs) - tuning]
        tuned = logit + spread * drawn[len(inputs) - tuning :]
        for layer in self.inner.modules():
            if isinstance(layer, Answering):
                layer.told = (torch.cat([trained, tuned]), tuning, self.noise)
        return self.inner(inputs)


class Answering(nn.Linear):
    """A linear layer with a second matrix that answers to the rate, and dropout at that rate behind it."""

    told: tuple[Tensor, int, Tensor] | None = None

    def __init__(self, layer: nn.Linear, place: int) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias, self.place = layer.weight, layer.bias, place
        device = layer.weight.device
        self.answer = nn.Linear(layer.in_features, layer.out_features, bias=False, device=device)
        self.response = Response(layer.out_features, device)

    def forward(self, input: Tensor) -> Tensor:
        logits, tuning, noise = self.told or (torch.zeros(len(input), device=input.device), 0, torch.tensor(NONE))
        cut = len(input) - tuning
        here = self._answered(input[:cut], logits[:cut], False)
        if not self.training:
            return here
        here = torch.where(noise == NONE, here, self._dropped(here, logits[:cut], noise))
        return torch.cat([here, self._answered(input[cut:], logits[cut:], True)]) if tuning else here

    def _answered(self, x: Tensor, logits: Tensor, tuning: bool) -> Tensor:
        tensors = (self.weight, self.answer.weight, self.response.bias, self.bias)
        weight, answer, response, bias = (t if t is None or not tuning else t.detach() for t in tensors)
        rate = logits.view(-1, *(1,) * (x.dim() - 1))
        return F.linear(x, weight, bias) + rate * response * F.linear(x, answer)

    def _dropped(self, x: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        rate = torch.sigmoid(logits).detach().view(-1, *(1,) * (x.dim() - 1))
        bits = mixed(torch.arange(x.numel(), device=x.device).view(x.shape) + mixed(noise + self.place * 7919))
        return x * (bits.to(x.dtype) / 2**32 >= rate) / (1 - rate)


class Response(nn.Module):
    """How strongly each output answers; nothing at first."""

    def __init__(self, outputs: int, device: torch.device) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs, device=device))


@dataclass(frozen=True, kw_only=True)
class WithEntropy:
    """An objective less `strength` times the entropy of the rates that are drawn."""

    objective: Any
    strength: float = 0.001  # the smallest of the paper's
    needs = ("params",)

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> Tensor:
        """Losses (examples, tokens)."""
        return self.objective(outputs, targets) - self.strength * given["params"]["log_spread.bias"].sum()


def self_tuning(base: Recipe) -> Recipe:
    """A dropout rate learned in one run from examples set aside is as good as the best fixed one of many runs."""
    where = "*.mlp.down" if isinstance(base.model, Transformer) else "*"
    return base.but(
        data=SetAside(base.data),
        transforms=(*base.transforms, SelfTuned(of=base.model, where=where)),
        objective=WithEntropy(objective=base.objective),
    )
