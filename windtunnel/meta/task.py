"""What a learned optimizer is trained on: a recipe without its optimizer, at one size.

A newcomer would write tasks apart from the rest; here any model, data plan, objective and parametrization that can be
studied can be meta-trained on, and the particles are a pack. Examples come from the data plan and are drawn anew for
every truncation: which ones is a function of the pair's seed and the truncation's number, so a resumed run needs no
cursor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Recipe
from windtunnel.scaling.table import ScaleTable
from windtunnel.train.pack import Group, build_model, check_buffers, groups_of, table_of
from windtunnel.train.steps import gradient

POOL = 8192  # examples that are drawn from
_RULE = AdamW(lr=1.0)  # entrywise, as every learned rule is
CAP = 1.5  # the loss of one batch counts for at most so many times that of a uniform guess (LAgg, Celo)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One inner problem. The recipe's optimizer counts only where training is local; `rung` has its batch settled.

    `base` is another width of the same model, by which its sides are told apart. `rescaled` > 1 multiplies every weight
    of a particle by a factor from exp(uniform(-log, log)) for the network to undo (Celo2's augmentation: the loss stays
    as it is, sizes of weights and gradients do not).
    """

    name: str
    recipe: Recipe
    rung: Rung
    base: Rung
    rescaled: float = 1.0

    def __post_init__(self) -> None:
        if self.recipe.phases is not None or self.recipe.tuned_fields().keys() - {"lr", "others_lr"}:
            raise InputError(f"The task {self.name!r} leaves fields open or has phases; give a plain, filled recipe.")
        if self.rescaled < 1:
            raise InputError(
                f"The task {self.name!r} has rescaled={self.rescaled}; give 1 (off) or more, such as 1000."
            )

    def describe(self) -> dict[str, Any]:
        """Plain data: what two tasks must have in common to be the same."""
        held = {n: v for n, v in self.recipe.describe().items() if n not in ("optimizer", "schedule")}
        return {"name": self.name, "recipe": held, "rung": str(self.rung), "rescaled": self.rescaled}

    @cached_property
    def batch(self) -> int:
        """Examples a step."""
        return self.recipe.settled(self.rung).batch or 1

    def at_width(self, width: int) -> Rung:
        """The task's rung at another width; heads keep their width where they do between `rung` and `base`."""
        rung, head = self.rung, self.rung.width // self.rung.heads
        grow = rung.heads != self.base.heads
        return rung.but(width=width, heads=max(1, width // head) if grow else rung.heads)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch."""
        return self.batch * self.recipe.data.shape().tokens_per_example

    @cached_property
    def cap(self) -> float:
        """The largest loss that counts, in nats per token."""
        return CAP * math.log(self.recipe.data.shape().classes)


@dataclass
class Inner:
    """A task built: groups of equal tensors, the gradient of a pack of particles, and examples to draw from.

    `validation` is the share of its training examples that no particle is trained on.
    """

    task: Task
    device: torch.device
    validation: float = 0.0
    table: ScaleTable = field(init=False)
    groups: list[Group] = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.task.recipe
        self._model = build_model(recipe, self.task.rung).to(self.device)
        check_buffers(self._model)
        self.table = table_of(recipe.but(optimizer=_RULE), self.task.rung, self.task.base)
        self.table.attach(self._model)
        self.groups = groups_of(self.table)
        self.examples = self.task.batch  # of a step
        self._recorded: dict[tuple[Any, ...], Any] = {}

    @cached_property
    def pool(self) -> tuple[Tensor, Tensor]:
        """Examples that particles are trained on."""
        return self._on_device(*self._sides[0])

    @cached_property
    def aside(self) -> tuple[Tensor, Tensor]:
        """Examples for validation: none of them, nor one equal to it, is among the others."""
        return self._on_device(*self._sides[1])

    @cached_property
    def _sides(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Training examples, all or POOL of them, and those of them that are set aside; the judge's are in neither."""
        shape = self.task.recipe.data.shape()
        there = max(1, int(shape.train_tokens // shape.tokens_per_example))
        inputs, targets = self.task.recipe.data.batch(seed=0, step=0, size=min(there, POOL))
        apart = _set_aside(inputs, self.validation)
        if self.validation and (apart.all() or not apart.any()):
            raise InputError(
                f"The task {self.task.name!r} has {len(inputs)} training examples, too few to set aside a share of "
                f"{self.validation:g}; give more data, or validation=0 for the training loss as meta-loss."
            )
        return (inputs[~apart], targets[~apart]), (inputs[apart], targets[apart])

    def _on_device(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(inputs).to(self.device), torch.from_numpy(targets).to(self.device)

    def batches(self, seeds: Sequence[int], truncation: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a whole truncation, (length, seeds, batch, ...); a function of seeds and number."""
        return self._drawn(self.pool, "batches", (length, self.examples), seeds, truncation)

    def validations(self, seeds: Sequence[int], truncation: int, length: int) -> tuple[Tensor, Tensor]:
        """The same of examples for validation."""
        return self._drawn(self.aside, "validation", (length, self.task.batch), seeds, truncation)

    def _drawn(
        self, pool: tuple[Tensor, Tensor], what: str, size: tuple[int, int], seeds: Sequence[int], truncation: int
    ) -> tuple[Tensor, Tensor]:
        count = len(pool[0])
        drawn = [torch.randint(count, size, generator=generator_of(what, s, truncation)) for s in seeds]
        chosen = torch.stack(drawn, dim=1).to(self.device)
        return pool[0][chosen], pool[1][chosen]

    def gradient(self, params: list[Tensor], inputs: Tensor, targets: Tensor, compile: bool) -> Any:
        """(gradients, losses of the particles); recorded as a flat graph the first time, and compiled where asked."""
        shape = tuple(inputs.shape)
        if shape not in self._recorded:
            self._recorded[shape] = self._record(params, inputs, targets, compile)
        with torch.no_grad():  # the backward pass is part of the graph
            return self._recorded[shape](params, inputs, targets)

    def loss(self, params: list[Tensor], inputs: Tensor, targets: Tensor, compile: bool) -> Tensor:
        """Losses of the particles on a batch; recorded and compiled as gradients are."""
        shape = ("loss", *inputs.shape)
        if shape not in self._recorded:
            packed = gradient(self._model, self.groups, self.task.recipe.objective, packed=True)
            self._recorded[shape] = recorded(lambda *told: packed(*told)[1], (params, inputs, targets), compile)
        with torch.no_grad():
            return self._recorded[shape](params, inputs, targets)

    def _record(self, params: list[Tensor], inputs: Tensor, targets: Tensor, compile: bool) -> Any:
        packed = gradient(self._model, self.groups, self.task.recipe.objective, packed=True)

        def plain(params: list[Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return packed(params, inputs, targets)[:2]

        return recorded(plain, (params, inputs, targets), compile)


def recorded(function: Any, arguments: tuple[Any, ...], compile: bool) -> Any:
    """The function as a flat graph for arguments of these shapes, without vmap and autograd in the way."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.enable_grad():
        graph = make_fx(function)(*arguments)
    return torch.compile(graph, dynamic=False) if compile else graph


def _set_aside(inputs: np.ndarray, share: float) -> np.ndarray:
    """Which examples are set aside: that share of the distinct ones, those with the smallest hashes."""
    if not share:
        return np.zeros(len(inputs), dtype=bool)
    hashes = np.array([hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for each in inputs])
    distinct = np.unique(hashes)
    return np.isin(hashes, distinct[: round(len(distinct) * share)])


def generator_of(*what: int | str) -> torch.Generator:
    """A generator that depends on these words and numbers alone."""
    digest = hashlib.sha256(":".join(map(str, what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
