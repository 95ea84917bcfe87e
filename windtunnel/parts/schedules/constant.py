"""Warm-up, then constant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak throughout, after a linear warm-up over the first `warmup` share of the horizon."""

    warmup: float = 0.0

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        return warmed(tokens / horizon, self.warmup)


def warmed(done: float, warmup: float) -> float:
    """Linear rise from 0 to 1 while the done share of the horizon is below `warmup`."""
    return min(1.0, done / warmup) if warmup > 0 else 1.0
