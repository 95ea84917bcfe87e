"""B4: mini-batch coresets for language models on data mixtures (CoLM, 2407.19580): train on half of a large batch.

Read: the abstract and public summaries. Every example of a small source is kept; of the large ones, medoids by facility
location in a gradient space made for Adam. The paper's space is the last value projection's zeroth-order gradient over
its running moments; an objective sees outputs only, so here it is the logits' gradient, averaged over an example's
tokens and divided by its root mean square over the large sources' examples of the batch. A newcomer would look for the
FLOPs that this saves: here the others' losses get weight zero, so what is shown is the quality of the choice alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.parts.objectives import CrossEntropy
from windtunnel.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Coreset:
    """Cross-entropy on a share of the batch's examples; `ends` are the data plan's, which tell an example's source.

    A source is small in a batch where it has fewer examples than an equal share. `weighted`: medoids count for as many
    examples as they stand for.
    """

    ends: tuple[int, ...] = ()
    share: float = 0.5
    coordinates: float = 0.25  # share of the gradient's coordinates that are looked at, the largest ones (guess)
    keeps_small: bool = True
    weighted: bool = False

    needs = ("indices",)

    def __call__(self, outputs: Tensor, targets: Tensor, given: dict[str, Any]) -> Tensor:
        """Losses (examples, tokens), those not chosen zero; their mean is the mean over what was chosen."""
        weights = self.chosen(outputs.detach(), targets, given["indices"])
        return CrossEntropy()(outputs, targets) * (weights * (len(weights) / weights.sum()))[:, None]

    def chosen(self, outputs: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        """The weight of every example of the batch, 0 for those left out."""
        small = self._small(indices) if self.keeps_small else torch.zeros_like(indices, dtype=torch.bool)
        far = _distances(self._gradients(outputs, targets, ~small))
        budget = round(self.share * len(indices))
        medoids = _medoids(far, ~small, budget, (budget - small.sum()).clamp(min=0))
        if not self.weighted:
            return (small | medoids).float()
        nearest = far.masked_fill(~medoids[None, :], torch.inf).argmin(1)
        stood_for = ((nearest[:, None] == torch.arange(len(indices), device=far.device)) & ~small[:, None]).sum(0)
        return small.float() + medoids * stood_for

    def _small(self, indices: Tensor) -> Tensor:
        sources = max(1, len(self.ends))
        ends = torch.tensor(self.ends[:-1], device=indices.device, dtype=indices.dtype)
        of = (indices[:, None] >= ends).sum(1)
        count = (of[:, None] == of[None, :]).sum(1)
        return count * sources < len(indices)

    def _gradients(self, outputs: Tensor, targets: Tensor, large: Tensor) -> Tensor:
        """Mean logit gradient of every example over its size in the batch, (examples, coordinates)."""
        said = outputs.softmax(-1)
        right = (targets[..., None] == torch.arange(outputs.shape[-1], device=outputs.device)).to(said.dtype)
        mean = (said - right).mean(1)
        size = ((mean.square() * large[:, None]).sum(0) / large.sum().clamp(min=1)).sqrt()
        count = max(1, round(self.coordinates * size.shape[0]))
        kept = size.topk(count).values[-1]
        return mean / (size + 1e-8) * (size >= kept)


def coreset(base: Recipe) -> Recipe:
    """Half of a batch, all examples of small sources and medoids of the large ones, trains as well as the batch."""
    ends = base.data.ends() if hasattr(base.data, "ends") else ()
    return base.but(objective=Coreset(ends=ends))


def _distances(points: Tensor) -> Tensor:
    """Euclidean distances of all pairs, (examples, examples)."""
    square = points.square().sum(1)
    return (square[:, None] + square[None, :] - 2 * points @ points.T).clamp(min=0).sqrt()


def _medoids(far: Tensor, large: Tensor, most: int, budget: Tensor) -> Tensor:
    """Which of the `large` examples a greedy facility location takes, `budget` (at most `most`) of them."""
    near = far.max() - far
    best, taken = torch.zeros_like(far[0]), torch.zeros_like(large)
    for number in range(most):
        gain = ((near - best[:, None]).clamp(min=0) * large[:, None]).sum(0)
        pick = torch.arange(len(far), device=far.device) == gain.masked_fill(~large | taken, -1.0).argmax()
        pick = pick & (number < budget)
        best = torch.maximum(best, (near * pick).sum(1))
        taken = taken | pick
    return taken
