"""Warm-up, then half a cosine down to a floor (1608.03983)."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from windtunnel.errors import InputError
from windtunnel.parts.schedules.constant import warmed
from windtunnel.recipe import is_open


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warm-up over the first `warmup` share of the horizon, then a cosine from the peak to `floor` x peak."""

    warmup: float = 0.05
    floor: float = 0.1

    def __post_init__(self) -> None:
        if not is_open(self) and not (0 <= self.warmup < 1 and 0 <= self.floor <= 1):
            raise InputError(
                f"Cosine(warmup={self.warmup}, floor={self.floor}): warmup is a share of the horizon in [0, 1), floor "
                f"a share of the peak in [0, 1]."
            )

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        done = tokens / horizon
        if done < self.warmup:
            return warmed(done, self.warmup)
        after = min(1.0, (done - self.warmup) / (1 - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + cos(pi * after))
