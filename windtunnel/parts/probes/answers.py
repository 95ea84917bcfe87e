"""How well tasks are solved: the loss on right answers, and the share of answers that are right in every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.parts.data.tasks import FIRST_KIND, KINDS
from windtunnel.parts.objectives.on_answers import answers


@dataclass(frozen=True, kw_only=True)
class Answers:
    """`answer_loss` (nats per token of the right answers) and `answer_accuracy`, over all and for each kind of task.

    An answer counts if the most likely token is right at every place of it: then, and only then, would the network have
    written it by itself. The judge's data are those of `wt.data.tasks`.
    """

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """Means over the judge's examples."""
        kinds, losses, right = zip(*(self._of(model, x, y) for x, y in batches), strict=True)
        kind, loss, solved = torch.cat(kinds), torch.cat(losses), torch.cat(right)
        found = {"answer_loss": float(loss.mean()), "answer_accuracy": float(solved.mean())}
        for number, name in enumerate(KINDS):
            own = kind == FIRST_KIND + number
            if own.any():
                found |= {f"answer_loss_{name}": float(loss[own].mean())}
                found |= {f"answer_accuracy_{name}": float(solved[own].mean())}
        return found

    def _of(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kind, mean loss of the answer and whether it is right, for each example."""
        with torch.no_grad():
            outputs = model(inputs)
        graded = answers(targets)
        each = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        loss = (each * graded).sum(-1) / graded.sum(-1)
        right = ((outputs.argmax(-1) == targets) | ~graded).all(-1)
        return inputs[:, 0], loss.double(), right.double()
