"""Stock optimizers, each written for one tensor of one model."""

from windtunnel.parts.optimizers.adam_atan2 import AdamAtan2
from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.parts.optimizers.adamw_on import AdamWOn
from windtunnel.parts.optimizers.lamb import LAMB
from windtunnel.parts.optimizers.lars import LARS
from windtunnel.parts.optimizers.lion import Lion
from windtunnel.parts.optimizers.muon import Muon
from windtunnel.parts.optimizers.sgd import SGD
from windtunnel.parts.optimizers.shampoo import Shampoo

__all__ = ["LAMB", "LARS", "SGD", "AdamAtan2", "AdamW", "AdamWOn", "Lion", "Muon", "Shampoo"]
