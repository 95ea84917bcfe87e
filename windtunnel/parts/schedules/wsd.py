"""Warm-up, stable, decay (2404.06395): with `warmup_tokens` only the last stretch depends on the horizon.

Then runs of several horizons are one trunk with a decay branched off for each, and the engine trains them so. A
newcomer would expect that of the share `warmup` too, but another horizon's share is another warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.parts.schedules.constant import warmed
from windtunnel.recipe import is_open


@dataclass(frozen=True, kw_only=True)
class WSD:
    """Linear warm-up over `warmup` of the horizon, or over `warmup_tokens` whatever the horizon; the peak; then linear
    decay to `floor` x peak over the last `decay` share (to zero over a fifth is the usual choice, 2405.18392)."""

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0
    warmup_tokens: int | None = None

    def __post_init__(self) -> None:
        if not is_open(self) and not (
            self.warmup >= 0 and 0 < self.decay <= 1 and self.warmup + self.decay <= 1 and 0 <= self.floor <= 1
        ):
            raise InputError(
                f"WSD(warmup={self.warmup}, decay={self.decay}, floor={self.floor}): warmup and decay are shares of "
                f"the horizon with warmup + decay <= 1 and decay > 0 (no decay: use Constant), floor a share in [0, 1]."
            )
        if self.warmup_tokens is not None and self.warmup_tokens < 0:
            raise InputError(f"WSD warmup_tokens is {self.warmup_tokens}; it is a count of tokens from 0, or None.")

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        done = tokens / horizon
        left = max(0.0, 1 - done) / self.decay
        warm = warmed(done, self.warmup) if self.warmup_tokens is None else warmed(tokens, self.warmup_tokens)
        return min(warm, self.floor + (1 - self.floor) * min(1.0, left))
