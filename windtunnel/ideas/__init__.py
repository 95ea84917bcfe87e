"""The gallery: one published idea a file, each only stating the idea. `studies/gallery` measures them."""

from windtunnel.ideas.anchors import prediction_anchor, weight_anchor
from windtunnel.ideas.coreset import coreset
from windtunnel.ideas.critical_momenta import critical_momenta
from windtunnel.ideas.early_learning import early_learning
from windtunnel.ideas.half_fine_tuning import half_fine_tuning
from windtunnel.ideas.hard_batches import hard_batches
from windtunnel.ideas.hypergradient_rate import hypergradient_rate
from windtunnel.ideas.infinite_schedule import infinite_schedule
from windtunnel.ideas.invariant_hypernetwork import invariant_hypernetwork
from windtunnel.ideas.layer_norm import layer_norm
from windtunnel.ideas.layer_wise_trust import lamb, lars
from windtunnel.ideas.linear_to_zero import linear_to_zero
from windtunnel.ideas.lora_sb import lora_sb, low_rank_adaptation, random_basis
from windtunnel.ideas.model_soup import model_soup
from windtunnel.ideas.multigrid import multigrid
from windtunnel.ideas.muon import muon
from windtunnel.ideas.nested_widths import nested_widths
from windtunnel.ideas.population_based_training import population_based_training, random_search
from windtunnel.ideas.power_schedule import power_schedule
from windtunnel.ideas.progressive_self_distillation import progressive_self_distillation
from windtunnel.ideas.random_subspace import random_subspace
from windtunnel.ideas.replay import replay
from windtunnel.ideas.sharpness_aware import sharpness_aware
from windtunnel.ideas.sparse_spectral import sparse_spectral
from windtunnel.ideas.sqrt_cooldown import sqrt_cooldown
from windtunnel.ideas.structured_sparsity import sparse_from_the_start, structured_sparsity
from windtunnel.ideas.ternary_weights import ternary_weights, ternary_weights_by_mean
from windtunnel.ideas.v_cycle import v_cycle
from windtunnel.ideas.weight_compander import weight_compander
from windtunnel.ideas.weight_standardization import weight_standardization
from windtunnel.ideas.wider_not_deeper import shared_norms, wider_not_deeper

__all__ = [
    "coreset",
    "critical_momenta",
    "early_learning",
    "half_fine_tuning",
    "hard_batches",
    "hypergradient_rate",
    "infinite_schedule",
    "invariant_hypernetwork",
    "lamb",
    "lars",
    "layer_norm",
    "linear_to_zero",
    "lora_sb",
    "low_rank_adaptation",
    "model_soup",
    "multigrid",
    "muon",
    "nested_widths",
    "population_based_training",
    "power_schedule",
    "prediction_anchor",
    "progressive_self_distillation",
    "random_basis",
    "random_search",
    "random_subspace",
    "replay",
    "shared_norms",
    "sharpness_aware",
    "sparse_from_the_start",
    "sparse_spectral",
    "sqrt_cooldown",
    "structured_sparsity",
    "ternary_weights",
    "ternary_weights_by_mean",
    "v_cycle",
    "weight_anchor",
    "weight_compander",
    "weight_standardization",
    "wider_not_deeper",
]
