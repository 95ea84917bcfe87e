"""Curvature and gradient noise of any torch model, and what they say of batch size and learning rate.

Public as `wt.curvature`. A model, a loss closure and batches go in; frozen dataclasses with intervals come out. A
newcomer would take the whole data's largest eigenvalue for the limit of the learning rate: a mini-batch's is larger,
and how much larger is the batch size's own law. docs/batch-and-rate.md says what was measured, and where it fails.
"""

from windtunnel.curvature.noise import NoiseScale, StepsToTarget, noise_scale, steps_to_target
from windtunnel.curvature.products import Operator, batch_sharpness, gauss_newton, gradient, hessian, preconditioned
from windtunnel.curvature.reach import RuleReach, rule_reach
from windtunnel.curvature.spectrum import (
    Density,
    Eigenvalue,
    Ritz,
    lanczos,
    power_iteration,
    spectral_density,
    top_eigenvalue,
)
from windtunnel.curvature.stability import (
    BatchCurve,
    Bend,
    Inflation,
    bend,
    eigenvalue_curve,
    inflation,
    largest_stable_rate,
)

__all__ = [
    "BatchCurve", "Bend", "Density", "Eigenvalue", "Inflation", "NoiseScale", "Operator", "Ritz", "RuleReach",
    "StepsToTarget", "batch_sharpness", "bend", "eigenvalue_curve", "gauss_newton", "gradient", "hessian", "inflation",
    "lanczos", "largest_stable_rate", "noise_scale", "power_iteration", "preconditioned", "rule_reach",
    "spectral_density", "steps_to_target", "top_eigenvalue",
]  # fmt: skip
