"""The gallery: one published idea a file, each only stating the idea. `studies/gallery` measures them."""

from windtunnel.ideas.anchors import prediction_anchor, weight_anchor
from windtunnel.ideas.early_learning import early_learning
from windtunnel.ideas.half_fine_tuning import half_fine_tuning
from windtunnel.ideas.infinite_schedule import infinite_schedule
from windtunnel.ideas.linear_to_zero import linear_to_zero
from windtunnel.ideas.model_soup import model_soup
from windtunnel.ideas.muon import muon
from windtunnel.ideas.power_schedule import power_schedule
from windtunnel.ideas.progressive_self_distillation import progressive_self_distillation
from windtunnel.ideas.sharpness_aware import sharpness_aware
from windtunnel.ideas.sqrt_cooldown import sqrt_cooldown
from windtunnel.ideas.v_cycle import v_cycle

__all__ = [
    "early_learning",
    "half_fine_tuning",
    "infinite_schedule",
    "linear_to_zero",
    "model_soup",
    "muon",
    "power_schedule",
    "prediction_anchor",
    "progressive_self_distillation",
    "sharpness_aware",
    "sqrt_cooldown",
    "v_cycle",
    "weight_anchor",
]
