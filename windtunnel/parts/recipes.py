"""A few whole recipes, to start from. `embedding_std` and the ranges were measured on bytes of the standard library."""

from __future__ import annotations

from typing import Any

from windtunnel.parts.batch import FixedBatch, StepLawBatch
from windtunnel.parts.models import CNN, MLP, Transformer
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.parts.schedules import WSD
from windtunnel.recipe import Recipe
from windtunnel.scaling.rules import MuP, Standard


def transformer_mup_adamw(*, data: Any) -> Recipe:
    """A decoder trained by AdamW under muP, with WSD and a third of Step Law's batch."""
    return Recipe(
        model=Transformer(),
        parametrization=MuP(),
        optimizer=AdamW(),
        schedule=WSD(),
        batch=StepLawBatch(),
        data=data,
        objective=CrossEntropy(),
    )


def transformer_standard_adamw(*, data: Any) -> Recipe:
    """The same in the standard parametrization: one learning rate for every tensor and width."""
    return transformer_mup_adamw(data=data).but(parametrization=Standard())


def mlp_mup_sgd(*, data: Any) -> Recipe:
    """A perceptron for images trained by SGD with momentum under muP."""
    return transformer_mup_adamw(data=data).but(model=MLP(), optimizer=SGD(), batch=FixedBatch(examples=32))


def cnn_mup_adamw(*, data: Any) -> Recipe:
    """A small convolutional network for images trained by AdamW under muP."""
    return transformer_mup_adamw(data=data).but(model=CNN(), batch=FixedBatch(examples=32))
