"""C28: self-knowledge distillation with progressive refinement of targets (2006.12000).

Read: abstract and equations 4 and 7 as restated in our facts. The target of an example is (1 - a) one-hot + a times the
network's own prediction at its last visit, with a = last * share of training done. A newcomer would keep a copy of the
network; a memory of its predictions is the paper's own way, and costs no pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from windtunnel.recipe import DataShape, Recipe


@dataclass(frozen=True, kw_only=True)
class ProgressiveSelfDistillation:
    """Cross-entropy with targets softened by what the network said of the example at its last visit."""

    last: float = 0.8  # weight of its own prediction at the end of training (the paper's choice)

    needs = ("done", "memory")

    def memory(self, shape: DataShape) -> dict[str, Tensor]:
        """A prediction for every token of an example, and whether there is one."""
        return {"said": torch.zeros(shape.tokens_per_example, shape.classes), "seen": torch.zeros(1, 1)}

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (examples, tokens), and the predictions to remember."""
        said, seen = given["memory"]["said"], given["memory"]["seen"]
        weight = self.last * given["done"] * seen
        hard = F.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
        logs = outputs.log_softmax(-1)
        losses = -(((1 - weight) * hard + weight * said) * logs).sum(-1)
        return losses, {"said": logs.detach().exp(), "seen": torch.ones_like(seen)}


def progressive_self_distillation(base: Recipe) -> Recipe:
    """Softening targets by the network's own earlier predictions, more and more, generalises better over epochs."""
    return base.but(objective=ProgressiveSelfDistillation())
