"""A schedule at another height: the same course, every learning rate multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Faster:
    """`factor` times another schedule; for a stretch of training with a learning rate of its own."""

    schedule: Any
    factor: float

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise InputError(f"Faster factor is {self.factor}; a learning rate is multiplied by it, so give one > 0.")

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        return self.factor * self.schedule(tokens, horizon)


@dataclass(frozen=True, kw_only=True)
class PartOf:
    """A piece of a longer schedule: from share `begins` to share `ends` of it, over a stretch's own horizon."""

    schedule: Any
    begins: float = 0.0
    ends: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begins < self.ends <= 1:
            raise InputError(
                f"PartOf begins at {self.begins} and ends at {self.ends}; both are shares of the whole schedule, so "
                f"they need 0 <= begins < ends <= 1."
            )

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of the stretch's `horizon` tokens."""
        whole = horizon / (self.ends - self.begins)
        return self.schedule(self.begins * whole + tokens, whole)
