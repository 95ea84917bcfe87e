"""C11: early-learning regularization prevents memorization of noisy labels (2007.00151).

Read: abstract, equations 6 and 9 as restated in our facts: loss + strength * log(1 - <p, t>), where t is a running mean
of the network's own predictions for the example. A newcomer would leave t at zero before the first visit, as the paper
does; so does this file, for the penalty is then zero and fades in by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.parts.objectives import CrossEntropy
from windtunnel.recipe import DataShape, Recipe

# Keeps the logarithm finite; the paper's code clamps predictions at 1e-4.
_LEAST = 1e-4


@dataclass(frozen=True, kw_only=True)
class EarlyLearning:
    """Cross-entropy, and a penalty for leaving what was learned early."""

    strength: float = 3.0  # the paper's value for CIFAR-10
    memory_rate: float = 0.7  # how much of the running mean stays at each visit (the paper's value)

    needs = ("memory",)

    def memory(self, shape: DataShape) -> dict[str, Tensor]:
        """A running mean of predictions for every token of an example."""
        return {"mean": torch.zeros(shape.tokens_per_example, shape.classes)}

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (examples, tokens), and the running means."""
        said = outputs.softmax(-1).clamp(_LEAST, 1 - _LEAST)
        now = said.detach() / said.detach().sum(-1, keepdim=True)
        mean = self.memory_rate * given["memory"]["mean"] + (1 - self.memory_rate) * now
        return CrossEntropy()(outputs, targets) + self.strength * (1 - (said * mean).sum(-1)).log(), {"mean": mean}


def early_learning(base: Recipe) -> Recipe:
    """A penalty for leaving early predictions keeps a network from memorising labels that are wrong."""
    return base.but(objective=EarlyLearning())
