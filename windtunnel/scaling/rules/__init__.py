"""Parametrizations: one cited rule set a file."""

from windtunnel.scaling.rules.depth import Depth, complete_p, depth_mup
from windtunnel.scaling.rules.kernels import NTK, MeanField
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.standard import Standard

__all__ = ["NTK", "Depth", "MeanField", "MuP", "Standard", "complete_p", "depth_mup"]
