"""Worlds where loss = E + A N^-a + B D^-b, or one of the two terms alone, with runs that scatter about it.

What a newcomer would get wrong: at a fixed horizon the data term does not vary, so it belongs to the floor; such worlds
have one falling term and their floor is what is left at infinite N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.laws.law import Sizes
from windtunnel.worlds.world import Ladder, World, columns, draw_ladder, draw_noise, log_uniform


@dataclass(frozen=True, kw_only=True)
class PowerLawWorld:
    """E + A N^-a + B D^-b; `params_term` and `tokens_term` are (A, a) and (B, b), with A or B zero where absent."""

    floor: float
    params_term: tuple[float, float]
    tokens_term: tuple[float, float] = (0.0, 0.3)

    def __call__(self, sizes: Sizes) -> np.ndarray:
        """Expected loss (n,)."""
        params, tokens = columns(sizes)
        (factor_n, exponent_n), (factor_d, exponent_d) = self.params_term, self.tokens_term
        return self.floor + factor_n * params**-exponent_n + factor_d * tokens**-exponent_d


def draw_power_law(generator: np.random.Generator, runs: int = 8, design: str = "") -> World:
    """A power-law world with a ladder of `runs` runs; `design` as in `draw_ladder`.

    Exponents in N and D between 0.1 and 0.6 (published: Kaplan 0.076 and 0.095, Chinchilla 0.34 and 0.28, Epoch's
    refit 0.35 and 0.37); the floor is 0 to 90 % of the loss at the ladder's top (Kaplan none, Chinchilla 60 to 85 %);
    the rest is shared by the terms as compute-optimal training does (a A N^-a = b B D^-b) within a factor of about 2
    (guess: ladders are not tuned to that optimum). Loss at the top 0.3 to 4.
    """
    ladder = draw_ladder(generator, runs, design)
    law = draw_law(generator, ladder)
    return World(kind=f"power law, {ladder.design}", law=law, ladder=ladder, noise=draw_noise(generator, ladder.flops))


def draw_law(generator: np.random.Generator, ladder: Ladder) -> PowerLawWorld:
    """The law alone, for a ladder; see `draw_power_law`."""
    top_n, top_d = (float(column[0]) for column in columns(ladder.top))
    loss, floor = log_uniform(generator, 0.3, 4.0), generator.uniform(0, 0.9)
    a, b = log_uniform(generator, 0.1, 0.6), log_uniform(generator, 0.1, 0.6)
    odds = b / a * np.exp(0.7 * generator.standard_normal())
    share = 1.0 if ladder.design == "horizon" else odds / (1 + odds)
    fall = loss * (1 - floor)
    return PowerLawWorld(
        floor=loss * floor,
        params_term=(fall * share * top_n**a, a),
        tokens_term=(fall * (1 - share) * top_d**b, b),
    )
