"""A probe of a hypernetwork: how its output and its gradient change with the strength that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.ideas.invariant_hypernetwork import Generated

LATE = 2.0**-8  # the rate at which gradients are compared after training: both arms learn there


@dataclass(frozen=True)
class Strengths:
    """`spread_of_output`: the deviation over strengths of the norm of what the hypernetwork gives out, over its mean;
    `gradient_variance`: the variance over strengths of the norm of the loss's gradient in all trained tensors."""

    count: int = 10

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """Both, at strengths evenly over 0 to 1."""
        layers = [module for module in model.modules() if isinstance(module, Generated)]
        inputs, targets = batches[0]
        tensors = [parameter.requires_grad_() for parameter in model.parameters()]
        norms, slopes = [], []
        for number in range(self.count):
            layers[0].hyper.only = (number + 0.5) / self.count
            with torch.no_grad():
                made = [layer.generated(1) - (0 if layer.weight is None else layer.weight) for layer in layers]
                norms.append(float(sum(weights.square().sum() for weights in made) ** 0.5))
            with torch.enable_grad():
                lost = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
                found = torch.autograd.grad(lost, tensors)
            slopes.append(float(sum(slope.square().sum() for slope in found) ** 0.5))
        layers[0].hyper.only = None
        return {
            "spread_of_output": float(np.std(norms) / np.mean(norms)),
            "gradient_variance": float(np.var(slopes)),
        }
