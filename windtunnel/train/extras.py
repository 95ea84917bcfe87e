"""What a part may ask the engine for beyond its slot's first signature, and what an objective is given for it.

An optimizer asks by having a method (`numbers`, `totals`, `look_ahead`, `readout`), an objective by naming what it
needs. A newcomer would pass everything to everyone: each item costs memory or a pass, so it is made only where asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.recipe import DataShape, Recipe

NEEDS = ("done", "params", "start", "reference", "memory")
OF_OPTIMIZERS = ("numbers", "totals", "look_ahead", "readout")
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


def asked_of(recipe: Recipe) -> list[str]:
    """Everything a recipe asks for beyond the plain signatures, in words."""
    found = [f"the optimizer's {name}" for name in OF_OPTIMIZERS if hasattr(recipe.optimizer, name)]
    found += [f"the objective's {name}" for name in needs_of(recipe.objective)]
    return found + (["phases"] if recipe.phases is not None else [])


class Visits:
    """Which examples each run will see, so that a memory is kept of those alone; the data plan tells."""

    def __init__(self, recipe: Recipe, first_step: int, steps: int, size: int) -> None:
        self.data, self.steps, self.size = recipe.data, range(first_step, first_step + steps), size
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
