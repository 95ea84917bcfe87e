"""B2: large batch optimization for deep learning (1904.00962): steps in proportion to the weights, layer by layer.

The rules are stock optimizers (`windtunnel.parts.optimizers.LAMB`, LARS of 1708.03888); here they are claims.
"""

from __future__ import annotations

from windtunnel.parts.optimizers import LAMB, LARS
from windtunnel.recipe import Recipe


def lamb(base: Recipe) -> Recipe:
    """Steps of Adam's direction and the weights' own size keep their quality at large batches."""
    return base.but(optimizer=LAMB())


def lars(base: Recipe) -> Recipe:
    """Steps of the gradient's direction and the weights' own size keep their quality at large batches."""
    return base.but(optimizer=LARS())
