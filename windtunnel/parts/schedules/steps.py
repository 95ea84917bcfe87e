"""A schedule in steps, as one that a search found: it is replayed at other sizes.

A newcomer would replay the learning rates themselves; factors of a peak rate follow the parametrization to other
widths.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Steps:
    """`factors[i]` from share `begins[i]` of the horizon on; `begins` rise from 0 and stay below 1.

    Raises InputError for anything else.
    """

    begins: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.begins, self.begins[1:], strict=False))
        whole = bool(self.begins) and self.begins[0] == 0 and self.begins[-1] < 1
        if not (rising and whole) or len(self.begins) != len(self.factors) or min(self.factors) < 0:
            raise InputError(
                f"Steps has begins {self.begins} and factors {self.factors}; give one factor, 0 or more, for each "
                f"begin, and begins that rise from 0 and stay below 1."
            )

    def __call__(self, tokens: float, horizon: float) -> float:
        """Multiplier of the peak learning rate after `tokens` of `horizon` tokens."""
        return self.factors[bisect_right(self.begins, tokens / horizon) - 1]
