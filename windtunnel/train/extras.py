"""What a part may ask the engine for beyond its slot's first signature, and what an objective is given for it.

An optimizer asks by having a method (`numbers`, `totals`, `maxima`, `look_ahead`, `readout`) and, as an objective, a
transform or a model, by naming what it needs. A newcomer would pass everything to everyone: each item costs memory or
a pass, so it is made only where asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.recipe import DataShape, Recipe

NEEDS = ("done", "params", "start", "reference", "memory", "indices")
OF_NETWORKS = {"done": torch.float32, "noise": torch.int64}
OF_OPTIMIZERS = ("numbers", "totals", "maxima", "look_ahead", "readout")
TOLD = ("loss", "horizon")  # what an optimizer may name in `needs`: it is in the hp of every update
MEMORY_BYTES = 1 << 32  # of one row: past this an objective's memory is a mistake (guess)


def needs_of(objective: Any) -> tuple[str, ...]:
    """What an objective is given besides outputs and targets. Raises InputError for what there is not."""
    named = tuple(getattr(objective, "needs", ()))
    unknown = [name for name in named if name not in NEEDS]
    if unknown:
        raise InputError(
            f"{type(objective).__name__}.needs names {', '.join(map(repr, unknown))}, which the engine does not have; "
            f"it has {', '.join(NEEDS)}."
        )
    if "memory" in named and not callable(getattr(objective, "memory", None)):
        raise InputError(
            f"{type(objective).__name__} needs a memory but does not say of what: give it a method memory(data_shape) "
            f"that returns a dict of tensors, the memory of one example before its first visit."
        )
    return named


def told_to(optimizer: Any) -> tuple[str, ...]:
    """What an optimizer is told at each update, in `hp`. Raises InputError for what it cannot be told.

    "loss" is that of the batch whose gradient it is given, before the update, in nats per token; "horizon" the number
    of steps of the whole training.
    """
    named = tuple(getattr(optimizer, "needs", ()))
    unknown = [name for name in named if name not in TOLD]
    if unknown:
        raise InputError(
            f"{type(optimizer).__name__}.needs names {', '.join(map(repr, unknown))}, which an optimizer is not told; "
            f"it is told {', '.join(TOLD)}."
        )
    return named


def asked_of(recipe: Recipe) -> list[str]:
    """Everything a recipe asks for beyond the plain signatures, in words."""
    found = [f"the optimizer's {name}" for name in OF_OPTIMIZERS if hasattr(recipe.optimizer, name)]
    found += [f"the optimizer's {name}" for name in told_to(recipe.optimizer)]
    found += [f"the objective's {name}" for name in needs_of(recipe.objective)]
    found += [f"the network's {name}" for name in followed(recipe)]
    return found + (["phases"] if recipe.phases is not None else [])


def followed(recipe: Recipe) -> tuple[str, ...]:
    """What a recipe's network is told while it is trained: by its model or its transforms."""
    parts = (recipe.model, *recipe.transforms)
    named = {name: part for part in parts for name in getattr(part, "needs", ())}
    for name, part in named.items():
        if name not in OF_NETWORKS:
            raise InputError(
                f"{type(part).__name__}.needs names {name!r}, which the engine does not tell a network; it tells "
                f"{', '.join(OF_NETWORKS)}."
            )
    return tuple(sorted(named))


