"""How much memory a pack takes, without training it: its tensors counted on the meta device.

A row holds its weights, gradients and optimizer state, the new ones beside the old during an update, and what the
forward pass keeps for the backward pass. A newcomer would count parameters alone; at these sizes what is kept for the
backward pass is most of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from windtunnel.scaling.meta import on_meta
from windtunnel.train.extras import needs_of
from windtunnel.train.pack import Pack, build_model
from windtunnel.train.rows import first_rows

BYTES = 4  # float32
COPIES = 7  # weights, gradients, two optimizer states, and the new weights and states while they are being made
# Peak of a process over what is counted: passing results, copies that vmap makes, the allocator's rounding (measured on
# a CPU, width 64 and 192, 4 to 32 rows: 1.2 to 1.8); a guess on a GPU.
MARGIN = 2.0
# An interpreter with torch imported and its threads started (measured: 0.45 GiB on a CPU).
PROCESS_BYTES = 512 * 2**20


def process_bytes(pack: Pack) -> int:
    """Host memory of a process that trains a pack on a CPU; without activations where they cannot be counted."""
    rows = len(first_rows(pack.alike()))
    return PROCESS_BYTES + int(pack_bytes(pack) or MARGIN * rows * _held(pack))


def pack_bytes(pack: Pack) -> float | None:
    """Bytes that training a pack takes at most, None where its model cannot be run without values."""
    row = row_bytes(pack)
    return None if row is None else MARGIN * row * len(first_rows(pack.alike()))


def row_bytes(pack: Pack) -> float | None:
    """Bytes of one row of a pack, None where its model cannot be run without values."""
    try:
        return float(_held(pack) + _kept(pack) + _remembered(pack))
    except Exception:  # a part may look at values, which there are none: then only training tells
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is lack of memory; torch says it on a CPU with an ordinary RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _held(pack: Pack) -> int:
    return COPIES * BYTES * pack.size().total


def _remembered(pack: Pack) -> int:
    """Bytes of an objective's memory of examples: of all that a run can see."""
    objective, data = pack.recipe.objective, pack.recipe.data_at(pack.rung)
    if "memory" not in needs_of(objective):
        return 0
    seen = math.ceil(pack.rung.tokens / data.shape().tokens_per_example)
    examples = min(seen, data.examples()) if hasattr(data, "examples") else seen
    return examples * sum(t.nbytes for t in objective.memory(data.shape()).values())


def _kept(pack: Pack) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights aside."""
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage, storage.nbytes()  # held, so that no other takes its place in memory
        return tensor

    batch = pack.recipe.data.batch(seed=0, step=0, size=pack.rung.batch or 1)
    inputs, targets = (torch.from_numpy(a).to("meta") for a in batch)
    model = on_meta(lambda: build_model(pack.recipe, pack.rung)).to("meta")
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.device("meta"), saved:  # the forward pass too may make tensors: positions, masks
        outputs = model(inputs)
        if not needs_of(pack.recipe.objective):  # one that needs more cannot be called here
            pack.recipe.objective(outputs, targets)
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    return sum(size for storage, (_, size) in kept.items() if storage not in weights)
