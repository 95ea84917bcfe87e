"""Stock objectives: the losses that training descends, and by which a judge may judge."""

from windtunnel.parts.objectives.cross_entropy import CrossEntropy
from windtunnel.parts.objectives.on_answers import OnAnswers
from windtunnel.parts.objectives.squared_error import SquaredError

__all__ = ["CrossEntropy", "OnAnswers", "SquaredError"]
