"""Stock probes: further numbers of a trained network, for `Judge(probes=...)`."""

from windtunnel.parts.probes.answers import Answers
from windtunnel.parts.probes.by_position import LossByPosition
from windtunnel.parts.probes.calibration import Calibration
from windtunnel.parts.probes.collapse import NeuralCollapse
from windtunnel.parts.probes.loss_on import LossOn
from windtunnel.parts.probes.rank import EffectiveRank

__all__ = ["Answers", "Calibration", "EffectiveRank", "LossByPosition", "LossOn", "NeuralCollapse"]
