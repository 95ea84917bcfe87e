"""Stock optimizers, each written for one tensor of one model."""

from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.parts.optimizers.lamb import LAMB
from windtunnel.parts.optimizers.lion import Lion
from windtunnel.parts.optimizers.muon import Muon
from windtunnel.parts.optimizers.sgd import SGD
from windtunnel.parts.optimizers.shampoo import Shampoo

__all__ = ["LAMB", "SGD", "AdamW", "Lion", "Muon", "Shampoo"]
