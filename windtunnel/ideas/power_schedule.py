"""Power schedule (2408.13359): a learning rate that falls with the tokens seen and knows no horizon until its decay.

Claim read there: best rates of WSD runs follow batch x a x tokens^b with b near -1/2 at any model size, so that one (a,
b, peak) serves every size, batch and length. Here the knee lies at 50,000 tokens for batches of 1024 tokens, a guess
for ladders of a CPU that `laws.fit_power_schedule` replaces by what your sweep says; measured: docs/schedules.md.
"""

from __future__ import annotations

from windtunnel.parts.schedules import Power
from windtunnel.recipe import Recipe


def power_schedule(base: Recipe) -> Recipe:
    """A rate falling as a power of the tokens seen serves every horizon as well as a schedule planned for it."""
    return base.but(schedule=Power(knee_tokens=50_000, batch_tokens=1_024, warmup_tokens=10_000, decay=0.1))
