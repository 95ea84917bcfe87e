"""How much memory a pack takes, without training it: its tensors counted on the meta device.

A row holds its weights, gradients and optimizer state, the new ones beside the old during an update, and what the
forward pass keeps for the backward pass. A newcomer would count parameters alone; at these sizes what is kept for the
backward pass is most of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from windtunnel.scaling.meta import on_meta
from windtunnel.train.pack import Pack, build_model
from windtunnel.train.rows import first_rows

# Peak of a process over what is counted: passing results, copies that vmap makes, the allocator's rounding (measured on
# a CPU, width 64 and 192, 4 to 32 rows: 1.2 to 1.8); a guess on a GPU.
MARGIN = 2.0


def pack_bytes(pack: Pack) -> float | None:
    """Bytes that training a pack takes at most, None where its model cannot be run without values."""
    row = row_bytes(pack)
    return None if row is None else MARGIN * row * len(first_rows(pack.alike()))


def row_bytes(pack: Pack) -> float | None:
    """Bytes of one row of a pack, None where its model cannot be run without values."""
    try:
        return float(_row_bytes(pack))
    except Exception:  # a model may look at values, which there are none: then only training tells
        return None


def _row_bytes(pack: Pack) -> int:
    model = on_meta(lambda: build_model(pack.recipe, pack.rung)).to("meta")
    weights = {id(p): p for p in model.parameters()}
    held = sum(_bytes(p) for p in weights.values())
    # every stock optimizer keeps whole tensors like the weight; two is the most common number and the most here
    return 2 * (held + 2 * held) + held + _kept(pack, model)


def _kept(pack: Pack, model: torch.nn.Module) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights aside."""
    inputs, targets = (
        torch.from_numpy(a).to("meta") for a in pack.recipe.data.batch(seed=0, step=0, size=_batch(pack))
    )
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, tuple[Any, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (storage, storage.nbytes())  # held, so that no other takes its place in memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pack.recipe.objective(model(inputs), targets)
    return sum(size for _, size in kept.values())


def _batch(pack: Pack) -> int:
    return pack.rung.batch or 1


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