def listening(model: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Full name of each buffer that the engine writes, to what it writes there. Raises InputError if one is missing."""
    buffers, found = dict(model.named_buffers()), dict[str, str]()
    for need in followed(recipe):
        own = [name for name in buffers if name.split(".")[-1] == need]
        if not own or any(buffers[name].shape or buffers[name].dtype != OF_NETWORKS[need] for name in own):
            raise InputError(
                f"The network needs {need!r} but has no place for it: a module of it registers a buffer of that name, "
                f"register_buffer({need!r}, torch.tensor(0, dtype={OF_NETWORKS[need]}), persistent=False)."
            )
        found |= dict.fromkeys(own, need)
    return found


def noise_of(seed: int, stretch: int, step: int) -> int:
    """A whole number below 2^31 that a run has at one step alone."""
    digest = hashlib.sha256(f"noise:{seed}:{stretch}:{step}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def drawn(recipe: Recipe, data: Any, seeds: Sequence[int], step: int, size: int, device: torch.device) -> Tensor:
    """The numbers of a step's examples, (rows, batch), for an objective that needs them."""
    if not hasattr(data, "indices"):
        raise InputError(
            f"{type(recipe.objective).__name__} needs the numbers of its examples, which the data plan "
            f"{type(data).__name__} does not say; give it indices(seed, step, size)."
        )
    found = {seed: data.indices(seed=seed, step=step, size=size) for seed in dict.fromkeys(seeds)}
    return torch.from_numpy(np.stack([found[seed] for seed in seeds])).to(device)


class Visits:
    """Which examples each run will see, so that a memory is kept of those alone; the data plan tells."""

    def __init__(self, recipe: Recipe, data: Any, first_step: int, steps: int, size: int) -> None:
        self.data, self.steps, self.size = data, range(first_step, first_step + steps), size
        self._seen: dict[int, np.ndarray] = {}
        if not hasattr(self.data, "indices"):
            raise InputError(
                f"{type(recipe.objective).__name__} keeps a memory of examples, but the data plan "
                f"{type(self.data).__name__} does not say which ones a step sees; give it indices(seed, step, size)."
            )

    def count(self, seed: int) -> int:
        """How many different examples a run sees."""
        return len(self._of(seed))

    def places(self, seeds: Sequence[int], step: int, device: torch.device) -> Tensor:
        """Where the examples of a step are in the memory, (rows, batch)."""
        drawn = [
            np.searchsorted(self._of(seed), self.data.indices(seed=seed, step=step, size=self.size)) for seed in seeds
        ]
        return torch.from_numpy(np.stack(drawn)).to(device)

    def _of(self, seed: int) -> np.ndarray:
        if seed not in self._seen:
            drawn = [self.data.indices(seed=seed, step=step, size=self.size) for step in self.steps]
            self._seen[seed] = np.unique(np.concatenate(drawn))
        return self._seen[seed]


def first_memory(recipe: Recipe, visits: Visits, seeds: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """The memory of all examples before their first visit, tensors (rows, examples, ...)."""
    count = max(visits.count(seed) for seed in seeds)
    held = _checked(recipe, recipe.data.shape())
    return {name: _for_all(name, one, count, len(seeds), device) for name, one in held.items()}


def _checked(recipe: Recipe, shape: DataShape) -> Mapping[str, Tensor]:
    one = recipe.objective.memory(shape)
    if not isinstance(one, dict) or not all(isinstance(t, Tensor) for t in one.values()):
        raise InputError(f"{type(recipe.objective).__name__}.memory returned {one!r}; it must be a dict of tensors.")
    return one


def _for_all(name: str, one: Tensor, examples: int, rows: int, device: torch.device) -> Tensor:
    if one.nbytes * examples > MEMORY_BYTES:
        raise InputError(
            f"The objective's memory {name!r} takes {one.nbytes * examples / 2**30:.1f} GiB for {examples:,} examples "
            f"of one run; keep less for each example, or use less data."
        )
    return one.to(device).expand(rows, examples, *one.shape).clone()


def given_of(
    needs: Sequence[str], start: list[Tensor], memory: Mapping[str, Tensor], indices: Tensor | None, done: Tensor
) -> dict[str, Any]:
    """What an objective needs, with a leading row axis; `done` is each row's share of its horizon."""
    given: dict[str, Any] = {"start": start} if {"start", "reference"} & set(needs) else {}
    if "done" in needs:
        given["done"] = done
    if indices is not None:
        given["memory"] = recalled(memory, indices)
    return given


def recalled(memory: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
    """The memory of a batch, tensors (rows, batch, ...); `indices` is (rows, batch)."""
    at = torch.arange(len(indices), device=indices.device)[:, None]
    return {name: held[at, indices] for name, held in memory.items()}


def remembered(memory: dict[str, Tensor], indices: Tensor, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The memory with a batch's own replaced."""
    at = torch.arange(len(indices), device=indices.device)[:, None]
    return {name: held.index_put((at, indices), new[name].detach().to(held.dtype)) for name, held in memory.items()}
