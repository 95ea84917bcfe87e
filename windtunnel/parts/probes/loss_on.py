"""The loss on other data than the judge's: what a network that went on with new text still knows of the old.

The number is a metric of the run, so `Observations.from_runs(runs, metric=...)` lets the laws foretell forgetting over
size as they foretell the loss. A newcomer would keep the plan in what identifies the probe; its fingerprint does, since
the same text in another folder is the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LossOn:
    """`loss_on_NAME`: mean cross-entropy in nats per token over `tokens` held-out tokens of `data`."""

    name: str
    data: Any = field(compare=False, repr=False)
    tokens: int = 8192
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.tokens < 1:
            raise InputError(
                f"LossOn(name={self.name!r}, tokens={self.tokens}): the name is a word that the metric is called by, "
                f"as in loss_on_english, and tokens a count from 1."
            )
        object.__setattr__(self, "fingerprint", self.data.fingerprint())

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """The mean over the plan's own held-out examples; the judge's are not looked at."""
        device, total, count = next(model.parameters()).device, 0.0, 0
        examples = max(1, 8192 // self.data.shape().tokens_per_example)  # held-out tokens at once: bounds memory
        with torch.no_grad():
            for inputs, targets in self.data.held_out(size=examples, tokens=self.tokens):
                outputs = model(torch.from_numpy(inputs).to(device)).flatten(0, 1)
                wanted = torch.from_numpy(targets).to(device).flatten()
                total += float(F.cross_entropy(outputs, wanted, reduction="sum"))
                count += len(wanted)
        return {f"loss_on_{self.name}": total / count}
