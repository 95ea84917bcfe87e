"""How far a network's confidence is from its accuracy: the expected calibration error (1706.04599)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`calibration_error`: the mean of |accuracy - confidence| over `bins` bins of confidence, weighted by counts."""

    bins: int = 15  # the paper's number

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """The error on the judge's examples."""
        confidence, right = [], []
        with torch.no_grad():
            for inputs, targets in batches:
                top = model(inputs).softmax(-1).max(-1)
                confidence.append(top.values.flatten())
                right.append((top.indices == targets).flatten())
        return {"calibration_error": calibration_error(torch.cat(confidence), torch.cat(right), self.bins)}


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """The error of confidences in (0, 1] and whether each was right."""
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.zeros(bins, dtype=torch.float64).index_add(0, place, torch.ones_like(confidence, dtype=torch.float64))
    apart = torch.zeros(bins, dtype=torch.float64).index_add(0, place, (right.double() - confidence.double()))
    return float(apart.abs().sum() / count.sum())
