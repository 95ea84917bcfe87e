"""Runs in several stretches: each a pack of its own, whose first weights come from the last ones of earlier stretches.

Stretches are trained in rounds (`rounds.py`); those of a round that differ in numbers alone are one pack. What has
ended is kept in the pack's folder, so a resumed run begins at the round it was stopped in. A newcomer would hand on the
optimizer's state with `start` too: a stretch may have another shape; what goes on with everything is a fork.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.places import Place
from windtunnel.recipe import Judge, Weights
from windtunnel.runs import Run
from windtunnel.train import checkpoint
from windtunnel.train.engine import Engine
from windtunnel.train.loop import Progress, Report, cost_of, to_end
from windtunnel.train.pack import Pack
from windtunnel.train.pieces import Piece, read, write
from windtunnel.train.rounds import Item, Trail, asked, end, groups, record, searches
from windtunnel.train.saving import Saving
from windtunnel.train.state import State
from windtunnel.train.stretches import by_horizon, pack_of, stretches_of


@dataclass(frozen=True, kw_only=True)
class How:
    """Where and how stretches are trained; the arguments of `loop.train`."""

    device: torch.device
    folder: Path | Place | None = None
    report: Report = None
    checkpoint_seconds: float | None = None
    created: str | None = None
    packed: bool = True
    alone_because: str | None = None
    compile: bool | None = None
    stop: Callable[[], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Stretches that are one pack: whose they are, that pack, and where they stand in the whole training."""

    items: Sequence[Item]
    pack: Pack
    number: int  # of the round
    first_step: int  # of its data
    name: str  # of its folder
    keys: Sequence[str]


def train_phases(pack: Pack, how: How) -> list[Run]:
    """Train all members through their stretches; their Runs, in the order of the specs.

    Members of one horizon go together, for the stretches of another horizon are other ones.
    """
    found: dict[int, Run] = {}
    for members in by_horizon(pack):
        found |= dict(zip(members, _train(pack.part(members), how), strict=True))
    return [found[member] for member in range(len(pack.specs))]


def _train(pack: Pack, how: How) -> list[Run]:
    planned = stretches_of(pack)
    trails, number, done = [Trail() for _ in pack.specs], 0, 0
    forks = searches(pack) or any(stretch.fork for stretch, _ in planned)
    while items := asked(pack, [stretch for stretch, _ in planned], trails, number):
        # any stretch of a search may be the one that is chosen, so each is judged, once, at its end
        judge = replace(pack.judge, evaluations=1) if searches(pack) else planned[number][1].judge
        for index, (first, group) in enumerate(groups(pack, items, trails, how.packed)):
            part = _part(pack, group, number, index, first, judge)
            whole = done + _left(part, sum(_steps(sub) for _, sub in planned), trails)
            told = replace(how, report=_further(how.report, pack.key, done, whole, trails))
            pieces = _trained(part, told, trails, forks)
            end(group, pieces, part.pack, part.first_step, trails)
            done += _steps(part.pack)
        number += 1
    return [record(pack, member, trail) for member, trail in enumerate(trails)]


def _part(pack: Pack, items: Sequence[Item], number: int, index: int, first: int, judge: Judge) -> Part:
    sub = pack_of(pack, items, judge)
    name, keys = f"stretch-{sub.rung.tokens}-{number}", [pack.specs[member].key for member, _ in items]
    if searches(pack):
        name = f"{name}-{index}"
        keys = [f"{key} {stretch.name}" for key, (_, stretch) in zip(keys, items, strict=True)]
    return Part(items=items, pack=sub, number=number, first_step=first, name=name, keys=keys)


def _left(part: Part, planned: int, trails: Sequence[Trail]) -> int:
    """Steps still to be taken, this part's included, if later rounds have as many stretches as this one."""
    member, members = part.items[0][0], {member for member, _ in part.items}
    taken = sum(len(ended.piece.train_loss) for ended in trails[member].ended)
    return max(_steps(part.pack), round((planned - taken) * len(members) / len(part.items)))


