"""Infinite schedule (2503.02844): cool down to a constant rate, anneal only to hand a model over.

Claim read there: less forgetting and better results than repeated cosine decay on successive data, and on a par with it
on one data set. Trained on one data set it should lose nothing to the base; `parts.data.successive` is where it gains.
"""

from __future__ import annotations

from windtunnel.parts.schedules import Infinite
from windtunnel.recipe import Recipe


def infinite_schedule(base: Recipe) -> Recipe:
    """A constant rate annealed over the last 15 % loses nothing to a schedule that knows its horizon."""
    return base.but(schedule=Infinite(warmup_tokens=10_000, cooldown_tokens=50_000, hold=0.5, decay=0.15))
