"""Train one run over many devices: the engine's recipe, values, order of data and judge, to the engine's losses.

Every process takes its part of the same global batch; parts may differ in size by one example, and a loss is weighed by
its examples, so that the gradient is the whole batch's whatever the number of processes. What does not fit in memory is
taken in `pieces`, one after the other: the step is the same. A newcomer would average the processes' mean losses, which
is another loss where a batch does not divide.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError, Stopped
from windtunnel.recipe import is_rate
from windtunnel.runs import Run
from windtunnel.train import sharded_checkpoint as checkpoint
from windtunnel.train.data import check_drawn, check_judged, judge_chunk, judge_steps, share
from windtunnel.train.extras import asked_of
from windtunnel.train.judging import check_positive
from windtunnel.train.loop import Progress
from windtunnel.train.pack import (
    Pack,
    as_built,
    build_model,
    check_buffers,
    check_count,
    groups_of,
    stacked_hyperparameters,
    table_of,
)
from windtunnel.train.peak import matmul_rate
from windtunnel.train.precision import computed_in
from windtunnel.train.ranks import Ranks
from windtunnel.train.rows import multiplier, steps_of
from windtunnel.train.sharded_model import draw, sharded
from windtunnel.train.sharded_record import Curves, How, run_of
from windtunnel.train.sharded_update import ShardedUpdate
from windtunnel.train.steps import check_pairs, counted, summed

Batch = tuple[Tensor, Tensor]


def train_sharded(
    pack: Pack,
    ranks: Ranks,
    how: How,
    *,
    folder: Path | None = None,
    report: Callable[[Progress], None] | None = None,
    created: str | None = None,
    stop: Callable[[], bool] | None = None,
) -> Run:
    """Train the one run of a pack over all processes; every process calls this and gets the Run.

    `folder` holds checkpoints (None: none are written); the caller removes it once the run is recorded. `created` is
    when the run is said to begin, as process 0 says. `stop` is asked after every step; when it says True in any
    process, all of them checkpoint and raise Stopped. Raises InputError where a batch cannot be divided,
    torch.OutOfMemoryError where a piece does not fit.
    """
    engine = ShardedEngine(pack, ranks, how)
    curves = engine.resumed(folder, created)
    saver = checkpoint.Saver(folder, ranks, how.checkpoint_seconds) if folder is not None else None
    clock = time.monotonic()
    while curves.step < engine.steps and not curves.diverged:
        wish = saver is not None and ranks.rank == 0 and saver.due()
        save, leave = engine.advance(curves, wish, stop is not None and stop())
        now = time.monotonic()
        curves.seconds, clock = curves.seconds + now - clock, now
        if report is not None and ranks.rank == 0:
            report(engine.progress(curves))
        if (save or leave) and saver is not None and not curves.diverged:
            saver.start(curves.step, engine.update.tensors(), engine.facts(curves))
        if leave and curves.step < engine.steps and not curves.diverged:
            if saver is not None:
                saver.finish()
            raise Stopped
    if saver is not None:
        saver.finish()
    return run_of(engine, curves)


def _check_plain(pack: Pack) -> None:
    asked = asked_of(pack.recipe) + (["the judge's probes"] if pack.judge.probes else [])
    if asked:
        raise InputError(
            f"A run over many devices does not have {', '.join(asked)} yet; train this one on a single device (--on "
            f"here), or leave it out."
        )


class ShardedEngine:
    """Model, optimizer and data of one run on this process, a part of each."""

    def __init__(self, pack: Pack, ranks: Ranks, how: How) -> None:
        if len(pack.specs) != 1:
            raise InputError(f"One run at a time is trained over many devices; this pack holds {len(pack.specs)}.")
        self.pack, self.ranks, self.how, self.spec = pack, ranks, how, pack.specs[0]
        _check_plain(pack)
        self.recipe, self.rung, self.data = pack.recipe_of(0), pack.rung, pack.recipe.data_at(pack.rung)
        self.batch = self.rung.batch or 1
        check_division(self.batch, ranks.world, pack.pieces)
        self.tokens_per_step = pack.tokens_per_step()
        (self.steps,) = steps_of(pack, self.tokens_per_step)
        self.size = pack.size()
        self._build()
        self.judge_at = judge_steps(pack.judge, self.steps)
        self.held_out = list(self._held_out())
        self.peak = sum(ranks.summed(matmul_rate(ranks.device, pack.precision))) / ranks.world

    def _build(self) -> None:
        table = table_of(self.pack.recipe, self.rung, self.spec.base_rung)
        build = partial(build_model, self.pack.recipe, self.rung)
        self.groups = as_built(groups_of(table), build)
        self.model = sharded(build, table, self.ranks, self.how.compiled)
        check_count(self.model, self.size, self.pack.recipe.model)
        check_buffers(self.model)
        draw(self.model, self.groups, self.spec.seed)
        stacked = stacked_hyperparameters(self.groups, [self.recipe.optimizer], self.ranks.device)
        self.hps = [{name: values[0] for name, values in hp.items()} for hp in stacked]
        self.update = ShardedUpdate(self.model, self.groups, self.pack.recipe.optimizer, self.hps)

    def resumed(self, folder: Path | None, created: str | None = None) -> Curves:
        """The newest whole checkpoint, as process 0 finds it, or a start from nothing."""
        found = None
        if folder is not None:
            found = self.ranks.told(checkpoint.newest(folder, self.spec.key) if self.ranks.rank == 0 else None)
        if found is None:
            return Curves(created=self.ranks.told(created or datetime.now(UTC).isoformat()))
        path, facts = found
        tensors = self.update.tensors()
        checkpoint.load(path, tensors, self.ranks)
        self.update.load(tensors)
        judged = [(int(step), loss, accuracy) for step, loss, accuracy in facts["judged"]]
        return Curves(facts["step"], facts["seconds"], facts["created"], list(facts["train_loss"]), judged)

    def facts(self, curves: Curves) -> dict[str, Any]:
        """What a checkpoint holds besides tensors."""
        return {
            "member": self.spec.key,
            "seconds": curves.seconds,
            "created": curves.created,
            "train_loss": list(curves.train_loss),
            "judged": list(curves.judged),
        }

    def advance(self, curves: Curves, *said: bool) -> list[bool]:
        """One step, and a judgement when one is due; of each thing that is said here, whether any process says it."""
        loss, *agreed = self.ranks.summed(self._gradient(curves.step), *map(float, said))
        curves.train_loss.append(loss)
        if math.isfinite(loss):
            self.update.step(self._scheduled(curves.step))
        else:
            check_drawn(self.pack.recipe.data, self.spec.seed, curves.step, self.batch)
            curves.diverged = f"the training loss was not finite at step {curves.step + 1}"
        self.model.zero_grad(set_to_none=True)
        curves.step += 1
        if curves.step in self.judge_at and not curves.diverged:
            self._judge(curves)
        return [count > 0 for count in agreed]

    def progress(self, curves: Curves) -> Progress:
        """How far the run is."""
        losses = {self.spec.key: curves.train_loss[-1]}
        return Progress(self.pack.key, curves.step, self.steps, losses, curves.seconds)

    def _gradient(self, step: int) -> float:
        """Leave this process's rows of the whole batch's gradient in the parameters; its part of the mean loss."""
        torch.manual_seed(hash((self.spec.seed, step, self.ranks.rank)))  # for a part that draws noise
        lost = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for inputs, targets in self._pieces(step):
            with computed_in(self.pack.precision, self.ranks.device):
                outputs = self.model(inputs).float()
                losses = self.pack.recipe.objective(outputs, targets)
                check_pairs(losses, outputs, targets, self.pack.recipe.objective)
                part = losses.sum() * (len(inputs) / (losses.numel() * self.batch))
            (part * self.ranks.world).backward()  # FSDP2 averages over processes, and what is needed is the sum
            lost += part.detach()
        return float(lost)

    def _pieces(self, step: int) -> Iterator[Batch]:
        """This process's examples of a step, in pieces."""
        inputs, targets = self.data.batch(seed=self.spec.seed, step=step, size=self.batch)
        mine = share(self.batch, self.ranks.rank, self.ranks.world)
        inputs, targets = inputs[mine], targets[mine]
        for i in range(self.pack.pieces):
            rows = share(len(inputs), i, self.pack.pieces)
            yield self._there(inputs[rows]), self._there(targets[rows])

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.ranks.device)

    def _scheduled(self, step: int) -> list[dict[str, Tensor]]:
        factor = multiplier(self.pack, 0, step, self.tokens_per_step)
        return [hp | {name: hp[name] * factor for name in hp if is_rate(name)} for hp in self.hps]

    def _held_out(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Held-out examples in chunks that every process has as many of, and how many of each are this one's own."""
        world, judge = self.ranks.world, self.pack.judge
        for inputs, targets in judge.data.held_out(size=judge_chunk(judge) * world, tokens=judge.tokens):
            mine = share(len(inputs), self.ranks.rank, world)
            own = mine.stop - mine.start
            # one that has none still joins the others, who wait for it, with an example that does not count
            rows = mine if own else slice(0, 1)
            yield self._there(inputs[rows]), self._there(targets[rows]), own

    @torch.no_grad()
    def _judge(self, curves: Curves) -> None:
        self.model.eval()
        sums = [self._judged(*batch) for batch in self.held_out]
        self.model.train()
        total, hits, count = self.ranks.summed(*(sum(column) for column in zip(*sums, strict=True)))
        check_positive(np.array([total / count]), self.pack.judge.loss)
        curves.judged.append((curves.step, total / count, hits / count))
        if not math.isfinite(total):
            check_judged(self.pack.recipe.data, self.pack.judge)
            curves.diverged = f"the judged loss was not finite at step {curves.step}"

    def _judged(self, inputs: Tensor, targets: Tensor, own: int) -> tuple[float, float, float]:
        """Summed loss, hits and over how many, of this process's own examples."""
        with computed_in(self.pack.precision, self.ranks.device):
            outputs = self.model(inputs).float()[:own]
        if not own:
            return 0.0, 0.0, 0.0
        total, hits = summed(outputs, targets[:own], self.pack.judge.loss)
        return float(total), float(hits), float(counted(targets[:own], self.pack.judge.loss))


def check_division(batch: int, world: int, pieces: int) -> None:
    """Raise InputError where a process would have no example, or a piece none."""
    if batch < world:
        raise InputError(
            f"A batch of {batch} examples cannot be divided over {world} processes; start at most {batch}, or ask for "
            f"a larger batch."
        )
    if pieces > batch // world:
        raise InputError(
            f"A batch of {batch} examples over {world} processes cannot be taken in {pieces} pieces; each process has "
            f"{batch // world}."
        )
