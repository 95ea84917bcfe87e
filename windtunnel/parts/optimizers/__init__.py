"""Stock optimizers, each written for one tensor of one model."""

from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.parts.optimizers.lion import Lion
from windtunnel.parts.optimizers.muon import Muon
from windtunnel.parts.optimizers.sgd import SGD

__all__ = ["SGD", "AdamW", "Lion", "Muon"]
