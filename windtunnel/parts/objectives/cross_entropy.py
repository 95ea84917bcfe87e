"""Cross-entropy of the next token, or of the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Negative log likelihood in nats per token, optionally with label smoothing."""

    smoothing: float = 0.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (examples, tokens, classes) and targets (examples, tokens) to losses (examples, tokens)."""
        flat = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=self.smoothing
        )
        return flat.view_as(targets)
