"""Train one pack from its first step to its records.

The state is what a checkpoint holds: stacked parameters, optimizer states, curves and who is still alive. Everything
else (data, schedules, initial values) is a pure function of the specs and the step, so a resumed pack continues with
the same bits on a CPU. A member whose loss stops being finite is retired with its Outcome, one that has reached its
horizon leaves; a row that nobody needs is cut out, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from windtunnel.errors import Paused, Stopped
from windtunnel.places import Place
from windtunnel.runs import Cost, Run
from windtunnel.train.engine import Engine
from windtunnel.train.pack import Pack
from windtunnel.train.record import device_name, recorded, tokens_done
from windtunnel.train.saving import Saving
from windtunnel.train.state import State


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


Report = Callable[[Progress], None] | None


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
    if pack.recipe.phases is not None:
        from windtunnel.train.phases import How, train_phases

        how = How(
            device=device, folder=folder, report=report, checkpoint_seconds=checkpoint_seconds, created=created,
            packed=packed, alone_because=alone_because, compile=compile, stop=stop,
        )  # fmt: skip
        return [run for member, run in enumerate(train_phases(pack, how)) if member not in there]
    engine = Engine(pack, device, packed, compile)
    saving = Saving(folder, [spec.key for spec in pack.specs], checkpoint_seconds)
    state = saving.restored(len(engine.groups), device) or engine.start(created)
    state.leave(there, engine.groups)  # how the others are trained stays as it was
    to_end(engine, state, saving, report, stop)
    left = [member for member in range(len(pack.specs)) if member not in there]
    return [_record(engine, state, member, alone_because) for member in left]


def to_end(engine: Engine, state: State, saving: Saving, report: Report, stop: Callable[[], bool] | None) -> None:
    """Train until no member is left; raises Stopped when `stop` says True, and what `report` raises as Paused, after a
    checkpoint."""
    engine.precision, clock = state.precision, time.monotonic()
    while state.alive:
        engine.advance(state)
        now = time.monotonic()
        state.seconds, clock = state.seconds + now - clock, now
        if report is not None:
            try:
                report(replace(_progress(engine, state), said=saving.said()))
            except Paused:
                saving.now(state)
                raise
        saving.offer(state)
        if stop is not None and stop() and state.alive:
            saving.now(state)
            raise Stopped
    left = saving.said()
    if left and report is not None:
        report(replace(_progress(engine, state), said=left))


def _progress(engine: Engine, state: State) -> Progress:
    """The latest losses of the members that still train."""
    latest = {engine.pack.specs[i].key: float(state.train_loss[-1][i]) for i in state.alive}
    flops = engine.size.training_flops(float(state.spent.sum()) * engine.tokens_per_step)
    return Progress(engine.pack.key, state.step, engine.steps, latest, state.seconds, flops=flops)


def _record(engine: Engine, state: State, member: int, alone_because: str | None) -> Run:
    return recorded(
        engine.pack,
        member,
        train_loss=_losses(engine, state, member),
        judged=[(step, loss[member], accuracy[member]) for step, loss, accuracy in state.judged],
        why=state.retired.get(member),
        cost=cost_of(engine, state, member, alone_because),
        created=state.created,
        metrics=state.probed.get(member, {}),
    )


def cost_of(engine: Engine, state: State, member: int, alone_because: str | None) -> Cost:
    """What a member took, once its pack is trained."""
    spent = state.spent[member]
    tokens = tokens_done(engine.pack, member, _losses(engine, state, member))
    return Cost(
        flops=engine.size.training_flops(tokens),
        seconds=float(state.seconds * spent / state.spent.sum()),
        device=device_name(engine.device),
        threads=torch.get_num_threads(),
        members=len(engine.pack.specs),
        alone_because=alone_because,
        spent_flops=engine.size.training_flops(min(spent * engine.tokens_per_step, tokens)),
        compiled_steps=state.compiled_steps,
        eager_because=engine.eager_because or None,
        precision=state.precision,
        pieces=engine.pack.pieces,
    )


def _losses(engine: Engine, state: State, member: int) -> np.ndarray:
    return np.array([row[member] for row in state.train_loss[: engine.steps_of[member]]])
