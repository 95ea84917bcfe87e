"""What a network makes of its input just before the readout: the features that probes look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError


def features(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Features (predictions, width) and targets (predictions) of all batches.

    They are the input of the last linear layer that a forward pass calls. Raises InputError where there is none.
    """
    seen: list[Tensor] = []

    def listen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].detach())

    hooks = [module.register_forward_pre_hook(listen) for module in model.modules() if isinstance(module, nn.Linear)]
    if not hooks:
        raise InputError(f"{type(model).__name__} has no linear layer, so what is read out cannot be told from it.")
    found, targets = [], []
    try:
        with torch.no_grad():
            for inputs, wanted in batches:
                seen.clear()
                model(inputs)
                found.append(seen[-1].flatten(0, -2))
                targets.append(wanted.flatten())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found), torch.cat(targets)
