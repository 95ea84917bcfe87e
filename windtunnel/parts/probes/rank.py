"""C34: RankMe (2210.02885): the effective rank of a network's features, without labels.

Read: the abstract and equation 1 as restated in our facts: exp of the entropy of the normalised singular values. Known
limit, shown by a test: noise in the features raises it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from windtunnel.parts.probes.features import features

_LEAST = 1e-7  # the paper's epsilon


@dataclass(frozen=True, kw_only=True)
class EffectiveRank:
    """`effective_rank`: from 1 (one direction) to the width (all directions alike)."""

    predictions: int = 4096  # features looked at; far more than the width (the paper uses 25,600)

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """The effective rank of the features of the first `predictions` predictions."""
        found, _ = features(model, batches)
        return {"effective_rank": effective_rank(found[: self.predictions])}


def effective_rank(matrix: Tensor) -> float:
    """exp(-sum p log p) of the singular values, each over their sum."""
    values = torch.linalg.svdvals(matrix.double())
    shares = values / values.sum() + _LEAST
    return float((-(shares * shares.log()).sum()).exp())
