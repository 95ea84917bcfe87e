"""Warm-up, stable, decay (2404.06395): only the last stretch depends on the horizon, so a decay can branch off."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.parts.schedules.constant import warmed
from windtunnel.recipe import is_open


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Linear warm-up over `warmup` of the horizon, the peak, then a linear decay to `floor` x peak over the last
    `decay` share (linear to zero over a fifth is the usual choice, 2405.18392)."""

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not is_open(self) and not (
            self.warmup >= 0 and 0 < self.decay <= 1 and self.warmup + self.decay <= 1 and 0 <= self.floor <= 1
        ):
            raise InputError(
                f"WSD(warmup={self.warmup}, decay={self.decay}, floor={self.floor}): warmup and decay are shares of "
                f"the horizon with warmup + decay <= 1 and decay > 0 (no decay: use Constant), floor a share in [0, 1]."
            )

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        done = tokens / horizon
        left = max(0.0, 1 - done) / self.decay
        return min(warmed(done, self.warmup), self.floor + (1 - self.floor) * min(1.0, left))
