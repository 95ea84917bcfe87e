"""A step whose examples do not fit in memory at once, taken in pieces: the same step, where that can be said.

The gradient of a mean over examples is the mean of the pieces' gradients, if an example's loss is its own. A newcomer
would take that for granted: a normalisation or a router that looks at the whole batch makes another step of it, and an
objective that remembers examples wants them all at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from windtunnel.errors import InputError
from windtunnel.train.extras import needs_of
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Pack

WHOLE = ("memory", "indices")  # of what an objective needs: it is of the step's examples, all of them
CLOSE = 1e-4  # two examples together and apart, relative to the largest number (rounding was seen to be 1e-6)


def share(count: int, part: int, parts: int) -> slice:
    """The examples of `count` that one of `parts` takes: contiguous, sizes at most one apart."""
    return slice(count * part // parts, count * (part + 1) // parts)


def check_cut(pack: Pack, model: nn.Module, data: Any) -> None:
    """Raise InputError where a step of this pack in pieces would be another step.

    `model` is on the CPU, with the values its module gave it: those of a parametrization may be zero and show nothing.
    """
    objective, needs = pack.recipe.objective, needs_of(pack.recipe.objective)
    because = f"{type(objective).__name__} needs all of a step's examples at once" if {*WHOLE} & {*needs} else ""
    if not because:
        training = model.training
        model.eval()  # dropout draws for each example
        because = _mixing(model, None if needs else objective, data.batch(seed=0, step=0, size=pack.rung.batch or 1))
        model.train(training)
    if because:
        raise InputError(
            f"One run at {pack.rung} with {pack.rung.batch} examples a step does not fit in memory, and a step cannot "
            f"be taken in pieces: {because}. Take a smaller batch or a model, or a machine with more memory."
        )


def _mixing(model: nn.Module, objective: Any, batch: Any) -> str:
    """What makes two examples together something else than each alone; empty where nothing does, or no two fit."""
    inputs, targets = (torch.from_numpy(array[:2]) for array in batch)
    with torch.no_grad():
        try:
            whole = model(inputs)
        except Exception as error:
            if is_out_of_memory(error):
                return ""
            raise
        apart = torch.cat([model(inputs[:1]), model(inputs[1:])])
        if not _near(whole, apart):
            return "what the network makes of an example depends on the others"
        if objective is not None:
            each = torch.stack([objective(apart[i : i + 1], targets[i : i + 1]).mean() for i in range(2)])
            if not _near(objective(apart, targets).mean(), each.mean()):
                return f"{type(objective).__name__} is not a mean over examples"
    return ""


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= CLOSE * float(other.abs().max().clamp(min=1.0))
