"""Local training inside a task: K workers a particle, H local steps each; what comes back is the outer gradient.

All workers of all particles are one pack. A newcomer would give the workers copies of one batch; each draws its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.meta.task import Inner, Task, recorded
from windtunnel.parts.learned.outer import STATISTICS, statistics_of
from windtunnel.recipe import is_rate
from windtunnel.scaling.table import check_suits
from windtunnel.train.pack import (
    groups_of,
    initial_params,
    numbers_of,
    stacked_hyperparameters,
    table_of,
)
from windtunnel.train.steps import first_states, gradient, update


@dataclass(frozen=True, kw_only=True)
class Local:
    """`workers` take `steps` local steps of the task's own optimizer between outer ones; its state is not carried.

    `residual` adds the learned step to the workers' mean; `statistics` shows the rule what the workers say besides
    their mean.
    """

    workers: int = 4
    steps: int = 4
    residual: bool = True
    statistics: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1 or self.steps < 1:
            raise InputError(f"Local(workers={self.workers}, steps={self.steps}): give 1 or more of both.")


class LocalInner(Inner):
    """A task whose gradient is what a round of local training has to say; its batches are a round's."""

    def __init__(self, task: Task, device: torch.device, local: Local, validation: float = 0.0) -> None:
        super().__init__(task, device, validation)
        self.local, self.statistics = local, [dict[str, Tensor]() for _ in self.groups]
        self.examples = task.batch * local.workers * local.steps
        inner = table_of(task.recipe, task.rung, task.base)  # rates of the local optimizer's own geometry
        rates = {name: scale.lr for name, scale in inner.scales.items()}
        self._local_rates = [rates[group.names[0]] for group in self.groups]
        self._update = update(self.groups, task.recipe.optimizer, True)

    def gradient(self, params: list[Tensor], inputs: Tensor, targets: Tensor, compile: bool) -> Any:
        """(minus the workers' mean way, mean local loss) of the particles; `statistics` are left beside them."""
        grads, losses, *told = super().gradient(params, inputs, targets, compile)
        self.statistics = told[0] if told else self.statistics
        return grads, losses

    def _record(self, params: list[Tensor], inputs: Tensor, targets: Tensor, compile: bool) -> Any:
        """A whole round as one graph, for its many small steps are mostly the calling of them."""
        packed = gradient(self._model, self.groups, self.task.recipe.objective, packed=True)
        hps = self._numbers(len(params[0]) * self.local.workers)

        def whole(params: list[Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return self._round(packed, hps, params, inputs, targets)

        return recorded(whole, (params, inputs, targets), compile)

    def _round(self, packed: Any, hps: list[Any], params: list[Tensor], inputs: Tensor, targets: Tensor) -> Any:
        workers, particles = self.local.workers, len(params[0])
        x, y = (t.unflatten(1, (workers, self.local.steps, -1)).flatten(0, 1) for t in (inputs, targets))
        held = [p.repeat_interleave(workers, 0) for p in params]
        states = first_states(self.groups, self.task.recipe.optimizer, held, True)
        losses = []
        for step in range(self.local.steps):
            grads, loss, _ = packed(held, x[:, step], y[:, step])
            losses.append(loss)
            held, states = self._update(held, grads, states, hps)
        ways = [p[:, None] - h.unflatten(0, (particles, workers)) for p, h in zip(params, held, strict=True)]
        mean = torch.stack(losses).mean(0).unflatten(0, (particles, workers)).mean(1)
        found = [statistics_of(way.transpose(0, 1)) for way in ways] if self.local.statistics else []
        return ([way.mean(1) for way in ways], mean, *([found] if found else []))

    def _numbers(self, rows: int) -> list[Any]:
        optimizer = self.task.recipe.optimizer
        plain = stacked_hyperparameters(self.groups, [optimizer] * rows, self.device)
        own = numbers_of(optimizer)
        return [
            {n: torch.full_like(v, own[n] * rate) if is_rate(n) else v for n, v in hp.items()}
            for hp, rate in zip(plain, self._local_rates, strict=True)
        ]


@torch.no_grad()
def simulated(
    task: Task, local: Local, outer: Any, *, rounds: int, seeds: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """(rounds, seeds) mean local losses of so many rounds under an outer rule, all seeds and workers in one pack.

    `outer` is a part with its numbers filled in: SlowMo, LearnedOuter, any other; one that `displaces` has its rate as
    it is for all tensors, others as the table scales it. `local.residual` is the rule's own.
    """
    inner = LocalInner(task, torch.device(device), local)
    check_suits(outer, task.recipe.parametrization)
    table = table_of(task.recipe.but(optimizer=outer), task.rung, task.base)
    groups = groups_of(table)
    params = initial_params(groups, seeds, inner.device)
    states, move = first_states(groups, outer, params, True), update(groups, outer, True)
    if getattr(outer, "displaces", False):
        groups = [replace(group, scale=replace(group.scale, lr=1.0)) for group in groups]
    hps = stacked_hyperparameters(groups, [outer] * len(seeds), inner.device)
    losses = []
    for number in range(rounds):
        inputs, targets = inner.batches(seeds, number, 1)
        grads, loss = inner.gradient(params, inputs[0], targets[0], False)
        losses.append(loss)
        told = [{n: t.flatten(0, 1) for n, t in found.items()} for found in inner.statistics]
        scheduled = [hp | own for hp, own in zip(hps, told, strict=True)]
        params, states = move(params, list(grads), states, scheduled)
    return torch.stack(losses)


def bytes_per_round(params: int, outer: Any) -> int:
    """What a worker sends in a round, in float32: its way, and its share of each statistic the rule looks at."""
    return 4 * params * (1 + len(STATISTICS) * bool(getattr(outer, "statistics", False)))
