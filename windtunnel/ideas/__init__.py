"""The gallery: one published idea a file, each only stating the idea. `studies/gallery` measures them."""

from windtunnel.ideas.anchors import prediction_anchor, weight_anchor
from windtunnel.ideas.early_learning import early_learning
from windtunnel.ideas.half_fine_tuning import half_fine_tuning
from windtunnel.ideas.model_soup import model_soup
from windtunnel.ideas.muon import muon
from windtunnel.ideas.progressive_self_distillation import progressive_self_distillation
from windtunnel.ideas.sharpness_aware import sharpness_aware
from windtunnel.ideas.v_cycle import v_cycle

__all__ = [
    "early_learning",
    "half_fine_tuning",
    "model_soup",
    "muon",
    "prediction_anchor",
    "progressive_self_distillation",
    "sharpness_aware",
    "v_cycle",
    "weight_anchor",
]
