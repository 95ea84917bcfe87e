"""Sharpness-aware steps: how far to perturb each tensor, so that every layer feels as much at any width (2411.00075).

The perturbation of a tensor is its gradient over the gradient's own norm, times a radius. Such a matrix has few large
directions, hence about unit spectral norm, and the radius follows like the rate of an orthogonal step. A newcomer would
keep one radius, or one norm over all layers: with width, only the readout is then perturbed.
"""

from __future__ import annotations

from windtunnel.recipe import Site
from windtunnel.scaling.rules.reach import reach


def radius(site: Site, base: Site) -> float:
    """Factor on the radius of a tensor whose perturbation is its gradient over the gradient's norm.

    A forward multiplier of the tensor divides it once more. Measured in `tests/test_rules.py`.
    """
    return 1 / reach("orthogonal", site, base, gradient=1.0, weights=1.0, alignment=1.0)
