"""Straight to zero (2502.15938): the rate falls in a line from the end of the warm-up to zero at the horizon.

Claim, from memory (the paper was not stored): decaying linearly to zero ends lower than decaying to a tenth of the
peak, and the more so the more tokens a parameter sees.
"""

from __future__ import annotations

from windtunnel.parts import schedules
from windtunnel.recipe import Recipe


def linear_to_zero(base: Recipe) -> Recipe:
    """A line to zero over the whole horizon ends lower than a decay of its last stretch."""
    return base.but(schedule=schedules.linear_to_zero(warmup_tokens=10_000))
