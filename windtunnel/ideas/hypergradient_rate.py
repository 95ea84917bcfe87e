"""C38: a learning rate that follows its own gradient (FedHyper, Wang et al. 2310.03156; Baydin et al. 1703.04782).

The loss's derivative in the last learning rate is minus the product of the new gradient with the last step's direction:
while they agree the rate grows, when they oppose it shrinks. Read: both abstracts, and our facts' statement of the
rule, rate + <new, last> clipped to bounds. Here on one worker, and for each tensor apart, which is all that an
optimizer sees: so the product is taken as a cosine and multiplies the rate (1703.04782 has a multiplicative rule),
because tensors' gradients differ by orders of magnitude. A newcomer would leave the bounds out; with noisy gradients a
rate that only ever agrees with itself runs away.

Measured (benchmarks/ideas_adaptive.py; digits' perceptron, 5 seeds, accuracy over five initial rates 30 times apart):
from 0.001 to 0.03 it spreads by 2.1 points where SGD spreads by 53, from 0.01 to 0.3 by 0.7 where SGD does by 5. From
0.1 to 3 both lose 86 points: it mends rates that are too small, and none that diverge in their first steps. Local SGD
with several workers, the paper's own setting, was not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, zeros_like

from windtunnel.recipe import Recipe, Site, tuned


@dataclass(frozen=True, kw_only=True)
class HypergradientSGD:
    """SGD with momentum whose rate is `lr` times a factor of the tensor's own, between 1 / `bound` and `bound`.

    Each step the factor is multiplied by 1 + `speed` x cosine(gradient, last velocity). SGD's cost and one number a
    tensor. `bound` spans the 30x of initial rates that the check asks for, `speed` is a guess.
    """

    lr: float = tuned(1e-3, 1e1)
    momentum: float = 0.9
    speed: float = 0.05
    bound: float = 32.0

    geometry = "gradient"

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """No velocity, and the rate as given."""
        return {"velocity": zeros_like(param), "factor": param.new_ones(())}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to add to `param` and the new state."""
        last = state["velocity"]
        lengths = torch.linalg.vector_norm(grad) * torch.linalg.vector_norm(last)
        cosine = (grad * last).sum() / torch.where(lengths > 0, lengths, 1.0)
        factor = (state["factor"] * (1 + hp["speed"] * cosine)).clamp(1 / self.bound, self.bound).to(grad.dtype)
        velocity = hp["momentum"] * last + grad
        return -hp["lr"] * factor * velocity, {"velocity": velocity, "factor": factor}


def hypergradient_rate(base: Recipe) -> Recipe:
    """A rate that follows its own gradient reaches within a point of the best from initial rates 30 times apart."""
    return base.but(optimizer=HypergradientSGD())
