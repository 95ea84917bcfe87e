"""B10: layer normalization (1607.06450), as an arm beside the root-mean-square norm that the base has."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from windtunnel.errors import InputError
from windtunnel.recipe import Recipe


def layer_norm(base: Recipe) -> Recipe:
    """Taking the mean out of activations as well, with a gain and a bias a neuron, trains better than their size alone.

    The paper's own comparison is with no norm at all, in recurrent networks.
    """
    if not hasattr(base.model, "norm"):
        raise InputError(f"The model {type(base.model).__name__} has no norm to choose; use Transformer.")
    return base.but(model=replace(base.model, norm=nn.LayerNorm, gains=True))