def _trained(part: Part, how: How, trails: Sequence[Trail], forked: bool) -> list[Piece]:
    """Train one pack of stretches, or take what it left if it has ended before."""
    place = None if how.folder is None else checkpoint.place_of(how.folder)
    over = None if place is None else place.below(f"{part.name}-over")
    if over is not None and (kept := read(over, part.keys, how.device)) is not None:
        return kept
    engine = Engine(part.pack, how.device, how.packed, how.compile)
    engine.stretch, engine.first_step, engine.keeps, engine.forked = part.number, part.first_step, True, forked
    saving = Saving(None if place is None else place.below(part.name), part.keys, how.checkpoint_seconds)
    state = saving.restored(len(engine.groups), how.device)
    if state is None:
        ends = [ended.piece.end for m, s in part.items if s.fork and (ended := trails[m].of(s.fork))]
        state = engine.start(how.created, _first_weights(part, engine, trails), ends)
    to_end(engine, state, saving, how.report, how.stop)
    found = [_piece(engine, state, member, how.alone_because) for member in range(len(part.items))]
    if over is not None:
        write(over, state.step, part.keys, found)
    return found


def _piece(engine: Engine, state: State, member: int, alone_because: str | None) -> Piece:
    row = [losses[member] for losses in state.train_loss[: engine.steps_of[member]]]
    return Piece(
        train_loss=np.array(row),
        judged=[(step, float(loss[member]), float(accuracy[member])) for step, loss, accuracy in state.judged],
        why=state.retired.get(member),
        cost=asdict(cost_of(engine, state, member, alone_because)),
        metrics=state.probed.get(member, {}),
        created=state.created,
        weights=_as_used(engine, engine.last.get(member, {})),
        end=engine.ends.get(member, {}),
    )


def _first_weights(part: Part, engine: Engine, trails: Sequence[Trail]) -> list[Weights]:
    if part.items[0][1].start is None:
        return []
    shapes = {name: group.site.shape for group in engine.groups for name in group.names}
    found = [dict(stretch.start(trails[member].weights())) for member, stretch in part.items if stretch.start]
    for (_, stretch), given in zip(part.items, found, strict=True):
        _check_weights(stretch.name, given, shapes)
    return [{name: tensor / _forward(engine, name) for name, tensor in weights.items()} for weights in found]


def _check_weights(stretch: str, given: Weights, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, tensor in given.items():
        if name not in shapes:
            raise InputError(
                f"The stretch {stretch!r} starts with a tensor {name!r}, which its network does not have; it has "
                f"{', '.join(sorted(shapes)[:4])} and so on."
            )
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise InputError(
                f"The stretch {stretch!r} starts with a {name} of shape {tuple(tensor.shape)}; its network's has "
                f"{tuple(shapes[name])}."
            )


def _as_used(engine: Engine, weights: Weights) -> dict[str, Tensor]:
    """Weights with the parametrization's multipliers in them: what stretches of other sizes can share."""
    return {name: tensor * _forward(engine, name) for name, tensor in weights.items()}


def _forward(engine: Engine, name: str) -> float:
    scale = engine.table.scales[name]
    return scale.forward * scale.residual


def _steps(sub: Pack) -> int:
    return -(-sub.rung.tokens // sub.tokens_per_step())


def _further(report: Report, key: str, before: int, steps: int, trails: Sequence[Trail]) -> Report:
    """A stretch's progress as that of the whole pack, what its earlier stretches cost included."""
    if report is None:
        return None
    tell, costs = report, [ended.piece.cost for trail in trails for ended in trail.ended]
    flops, seconds = (sum(cost[name] or 0.0 for cost in costs) for name in ("spent_flops", "seconds"))

    def further(progress: Progress) -> None:
        step, spent, took = before + progress.step, flops + progress.flops, seconds + progress.seconds
        tell(replace(progress, pack=key, step=step, steps=steps, flops=spent, seconds=took))

    return further
