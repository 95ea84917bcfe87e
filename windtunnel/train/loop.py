"""Train one pack from its first step to its records.

The state is what a checkpoint holds: stacked parameters, optimizer states, curves and who is still alive. Everything
else (data, schedules, initial values) is a pure function of the specs and the step, so a resumed pack continues with
the same bits on a CPU. A member whose loss stops being finite is retired with its Outcome and its row is cut out; the
others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from windtunnel.places import Place
from windtunnel.runs import Cost, Outcome, Run
from windtunnel.train.data import judge_batches, pack_batch
from windtunnel.train.pack import (
    Group,
    Pack,
    build_model,
    check_buffers,
    check_count,
    groups_of,
    initial_params,
    is_rate,
    stacked_hyperparameters,
    table_of,
)
from windtunnel.train.record import versions, written_sources
from windtunnel.train.saving import Saving
from windtunnel.train.state import State
from windtunnel.train.steps import first_states, gradient, judgement, update

JUDGE_CHUNK_TOKENS = 8192  # held-out tokens judged at once: bounds memory (guess)


@dataclass(frozen=True)
class Progress:
    """How far a pack is: `losses` are the latest training losses by member key, `said` sentences for who watches."""

    pack: str
    step: int
    steps: int
    losses: dict[str, float]
    seconds: float
    said: Sequence[str] = ()


def train(
    pack: Pack,
    *,
    device: torch.device,
    folder: Path | Place | None = None,
    report: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float | None = None,
    created: str | None = None,
    packed: bool = True,
    alone_because: str | None = None,
) -> list[Run]:
    """Train all members and return their Runs, in the order of the specs.

    `folder` holds checkpoints (None: none are written), every `checkpoint_seconds` (None: as often as their measured
    cost allows); the caller removes it once the runs are recorded. `created` is when they are said to begin. `packed`
    False trains a single member without vmap, and `alone_because` says why in the record.
    """
    engine = Engine(pack, device, packed)
    saving = Saving(folder, [spec.key for spec in pack.specs], checkpoint_seconds)
    state = saving.restored(len(engine.groups), device) or engine.start(created)
    clock = time.monotonic()
    while state.step < engine.steps and state.alive:
        engine.advance(state)
        now = time.monotonic()
        state.seconds, clock = state.seconds + now - clock, now
        if report is not None:
            report(replace(engine.progress(state), said=saving.said()))
        saving.offer(state)
    left = saving.said()
    if left and report is not None:
        report(replace(engine.progress(state), said=left))
    return [_record(engine, state, member, alone_because) for member in range(len(pack.specs))]


class Engine:
    """Everything about a pack that does not change while it trains."""

    def __init__(self, pack: Pack, device: torch.device, packed: bool) -> None:
        self.pack, self.device, self.packed = pack, device, packed
        self.recipes = [pack.recipe_of(i) for i in range(len(pack.specs))]
        self.data, self.rung = pack.recipe.data, pack.rung
        assert self.rung.batch is not None, "a planned rung has its batch settled"
        self.tokens_per_step = self.rung.batch * self.data.shape().tokens_per_example
        self.steps = math.ceil(self.rung.tokens / self.tokens_per_step)
        self.table = table_of(pack.recipe, self.rung, pack.specs[0].base_rung)
        self.model: nn.Module = build_model(pack.recipe, self.rung).to(device)
        self.size = pack.size()
        check_count(self.model, self.size, pack.recipe.model)
        check_buffers(self.model)
        self.table.attach(self.model)
        self.groups: list[Group] = groups_of(self.table)
        optimizer = pack.recipe.optimizer  # unfilled: what differs between members reaches it through hp alone
        self.gradient = gradient(self.model, self.groups, pack.recipe.objective, packed)
        self.update = update(self.groups, optimizer, packed)
        self.judgement = judgement(self.model, self.groups, packed)
        chunk = max(1, JUDGE_CHUNK_TOKENS // pack.judge.data.shape().tokens_per_example)
        self.held_out = judge_batches(pack.judge, device, chunk)
        self.judge_at = {
            math.ceil(self.steps * (i + 1) / pack.judge.evaluations) for i in range(pack.judge.evaluations)
        }

    def start(self, created: str | None = None) -> State:
        members = range(len(self.pack.specs))
        params = initial_params(self.groups, [self.pack.specs[i].seed for i in members], self.device)
        states = first_states(self.groups, self.pack.recipe.optimizer, params, self.packed)
        return State(
            alive=list(members), params=params, states=states, created=created or datetime.now(UTC).isoformat()
        )

    def advance(self, state: State) -> None:
        """One step of every living member, and a judgement when one is due."""
        alive = state.alive
        seeds = [self.pack.specs[i].seed for i in alive]
        inputs, targets = pack_batch(self.data, seeds, state.step, self.rung.batch or 1, self.device)
        if not self.packed:
            torch.manual_seed(hash((seeds[0], state.step)))  # a part that draws noise stays a function of seed and step
        grads, losses = self.gradient(state.params, inputs, targets)
        row = np.full(len(self.pack.specs), np.nan)
        row[alive] = losses.detach().double().cpu().numpy()
        state.train_loss.append(row)
        bad = [i for i in alive if not math.isfinite(row[i])]
        if bad:
            why = f"the training loss was not finite at step {state.step + 1}"
            grads = state.retire(bad, why, grads, self.groups)
        if state.alive:
            hps = self._scheduled(state)
            state.params, state.states = self.update(state.params, grads, state.states, hps)
        state.step += 1
        if state.step in self.judge_at and state.alive:
            self._judge(state)

    def progress(self, state: State) -> Progress:
        keys = [spec.key for spec in self.pack.specs]
        latest = {keys[i]: float(state.train_loss[-1][i]) for i in state.alive}
        return Progress(self.pack.key, state.step, self.steps, latest, state.seconds)

    def _scheduled(self, state: State) -> list[dict[str, Tensor]]:
        alive = tuple(state.alive)
        if getattr(self, "_hp_members", None) != alive:
            self._hp_members = alive
            self._hp = stacked_hyperparameters(self.groups, [self.recipes[i].optimizer for i in alive], self.device)
        # the step that is about to be taken ends at (step + 1) x tokens
        tokens = min(self.rung.tokens, (state.step + 1) * self.tokens_per_step)
        factors = [self.recipes[i].schedule(tokens - self.tokens_per_step / 2, self.rung.tokens) for i in alive]
        if len(set(factors)) == 1:
            return [hp | {n: hp[n] * factors[0] for n in hp if is_rate(n)} for hp in self._hp]
        factor = torch.tensor(factors, dtype=torch.float64, device=self.device)
        return [
            hp | {n: hp[n] * factor.repeat_interleave(len(group.names)) for n in hp if is_rate(n)}
            for hp, group in zip(self._hp, self.groups, strict=True)
        ]

    def _judge(self, state: State) -> None:
        members = len(self.pack.specs)
        loss, accuracy = np.full(members, np.nan), np.full(members, np.nan)
        self.model.eval()
        with torch.no_grad():
            sums = [self.judgement(state.params, x, y) for x, y in self.held_out]
        self.model.train()
        count = sum(y.numel() for _, y in self.held_out)
        loss[state.alive] = torch.stack([s for s, _ in sums]).double().sum(0).cpu().numpy() / count
        accuracy[state.alive] = torch.stack([h for _, h in sums]).double().sum(0).cpu().numpy() / count
        state.judged.append((state.step, loss, accuracy))
        bad = [i for i in state.alive if not math.isfinite(loss[i])]
        if bad:
            state.retire(bad, f"the judged loss was not finite at step {state.step}", [], self.groups)


def _record(engine: Engine, state: State, member: int, alone_because: str | None) -> Run:
    pack, spec = engine.pack, engine.pack.specs[member]
    why = state.retired.get(member)
    trained = np.array([row[member] for row in state.train_loss])
    steps = np.arange(1, len(trained) + 1)
    judged = [(step, loss[member], hits[member]) for step, loss, hits in state.judged if math.isfinite(loss[member])]
    tokens_done = min(int(np.isfinite(trained).sum()) * engine.tokens_per_step, engine.rung.tokens)
    return Run(
        key=spec.key,
        spec=spec,
        outcome=Outcome.DIVERGED if why else Outcome.FINISHED,
        message=why or "",
        loss=None if why else float(judged[-1][1]),
        metrics={} if why else {"accuracy": float(judged[-1][2])},
        size=engine.size,
        cost=Cost(
            flops=engine.size.training_flops(tokens_done),
            seconds=state.seconds / len(pack.specs),
            device=_device_name(engine.device),
            threads=torch.get_num_threads(),
            members=len(pack.specs),
            alone_because=alone_because,
        ),
        curve={
            "step": steps,
            "tokens": np.minimum(steps * engine.tokens_per_step, engine.rung.tokens),
            "train_loss": trained,
            "judged_tokens": np.array([min(s * engine.tokens_per_step, engine.rung.tokens) for s, _, _ in judged]),
            "judged_loss": np.array([loss for _, loss, _ in judged]),
        },
        created=state.created,
        versions=versions(),
        labels=dict(pack.labels[member]) if pack.labels else {},
        source=written_sources(engine.recipes[member]),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
