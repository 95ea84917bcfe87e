"""Re-warm and re-decay (2308.04014, 2403.08763): a schedule begun anew for each stage of data.

Each stage has its own clock and its own end, so a stage's decay is finished when the next data come. A newcomer would
restart the warm-up from zero; it rises from the rate with which the last stage ended, which is the rate that the
checkpoint was left with. Read: the abstracts of both, and a public summary of the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from windtunnel.errors import InputError
from windtunnel.parts.schedules.cooldown import check_warmup


@dataclass(frozen=True, kw_only=True)
class Rewarmed:
    """`each`, a schedule, from the first token, and again from every count in `at_tokens`; the last until the horizon.

    In later stages the rate goes in a line from where it was left to what the schedule says after `warmup_tokens`, and
    `again` is the share of the first peak that they reach. `each` should warm up over no more than that.
    """

    each: Any
    at_tokens: tuple[int, ...]
    warmup_tokens: int = 0
    again: float = 1.0

    def __post_init__(self) -> None:
        counts = self.at_tokens
        rising = isinstance(counts, tuple) and bool(counts) and all(a < b for a, b in pairwise((0, *counts)))
        if not rising or not callable(self.each) or not 0 < self.again <= 1:
            raise InputError(
                f"Rewarmed(each={self.each!r}, at_tokens={counts!r}, again={self.again}): each is a schedule, "
                f"at_tokens a rising tuple of the tokens at which new data begin, again a share of the peak in (0, 1]."
            )
        check_warmup("Rewarmed", self.warmup_tokens)

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        start = max((at for at in self.at_tokens if at < min(tokens, horizon)), default=0)
        end = min((at for at in self.at_tokens if start < at < horizon), default=horizon)
        peak = self.again if start else 1.0
        done, length = tokens - start, end - start
        warm = min(self.warmup_tokens, length) if start else 0
        if done >= warm:
            return peak * self.each(done, length)
        left = self(start, horizon)
        return left + (peak * self.each(warm, length) - left) * done / warm
