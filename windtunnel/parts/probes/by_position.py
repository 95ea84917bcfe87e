"""The loss at some positions of the context: whether a network uses what lies far back.

A newcomer would look at the mean loss alone; a network trained on short contexts can be as good there and worse at the
end of a long one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LossByPosition:
    """`loss_at_FIRST_to_LAST`: mean cross-entropy, nats per token, of the targets at positions first to last - 1.

    Positions count from 0 within the judge's examples.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise InputError(
                f"LossByPosition(first={self.first}, last={self.last}): positions count from 0, first is below last."
            )

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]:
        """The mean over the judge's examples. Raises InputError where they are shorter."""
        total, count = 0.0, 0
        with torch.no_grad():
            for inputs, targets in batches:
                if targets.shape[1] < self.last:
                    raise InputError(
                        f"LossByPosition looks at positions up to {self.last}; the judge's examples have "
                        f"{targets.shape[1]}. Give the judge data of that context, or look earlier."
                    )
                told = model(inputs)[:, self.first : self.last].flatten(0, 1)
                wanted = targets[:, self.first : self.last].flatten()
                total, count = total + float(F.cross_entropy(told, wanted, reduction="sum")), count + len(wanted)
        return {f"loss_at_{self.first}_to_{self.last}": total / count}
