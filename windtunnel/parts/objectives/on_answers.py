"""Cross-entropy on answers alone, for the tasks of `wt.data.tasks`: prompts are drawn at random and teach nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from windtunnel.parts.data.tasks import BLANK, EQUALS
from windtunnel.parts.objectives.cross_entropy import CrossEntropy


@dataclass(frozen=True, kw_only=True)
class OnAnswers:
    """Negative log likelihood of the tokens behind `=`, up to the blank that ends them; the mean is over those."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Logits (examples, tokens, classes) and targets (examples, tokens) to losses (examples, tokens)."""
        graded = answers(targets).to(outputs.dtype)
        return CrossEntropy()(outputs, targets) * graded / graded.mean()


def answers(targets: Tensor) -> Tensor:
    """Which tokens of (examples, tokens) belong to an answer, the blank that ends it included."""
    behind = ((targets == EQUALS).cumsum(-1) > 0) & (targets != EQUALS)
    blanks = ((targets == BLANK) & behind).cumsum(-1)
    return behind & ((blanks == 0) | ((blanks == 1) & (targets == BLANK)))
