"""Warm-up, the peak, and a cool-down of any shape: WSD as published with every decay (2404.06395, 2405.18392).

Unlike the stock WSD its warm-up is counted in tokens only, so that another horizon is always the same trunk with
another branch, and the decay starts where the warm-up ends at the earliest, so that the peak is reached even where the
decay takes the whole horizon. A newcomer would write linear-to-zero as a class: it is a cool-down over everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windtunnel.errors import InputError
from windtunnel.parts.schedules.constant import warmed
from windtunnel.parts.schedules.shapes import HalfCosine, Linear, check_shape, fallen
from windtunnel.recipe import is_open


@dataclass(frozen=True, kw_only=True)
class Cooldown:
    """Linear warm-up over `warmup_tokens`, the peak, then `shape` down to `floor` x peak over the last `decay` share of
    the horizon. Runs of several horizons share their trunk up to the first decay."""

    warmup_tokens: int = 0
    decay: float = 0.2
    floor: float = 0.0
    shape: Any = Linear()  # noqa: RUF009  (frozen, so all may share it)

    def __post_init__(self) -> None:
        if is_open(self):
            return
        check_warmup("Cooldown", self.warmup_tokens)
        check_decay("Cooldown", self.decay, self.floor)
        check_shape("Cooldown", self.shape)

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        start = decay_start(horizon, self.decay, self.warmup_tokens)
        if tokens <= start:
            return warmed(tokens, self.warmup_tokens)
        height = warmed(start, self.warmup_tokens)
        return fallen(self.shape, (tokens - start) / (horizon - start), height, self.floor)


def linear_to_zero(*, warmup_tokens: int = 0) -> Cooldown:
    """A line from the peak, reached after `warmup_tokens`, to zero at the horizon (2502.15938, from memory)."""
    return Cooldown(warmup_tokens=warmup_tokens, decay=1.0, shape=Linear())


def cosine_to(floor: float = 0.1, *, warmup_tokens: int = 0) -> Cooldown:
    """A cosine from the peak, reached after `warmup_tokens`, to `floor` x peak at the horizon (1608.03983)."""
    return Cooldown(warmup_tokens=warmup_tokens, decay=1.0, floor=floor, shape=HalfCosine())


def decay_start(horizon: float, decay: float, warmup_tokens: float) -> float:
    """The token at which the last `decay` share begins: not before the warm-up's end, where there is one in time."""
    return min(horizon, max(horizon * (1 - decay), warmup_tokens))


def check_warmup(owner: str, warmup_tokens: Any) -> None:
    """Raise InputError for a warm-up that is not a count of tokens."""
    if not isinstance(warmup_tokens, int | float) or not 0 <= warmup_tokens < float("inf"):
        raise InputError(f"{owner} warmup_tokens is {warmup_tokens!r}; it is a count of tokens from 0, not a share.")


def check_decay(owner: str, decay: float, floor: float) -> None:
    """Raise InputError for a decay or a floor that is not a share."""
    if not (0 < decay <= 1 and 0 <= floor <= 1):
        raise InputError(
            f"{owner}(decay={decay}, floor={floor}): decay is the last share of the horizon, in (0, 1] (none: use "
            f"Constant), floor a share of the peak in [0, 1]."
        )
