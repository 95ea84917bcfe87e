"""A step whose examples do not fit in memory at once, taken in pieces: the same step, where that can be said.

The gradient of a mean over examples is the mean of the pieces' gradients, if an example's loss is its own. A newcomer
would take that for granted: a normalisation or a router that looks at the whole batch makes another step of it, and an
objective that remembers examples wants them all at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.train.extras import followed, needs_of
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Pack
from windtunnel.train.steps import Within

WHOLE = ("memory", "indices")  # of what an objective needs: it is of the step's examples, all of them
CLOSE = {"float32": 1e-4, "bfloat16": 2e-2}  # examples together and apart, relative to the largest number (guess)
MOST = 64  # examples whose losses are compared


def check_cut(pack: Pack, model: nn.Module, data: Any, device: torch.device, within: Within) -> None:
    """Raise InputError where a step of this pack in pieces would be another step.

    `model` is on `device`, with the values its module gave it: those of a parametrization may be zero and show nothing.
    """
    training = model.training
    model.eval()  # dropout draws for each example
    because = _because(pack, model, data, device, within)
    model.train(training)
    if because:
        raise InputError(
            f"One run at {pack.rung} with {pack.rung.batch} examples a step does not fit in memory, and a step cannot "
            f"be taken in pieces: {because}. Take a smaller batch or a model, or a machine with more memory."
        )


def _because(pack: Pack, model: nn.Module, data: Any, device: torch.device, within: Within) -> str:
    """Why not; empty where nothing speaks against it, or no two examples fit."""
    objective, size = pack.recipe.objective, pack.rung.batch or 1
    named = type(objective).__name__
    if {*WHOLE} & {*needs_of(objective)}:
        return f"{named} needs all of a step's examples at once"
    if "noise" in followed(pack.recipe):
        return "the network draws by the place of an example in its step"
    if size < 2:
        return ""
    inputs, targets = (torch.from_numpy(array[:MOST]).to(device) for array in data.batch(seed=0, step=0, size=size))
    close = CLOSE[pack.precision]
    try:
        with torch.no_grad(), within():
            whole = model(inputs[:2]).float()
            apart = torch.cat([model(inputs[:1]), model(inputs[1:2])]).float()
            if not _near(whole, apart, close):
                return "what the network makes of an example depends on the others"
            if needs_of(objective):
                return ""
            drawn = torch.Generator().manual_seed(0)
            outputs = torch.randn(len(inputs), *whole.shape[1:], generator=drawn).to(device)
            each = [objective(outputs[i : i + 1], targets[i : i + 1]).mean() for i in range(len(inputs))]
            if not _near(objective(outputs, targets).mean(), torch.stack(each).mean(), close):
                return f"{named} is not a mean over examples"
    except Exception as error:
        if is_out_of_memory(error):
            return ""
        return f"whether an example's loss is its own could not be seen ({type(error).__name__}: {error})"
    return ""


def _near(one: Tensor, other: Tensor, close: float) -> bool:
    return float((one - other).abs().max()) <= close * float(other.abs().max().clamp(min=1.0))
