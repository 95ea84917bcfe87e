"""How many examples a step takes at a rung. At a fixed horizon both rules give every rung the same batch.

`carry` says how learning rate, betas, eps and decay follow when the batch or the horizon differs from the base rung's:
a function of `scaling.rules.carry`, such as `complete` or `square_root`; None leaves them as they were tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from windtunnel.ladder import Rung
from windtunnel.recipe import DataShape
from windtunnel.scaling.rules.carry import Carry

Rule = Callable[[float, float], Carry]  # of the growth of the batch and of the tokens


@dataclass(frozen=True, kw_only=True)
class FixedBatch:
    """`examples` a step at every rung."""

    examples: int
    carry: Rule | None = None

    def __call__(self, rung: Rung, data: DataShape) -> int:
        """Examples per step."""
        return self.examples


@dataclass(frozen=True, kw_only=True)
class StepLawBatch:
    """`share` of Step Law's batch, 0.58 D^0.571 tokens at a horizon of D tokens (2503.04715).

    The law was fitted at 2 to 100 billion tokens; near a million tokens on bytes about a third of it is best (measured
    in a probe: 2,048 tokens a step instead of a third cost 0.3 nats at width 16).
    """

    share: float = 1 / 3
    carry: Rule | None = None

    def __call__(self, rung: Rung, data: DataShape) -> int:
        """Examples per step, at least one."""
        return max(1, round(self.share * 0.58 * rung.tokens**0.571 / data.tokens_per_example))
