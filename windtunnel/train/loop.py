"""Train one pack from its first step to its records.

The state is what a checkpoint holds: stacked parameters, optimizer states, curves and who is still alive. Everything
else (data, schedules, initial values) is a pure function of the specs and the step, so a resumed pack continues with
the same bits on a CPU. A member whose loss stops being finite is retired with its Outcome, one that has reached its
horizon leaves; a row that nobody needs is cut out, and the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from windtunnel.errors import Paused, Stopped
from windtunnel.places import Place
from windtunnel.runs import Cost, Run
from windtunnel.train.compiled import PAYS_FROM_FLOPS, compiled
from windtunnel.train.data import judge_batches, judge_steps, pack_batch
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
from windtunnel.train.record import device_name, recorded, tokens_done
from windtunnel.train.rows import first_rows, multiplier, parted, steps_of
from windtunnel.train.saving import Saving
from windtunnel.train.state import State
from windtunnel.train.steps import Tree, first_states, gradient, judgement, update


@dataclass(frozen=True)
class Progress:
    """How far a pack is: `losses` are the latest training losses by member key, `said` sentences for who watches.

    `flops` and `seconds` are what was spent on it so far, by earlier calls too.
    """

    pack: str
    step: int
    steps: int
    losses: dict[str, float]
    seconds: float
    said: Sequence[str] = ()
    flops: float = 0.0


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
    compile: bool | None = None,
    stop: Callable[[], bool] | None = None,
    there: Sequence[int] = (),
) -> list[Run]:
    """Train all members but those whose records are `there` and return their Runs, in the order of the specs.

    `folder` holds checkpoints (None: none are written), every `checkpoint_seconds` (None: as often as their measured
    cost allows); the caller removes it once the runs are recorded. `created` is when they are said to begin. `packed`
    False trains a single member without vmap, and `alone_because` says why in the record. `compile` None compiles the
    step of a pack that is long enough for it to pay. `stop` is asked after every step; when it says True the state is
    checkpointed and Stopped raised, and where `report` raises Paused, likewise.
    """
    engine = Engine(pack, device, packed, compile)
    saving = Saving(folder, [spec.key for spec in pack.specs], checkpoint_seconds)
    state = saving.restored(len(engine.groups), device) or engine.start(created)
    state.leave(there, engine.groups)  # how the others are trained stays as it was
    clock = time.monotonic()
    while state.alive:
        engine.advance(state)
        now = time.monotonic()
        state.seconds, clock = state.seconds + now - clock, now
        if report is not None:
            try:
                report(replace(engine.progress(state), said=saving.said()))
            except Paused:
                saving.now(state)
                raise
        saving.offer(state)
        if stop is not None and stop() and state.alive:
            saving.now(state)
            raise Stopped
    unsaid = saving.said()
    if unsaid and report is not None:
        report(replace(engine.progress(state), said=unsaid))
    left = [member for member in range(len(pack.specs)) if member not in there]
    return [_record(engine, state, member, alone_because) for member in left]


class Engine:
    """Everything about a pack that does not change while it trains."""

    def __init__(self, pack: Pack, device: torch.device, packed: bool, compile: bool | None = None) -> None:
        self.pack, self.device, self.packed, self.compile = pack, device, packed, compile
        self.recipes = [pack.recipe_of(i) for i in range(len(pack.specs))]
        self.data, self.rung = pack.recipe.data, pack.rung
        self.tokens_per_step = pack.tokens_per_step()
        self.steps_of = steps_of(pack, self.tokens_per_step)
        self.steps = max(self.steps_of)
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
        self.eager_because = ""
        self._faster: dict[int, Any] = {}  # number of rows -> compiled step
        self.held_out = judge_batches(pack.judge, device)
        self.judge_at = [judge_steps(pack.judge, steps) for steps in self.steps_of]

    def start(self, created: str | None = None) -> State:
        """Initial values; members that are the same run so far share a row."""
        rows = first_rows(self.pack.alike())
        params = initial_params(self.groups, [self.pack.specs[row[0]].seed for row in rows], self.device)
        states = first_states(self.groups, self.pack.recipe.optimizer, params, self.packed)
        created, spent = created or datetime.now(UTC).isoformat(), np.zeros(len(self.pack.specs))
        state = State(rows, params, states, spent, self.steps_of, created=created)
        self._choose(state)
        return state

    def advance(self, state: State) -> None:
        """One step of every living member, and a judgement of those for whom one is due."""
        factors = {m: multiplier(self.pack, m, state.step, self.tokens_per_step) for m in state.alive}
        if any(len(row) > 1 for row in state.rows) and state.regroup(*parted(state.rows, factors), self.groups):
            self._choose(state)
        seeds = [self.pack.specs[row[0]].seed for row in state.rows]
        inputs, targets = pack_batch(self.data, seeds, state.step, self.rung.batch or 1, self.device)
        if not self.packed:
            torch.manual_seed(hash((seeds[0], state.step)))  # a part that draws noise stays a function of seed and step
        faster = self._compiled(state, inputs, targets) if state.compiled else None
        if faster is None or not self._at_once(faster, state, factors, inputs, targets):
            self._as_written(state, factors, inputs, targets)
        if any(state.step in self.judge_at[m] for m in state.alive):
            self._judge(state)
        if any(self.steps_of[m] == state.step for m in state.alive):
            self._leave(state, [m for m in state.alive if self.steps_of[m] == state.step])

    def progress(self, state: State) -> Progress:
        """The latest losses of the members that still train."""
        latest = {self.pack.specs[i].key: float(state.train_loss[-1][i]) for i in state.alive}
        flops = self.size.training_flops(float(state.spent.sum()) * self.tokens_per_step)
        return Progress(self.pack.key, state.step, self.steps, latest, state.seconds, flops=flops)

    def _at_once(
        self, faster: Any, state: State, factors: Mapping[int, float], inputs: Tensor, targets: Tensor
    ) -> bool:
        """A compiled step; False, and nothing has changed, where an update could not bear a loss that is not finite."""
        try:
            done = faster(state.params, state.states, self._scheduled(state, factors), inputs, targets)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]  (documented, not exported)
            return False
        state.params, state.states, losses = done
        state.compiled_steps += 1
        self._count(state, losses)
        return True

    def _as_written(self, state: State, factors: Mapping[int, float], inputs: Tensor, targets: Tensor) -> None:
        """Gradient, then update of the rows whose loss is finite: an update need not bear what is not."""
        grads, losses = self.gradient(state.params, inputs, targets)
        finite = torch.isfinite(losses).nonzero().flatten()
        self._count(state, losses)
        if len(finite) < len(losses):
            grads = [g.index_select(0, finite) for g in grads]
        if state.alive:
            hps = self._scheduled(state, factors)
            state.params, state.states = self.update(state.params, grads, state.states, hps)

    def _count(self, state: State, losses: Tensor) -> None:
        found, row = losses.detach().double().cpu().numpy(), np.full(len(self.pack.specs), np.nan)
        for members, loss in zip(state.rows, found, strict=True):
            row[list(members)] = loss
            state.spent[list(members)] += 1 / len(members)
        state.train_loss.append(row)
        state.step += 1
        bad = [m for m in state.alive if not math.isfinite(row[m])]
        self._retire(state, bad, f"the training loss was not finite at step {state.step}")

    def _retire(self, state: State, bad: Sequence[int], why: str) -> None:
        if bad:
            state.retired |= dict.fromkeys(bad, why)
            self._leave(state, bad)

    def _leave(self, state: State, gone: Sequence[int]) -> None:
        if state.leave(gone, self.groups):
            self._choose(state)

    def _choose(self, state: State) -> None:
        """Whether the rows as they are now are trained by a compiled step: decided when they change, and kept."""
        left = min((self.steps_of[m] for m in state.alive), default=state.step) - state.step
        flops = self.size.training_flops(left * self.tokens_per_step) * len(state.rows)
        state.compiled = self.packed and (flops >= PAYS_FROM_FLOPS if self.compile is None else self.compile)

    def _compiled(self, state: State, inputs: Tensor, targets: Tensor) -> Any:
        """The compiled step for this number of rows, None where there is none."""
        count = len(state.rows)
        if count not in self._faster:
            hps = self._scheduled(state, dict.fromkeys(state.alive, 1.0))
            arguments = (state.params, state.states, hps, inputs, targets)
            self._faster[count], because = compiled(self._whole_step, arguments)
            self.eager_because = self.eager_because or because
        return self._faster[count]

    def _whole_step(
        self, params: list[Tensor], states: list[Tree], hps: list[Tree], inputs: Tensor, targets: Tensor
    ) -> tuple[list[Tensor], list[Tree], Tensor]:
        grads, losses = self.gradient(params, inputs, targets)
        params, states = self.update(params, grads, states, hps)
        return params, states, losses

    def _scheduled(self, state: State, factor_of: Mapping[int, float]) -> list[dict[str, Tensor]]:
        rows = tuple(row[0] for row in state.rows)
        if getattr(self, "_hp_rows", None) != rows:
            self._hp_rows = rows
            self._hp = stacked_hyperparameters(self.groups, [self.recipes[i].optimizer for i in rows], self.device)
        factors = [factor_of[member] for member in rows]
        if len(set(factors)) == 1:
            return [hp | {n: hp[n] * factors[0] for n in hp if is_rate(n)} for hp in self._hp]
        factor = torch.tensor(factors, dtype=torch.float64, device=self.device)
        return [
            hp | {n: hp[n] * factor.repeat_interleave(len(group.names)) for n in hp if is_rate(n)}
            for hp, group in zip(self._hp, self.groups, strict=True)
        ]

    def _judge(self, state: State) -> None:
        """Judge the rows that have a member for whom it is due; the others' numbers stay NaN."""
        due = [i for i, row in enumerate(state.rows) if any(state.step in self.judge_at[m] for m in row)]
        index = torch.tensor(due, dtype=torch.long, device=self.device)
        params = [p.index_select(0, index) for p in state.params] if len(due) < len(state.rows) else state.params
        self.model.eval()
        with torch.no_grad():
            sums = [self.judgement(params, x, y) for x, y in self.held_out]
        self.model.train()
        count = sum(y.numel() for _, y in self.held_out)
        both = [torch.stack(values).double().sum(0).cpu().numpy() / count for values in zip(*sums, strict=True)]
        loss, accuracy = (np.full(len(self.pack.specs), np.nan) for _ in both)
        for place, i in enumerate(due):
            members = [m for m in state.rows[i] if state.step in self.judge_at[m]]
            loss[members], accuracy[members] = both[0][place], both[1][place]
        state.judged.append((state.step, loss, accuracy))
        bad = [m for i in due for m in state.rows[i] if state.step in self.judge_at[m] and not math.isfinite(loss[m])]
        self._retire(state, bad, f"the judged loss was not finite at step {state.step}")


def _record(engine: Engine, state: State, member: int, alone_because: str | None) -> Run:
    pack, spent = engine.pack, state.spent[member]
    train_loss = np.array([row[member] for row in state.train_loss[: engine.steps_of[member]]])
    tokens = tokens_done(pack, member, train_loss)
    cost = Cost(
        flops=engine.size.training_flops(tokens),
        seconds=float(state.seconds * spent / state.spent.sum()),
        device=device_name(engine.device),
        threads=torch.get_num_threads(),
        members=len(pack.specs),
        alone_because=alone_because,
        spent_flops=engine.size.training_flops(min(spent * engine.tokens_per_step, tokens)),
        compiled_steps=state.compiled_steps,
        eager_because=engine.eager_because or None,
    )
    judged = [(step, loss[member], accuracy[member]) for step, loss, accuracy in state.judged]
    why = state.retired.get(member)
    return recorded(pack, member, train_loss=train_loss, judged=judged, why=why, cost=cost, created=state.created)
