"""Which layers a transform takes hold of, on a built network and, for counting, on one without storage.

A newcomer would take the last linear layer too: it reads the network out, and papers leave it as it is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from torch import nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.recipe import DataShape
from windtunnel.scaling.meta import on_meta


def chosen(model: nn.Module, where: str = "*") -> dict[str, nn.Linear]:
    """Name to every linear layer that matches `where`, but the last; InputError where none does."""
    layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    found = {name: layers[name] for name in list(layers)[:-1] if fnmatch.fnmatch(name, where)}
    if not found:
        raise InputError(
            f"No linear layer before the last matches {where!r}; those of {type(model).__name__} are "
            f"{', '.join(layers) or 'none'}."
        )
    return found


def swapped(model: nn.Module, layers: dict[str, Any], by: Callable[[Any], nn.Module]) -> nn.Module:
    """The model with each of these modules replaced by what `by` makes of it, at the same name."""
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, by(layer))
    return model


def shapes(part: Any, rung: Rung, data: DataShape, where: str = "*") -> list[tuple[int, int]]:
    """(outputs, inputs) of the layers that `chosen` gives of a model part's network."""
    model = on_meta(lambda: part.build(rung, data))
    return [(layer.out_features, layer.in_features) for layer in chosen(model, where).values()]
