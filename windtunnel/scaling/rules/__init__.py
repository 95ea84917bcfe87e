"""Parametrizations: one cited rule set a file; Depth, Decay and LargeVocabulary wrap another."""

from windtunnel.scaling.rules.decay import Decay
from windtunnel.scaling.rules.depth import Depth, complete_p, depth_mup
from windtunnel.scaling.rules.kernels import NTK, MeanField
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.spectral import Spectral
from windtunnel.scaling.rules.standard import Standard
from windtunnel.scaling.rules.unit import UnitMuP
from windtunnel.scaling.rules.vocabulary import LargeVocabulary

__all__ = [
    "NTK", "Decay", "Depth", "LargeVocabulary", "MeanField", "MuP", "Spectral", "Standard", "UnitMuP", "complete_p",
    "depth_mup",
]  # fmt: skip
