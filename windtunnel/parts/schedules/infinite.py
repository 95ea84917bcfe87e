"""Infinite schedule (2503.02844): warm-up, a cosine cool-down to a constant, which lasts as long as data keep coming.

Only when a model is to be handed over is the rate annealed, exponentially; the next data go on from the constant, so
the rate is never raised again. A newcomer would let a run on new data begin with a warm-up: that is what forgets. Read:
abstract and introduction of 2503.02844, abstract of 2403.08763 whose section on infinite schedules it follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InputError
from windtunnel.parts.schedules.constant import warmed
from windtunnel.parts.schedules.cooldown import check_warmup, decay_start
from windtunnel.parts.schedules.shapes import HalfCosine, fallen
from windtunnel.recipe import is_open


@dataclass(frozen=True, kw_only=True)
class Infinite:
    """Linear warm-up over `warmup_tokens`, cosine to `hold` x peak over the next `cooldown_tokens`, that rate, then an
    exponential anneal to `floor` x peak over the last `decay` share of the horizon (0: none, the trunk itself)."""

    warmup_tokens: int = 0
    cooldown_tokens: int = 0
    hold: float = 0.5
    decay: float = 0.15
    floor: float = 0.01

    def __post_init__(self) -> None:
        if is_open(self):
            return
        check_warmup("Infinite", self.warmup_tokens)
        if not (self.cooldown_tokens >= 0 and 0 <= self.decay <= 1 and 0 < self.floor <= self.hold <= 1):
            raise InputError(
                f"Infinite(cooldown_tokens={self.cooldown_tokens}, hold={self.hold}, decay={self.decay}, "
                f"floor={self.floor}): cooldown_tokens is a count from 0, decay the last share of the horizon in "
                f"[0, 1], and 0 < floor <= hold <= 1 are shares of the peak (an exponential never reaches zero)."
            )

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        start = decay_start(horizon, self.decay, self.warmup_tokens)
        height = self._held(min(tokens, start))
        if tokens <= start:
            return height
        low = min(self.floor, height)
        return height * (low / height) ** min(1.0, (tokens - start) / (horizon - start))

    def _held(self, tokens: float) -> float:
        """The rate without an end."""
        if tokens < self.warmup_tokens:
            return warmed(tokens, self.warmup_tokens)
        if tokens >= self.warmup_tokens + self.cooldown_tokens:
            return self.hold
        return fallen(HalfCosine(), (tokens - self.warmup_tokens) / self.cooldown_tokens, 1.0, self.hold)
