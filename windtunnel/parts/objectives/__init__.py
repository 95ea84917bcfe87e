"""Stock objectives: the loss per token that training descends."""

from windtunnel.parts.objectives.cross_entropy import CrossEntropy
from windtunnel.parts.objectives.on_answers import OnAnswers

__all__ = ["CrossEntropy", "OnAnswers"]
