"""Exact worlds: simulators whose truth is known, for testing forecasts and as studies of ground truth.

A world states an expected loss at every size, a ladder, a target and the noise of runs. The populations that worlds are
drawn from are written down from published runs and never adjusted to what a forecasting method covers.
"""

from windtunnel.worlds.ideas import Idea, draw_idea
from windtunnel.worlds.powerlaw import PowerLawWorld, draw_power_law
from windtunnel.worlds.regimes import BrokenWorld, draw_two_regimes
from windtunnel.worlds.ridge import RidgeWorld, draw_ridge, simulate
from windtunnel.worlds.world import DESIGNS, Ladder, RunNoise, World, draw_ladder, draw_noise

__all__ = ["DESIGNS", "BrokenWorld", "Idea", "Ladder", "PowerLawWorld", "RidgeWorld", "RunNoise", "World"]
__all__ += ["draw_idea", "draw_ladder", "draw_noise", "draw_power_law", "draw_ridge", "draw_two_regimes", "simulate"]
