"""1-sqrt cool-down (2405.18392): the last fifth of the tokens falls steeply first and ends flat.

Claim read there: a constant rate with a cool-down matches a cosine at every horizon from one trunk, and 1 - sqrt ends
below a line. How far at small size is in docs/schedules.md.
"""

from __future__ import annotations

from windtunnel.parts.schedules import Cooldown, OneMinusSqrt
from windtunnel.recipe import Recipe


def sqrt_cooldown(base: Recipe) -> Recipe:
    """A decay of 1 - sqrt over the last fifth ends lower than a straight line."""
    return base.but(schedule=Cooldown(warmup_tokens=10_000, decay=0.2, shape=OneMinusSqrt()))
