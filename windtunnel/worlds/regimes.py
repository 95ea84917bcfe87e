"""Two-regime worlds: a power law whose exponent changes smoothly at a break, inside the ladder or beyond its top.

What a newcomer would get wrong: no honest method can foresee a break beyond the ladder, because no run there differs
from a world without one. Such worlds measure how much a forecast is hurt, and no interval should be asked to hold at
its level on them. A break inside the ladder can be seen, if runs are many and quiet, and there intervals should hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.laws.law import Sizes
from windtunnel.worlds.world import World, columns, draw_ladder, draw_noise, log_uniform


@dataclass(frozen=True, kw_only=True)
class BrokenWorld:
    """E + A x^-before (1 + (x / place)^(1 / sharp))^(-(after - before) sharp), x the params at a fixed horizon.

    On a path x is the root of compute / 6, so that exponents mean what they mean in N. The smoothly broken power law of
    Caballero and others (2210.14891), with one break; a small `sharp` is a sharp break.
    """

    floor: float
    factor: float
    before: float
    after: float
    place: float
    sharp: float
    horizon: bool

    def __call__(self, sizes: Sizes) -> np.ndarray:
        """Expected loss (n,)."""
        params, tokens = columns(sizes)
        logs = np.log(params) if self.horizon else 0.5 * np.log(params * tokens)
        bend = self.sharp * np.logaddexp(0.0, (logs - np.log(self.place)) / self.sharp)
        return self.floor + self.factor * np.exp(-self.before * logs - (self.after - self.before) * bend)


def draw_two_regimes(generator: np.random.Generator, runs: int = 8, design: str = "", *, beyond: bool = False) -> World:
    """A world whose break lies in the middle 60 % of the ladder's log range or, `beyond`, between top and target.

    Both exponents are between 0.05 and 0.6 and differ by a factor of 1.25 or more (breaks of 2210.14891 go both ways);
    the floor is 0 to 90 % of the loss at the top, the break's width 0.1 to 1 in log size (guess).
    """
    design = design or str(generator.choice(["horizon", "path"]))
    ladder = draw_ladder(generator, runs, design)
    x = np.log(ladder.params) if design == "horizon" else 0.5 * np.log(ladder.params * ladder.tokens)
    goal = columns(ladder.target)
    end = float(np.log(goal[0][0]) if design == "horizon" else 0.5 * np.log(goal[0][0] * goal[1][0]))
    low, high = (x.max(), end) if beyond else (x.min() + 0.2 * np.ptp(x), x.min() + 0.8 * np.ptp(x))
    before, after = _exponents(generator)
    loss, floor = log_uniform(generator, 0.3, 4.0), generator.uniform(0, 0.9)
    law = BrokenWorld(
        floor=loss * floor, factor=1.0, before=before, after=after, place=float(np.exp(generator.uniform(low, high))),
        sharp=log_uniform(generator, 0.1, 1.0), horizon=design == "horizon",
    )  # fmt: skip
    falling = float(law(ladder.top)[0]) - law.floor
    law = BrokenWorld(**{**law.__dict__, "factor": loss * (1 - floor) / falling})
    kind = f"two regimes, break {'beyond' if beyond else 'inside'}"
    return World(kind=kind, law=law, ladder=ladder, noise=draw_noise(generator, ladder.flops))


def _exponents(generator: np.random.Generator) -> tuple[float, float]:
    while True:
        before, after = log_uniform(generator, 0.05, 0.6), log_uniform(generator, 0.05, 0.6)
        if max(before, after) > 1.25 * min(before, after):
            return before, after
