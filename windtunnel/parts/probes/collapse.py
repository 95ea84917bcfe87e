"""C40: neural collapse (2210.16658, after 2008.08186): how far features of one class lie apart, beside the classes.

Read: the abstract and definition NC1 as restated in our facts: the trace of the within-class covariance times the
pseudo-inverse of the between-class one, over the number of classes. It falls towards zero as training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from windtunnel.parts.probes.features import features


@dataclass(frozen=True, kw_only=True)
class NeuralCollapse:
    """`within_class_variability` (NC1); classes with fewer than `fewest` predictions are left out."""

    fewest: int = 2

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """NC1 of the features before the readout."""
        found, targets = features(model, batches)
        return {"within_class_variability": within_class_variability(found, targets, self.fewest)}


def within_class_variability(found: Tensor, targets: Tensor, fewest: int = 2) -> float:
    """tr(within pinv(between)) / classes, covariances over features (predictions, width); NaN for fewer than 2."""
    found = found.double()
    classes = [c for c, count in zip(*targets.unique(return_counts=True), strict=True) if count >= fewest]
    if len(classes) < 2:
        return float("nan")
    means = torch.stack([found[targets == c].mean(0) for c in classes])
    inside = torch.cat([found[targets == c] - mean for c, mean in zip(classes, means, strict=True)])
    within = inside.T @ inside / len(inside)
    apart = means - means.mean(0)
    between = apart.T @ apart / len(classes)
    return float((within @ torch.linalg.pinv(between, rtol=1e-10, hermitian=True)).trace() / len(classes))
