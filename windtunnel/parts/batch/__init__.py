"""Stock batch rules: examples per step at a rung."""

from windtunnel.parts.batch.rules import FixedBatch, StepLawBatch

__all__ = ["FixedBatch", "StepLawBatch"]
