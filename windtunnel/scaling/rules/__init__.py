"""Parametrizations: one cited rule set a file."""

from windtunnel.scaling.rules.kernels import NTK, MeanField
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.standard import Standard

__all__ = ["NTK", "MeanField", "MuP", "Standard"]
