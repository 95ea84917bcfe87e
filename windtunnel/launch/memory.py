"""How many bytes a pack needs, to place it on a node that has them.

Weights, gradients and optimizer state follow from the size; activations are counted, not guessed: the model is run once
on the meta device, which computes no numbers, and the tensors that its backward pass would keep are added up. It is an
estimate all the same: an allocator keeps more than is asked for, and an optimizer may keep more than two states.
"""

from __future__ import annotations

import torch

from windtunnel.scaling.meta import on_meta
from windtunnel.train.pack import Pack, build_model

BYTES = 4  # float32
COPIES = 6  # weights, gradients, two optimizer states, and the new weights and states while they are being made
# An interpreter with torch imported and its threads started (measured: 0.45 GiB on CPU).
PROCESS_BYTES = 512 * 2**20
SPARE = 1.3  # what an allocator keeps besides (guess)


def estimated_bytes(pack: Pack) -> int:
    """Host memory of a process that trains a pack on a CPU, in bytes."""
    return PROCESS_BYTES + int(SPARE * len(pack.specs) * (_held(pack) + _activations(pack)))


def _held(pack: Pack) -> int:
    return COPIES * BYTES * int(pack.size().total)


def _activations(pack: Pack) -> int:
    """Bytes that one member's backward pass keeps from its forward pass; 0 where the model cannot run without data."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    inputs, targets = pack.recipe.data.batch(seed=0, step=0, size=pack.rung.batch or 1)
    try:
        x, y = torch.from_numpy(inputs).to("meta"), torch.from_numpy(targets).to("meta")
        saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with torch.device("meta"), saved:  # the forward pass too may make tensors: positions, masks
            model = on_meta(lambda: build_model(pack.recipe, pack.rung)).to("meta")
            loss = pack.recipe.objective(model(x), y).mean()
    except Exception:  # a part that looks at numbers; its activations are then left out, and SPARE must do
        return 0
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    del loss
    return sum(size for storage, size in kept.items() if storage not in own)
