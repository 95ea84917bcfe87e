"""Stock objectives: the loss per token that training descends."""

from windtunnel.parts.objectives.cross_entropy import CrossEntropy

__all__ = ["CrossEntropy"]
