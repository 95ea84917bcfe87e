"""Ideas of known worth: a base world and an idea that needs a known multiple less compute at every size.

The truth is Delta(N, D) = idea - base, negative where the idea is better. Runs of both share the noise of their seed,
as paired trainings do. A newcomer would give Delta a law of its own; a compute multiplier keeps it consistent with the
base (a gain shrinks as the base nears its floor), and its sign is the sign of the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations
from windtunnel.worlds.powerlaw import draw_power_law
from windtunnel.worlds.world import World, columns, deviations, flops_of, log_uniform, sizes_at, table, with_target

KINDS = ("constant", "fading", "crossing", "none")


@dataclass(frozen=True, eq=False, kw_only=True)
class Idea:
    """A base world and log compute multiplier `gain + slope * log(C / C_top)`, never changing sign where it `fades`.

    `apart` is the share of a run's noise that base and idea do not have in common (0: perfectly paired).
    """

    kind: str
    base: World
    gain: float
    slope: float
    fades: bool
    apart: float

    def multiplier(self, sizes: Sizes) -> np.ndarray:
        """Base compute per idea compute for equal loss; above 1 is better."""
        away = np.log(flops_of(sizes) / flops_of(self.base.ladder.top))
        if self.fades:
            return np.exp(self.gain * np.exp(-self.slope * away))
        return np.exp(self.gain + self.slope * away)

    def truth(self, sizes: Sizes) -> np.ndarray:
        """Expected loss of the idea: the base's with the multiplied compute."""
        params, tokens = columns(sizes)
        times = self.multiplier(sizes)
        if self.base.ladder.design == "horizon":
            return self.base.truth(sizes_at(params * times, tokens))
        return self.base.truth(sizes_at(params * np.sqrt(times), tokens * np.sqrt(times)))

    def delta(self, sizes: Sizes) -> np.ndarray:
        """Idea minus base, in units of loss."""
        return self.truth(sizes) - self.base.truth(sizes)

    def observations(self, generator: np.random.Generator) -> tuple[Observations, Observations]:
        """Runs of the base and of the idea at the same sizes and seeds; each ends with its run at the target."""
        sizes, rung, seed, split = with_target(self.base.ladder)
        noise, flops = self.base.noise, flops_of(sizes)
        both = deviations(noise, flops, rung, generator)
        pair = []
        for expected in (self.base.truth(sizes), self.truth(sizes)):
            own = deviations(noise, flops, rung, generator)
            logs = np.log(expected) + np.sqrt(1 - self.apart) * both + np.sqrt(self.apart) * own
            pair.append(table(np.exp(logs), sizes, rung, seed, split, source=f"{self.kind} idea"))
        return pair[0], pair[1]


def draw_idea(generator: np.random.Generator, runs: int = 8, kind: str = "", design: str = "") -> Idea:
    """An idea on a power-law base; `kind` one of constant, fading, crossing, none ("" takes one at random).

    Log multipliers have a standard deviation of 0.25, either sign (published optimizers reach 1.4x at 0.1B and 1.1x at
    1.2B; most ideas are worth little). Fading ones have it at the smallest run and lose 10 to 50 % per 10x of compute
    but never all; crossing ones change sign within a factor of 30 of the top's compute, before or after it. 3 to 50 %
    of the noise's variance is not shared (measured: pairing cuts the error of a gap 1.5 to 6 times).
    "none" changes nothing.
    """
    kind = kind or str(generator.choice(KINDS))
    base = draw_power_law(generator, runs, design)
    gain, slope = 0.25 * generator.standard_normal(), 0.0
    if kind == "fading":
        slope = -np.log(1 - generator.uniform(0.1, 0.5)) / np.log(10)
        gain *= float(base.ladder.flops.max() / base.ladder.flops.min()) ** -slope
    if kind == "crossing":
        where = generator.uniform(-np.log(30), np.log(30))
        slope = gain / np.log(30)
        gain = -slope * where
    if kind == "none":
        gain = 0.0
    return Idea(
        kind=kind, base=base, gain=gain, slope=slope, fades=kind == "fading", apart=log_uniform(generator, 0.03, 0.5)
    )
