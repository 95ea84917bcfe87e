"""Runs in several stretches: each a pack of its own, whose first weights come from the last ones of earlier stretches.

A stretch that has ended leaves its members' weights and curves in the pack's folder, so a resumed run begins at the
stretch it was stopped in. A newcomer would hand on the optimizer's state too: a stretch may have another shape, and
what needs one network and one state throughout is a schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.places import Place
from windtunnel.recipe import Stretch, Weights
from windtunnel.runs import Cost, Run
from windtunnel.train import checkpoint
from windtunnel.train.engine import Engine
from windtunnel.train.loop import Progress, Report, cost_of, to_end
from windtunnel.train.pack import Pack
from windtunnel.train.record import recorded
from windtunnel.train.saving import Saving
from windtunnel.train.stretches import by_horizon, stretches_of


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
class Piece:
    """What one member did in one stretch; `weights` are its last ones, empty if it diverged."""

    train_loss: np.ndarray
    judged: list[tuple[int, float, float]]
    why: str | None
    cost: dict[str, Any]
    metrics: dict[str, float]
    created: str
    weights: Weights


def train_phases(pack: Pack, how: How) -> list[Run]:
    """Train all members through their stretches; their Runs, in the order of the specs.

    Members of one horizon go together, for the stretches of another horizon are other ones.
    """
    found: dict[int, Run] = {}
    for members in by_horizon(pack):
        found |= dict(zip(members, _train(pack.part(members), how), strict=True))
    return [found[member] for member in range(len(pack.specs))]


def _train(pack: Pack, how: How) -> list[Run]:
    stretches = stretches_of(pack)
    before = [_steps(sub) for _, sub in stretches]
    pieces: list[list[Piece]] = [[] for _ in pack.specs]
    ended: list[dict[str, Weights]] = [{} for _ in pack.specs]
    seen: dict[str, int] = {}  # data -> examples that earlier stretches took of it
    for index, (stretch, whole) in enumerate(stretches):
        alive = [m for m in range(len(pack.specs)) if not (pieces[m] and pieces[m][-1].why)]
        sub, data, size = whole.part(alive), whole.recipe.data.fingerprint(), whole.rung.batch or 1
        if alive:
            told = replace(how, report=_further(how.report, pack.key, sum(before[:index]), sum(before), pieces))
            keys = [pack.specs[m].key for m in alive]
            first = -(-seen.get(data, 0) // size)
            done = _stretch(stretch, sub, told, index, first, keys, [ended[m] for m in alive])
            for member, piece in zip(alive, done, strict=True):
                pieces[member].append(piece)
                ended[member][stretch.name] = piece.weights
        seen[data] = seen.get(data, 0) + before[index] * size
    tokens = [sub.tokens_per_step() for _, sub in stretches]
    return [_joined(pack, member, pieces[member], tokens) for member in range(len(pack.specs))]


def _stretch(
    stretch: Stretch, sub: Pack, how: How, index: int, first_step: int, keys: Sequence[str],
    ended: Sequence[Mapping[str, Weights]],
) -> list[Piece]:  # fmt: skip
    """Train one stretch, or take what it left if it has ended before."""
    place = None if how.folder is None else checkpoint.place_of(how.folder)
    name = f"stretch-{sub.rung.tokens}-{index}"
    over = None if place is None else place.below(f"{name}-over")
    if over is not None and (kept := checkpoint.newest(over)) is not None and kept[0]["members"] == list(keys):
        return _read(*kept, how.device)
    engine = Engine(sub, how.device, how.packed, how.compile)
    engine.stretch, engine.first_step, engine.keeps = index, first_step, True
    saving = Saving(None if place is None else place.below(name), keys, how.checkpoint_seconds)
    state = saving.restored(len(engine.groups), how.device)
    if state is None:
        state = engine.start(how.created, _first_weights(stretch, engine, ended))
    to_end(engine, state, saving, how.report, how.stop)
    found = []
    for member in range(len(sub.specs)):
        row = [losses[member] for losses in state.train_loss[: engine.steps_of[member]]]
        judged = [(step, float(loss[member]), float(accuracy[member])) for step, loss, accuracy in state.judged]
        found.append(Piece(
            train_loss=np.array(row), judged=judged, why=state.retired.get(member), created=state.created,
            cost=asdict(cost_of(engine, state, member, how.alone_because)), metrics=state.probed.get(member, {}),
            weights=_as_used(engine, engine.last.get(member, {})),
        ))  # fmt: skip
    if over is not None:
        _write(over, state.step, keys, found)
    return found


def _first_weights(stretch: Stretch, engine: Engine, ended: Sequence[Mapping[str, Weights]]) -> list[Weights]:
    if stretch.start is None:
        return []
    shapes = {name: group.site.shape for group in engine.groups for name in group.names}
    found = [dict(stretch.start(weights)) for weights in ended]
    for name, tensor in found[0].items():
        if name not in shapes:
            raise InputError(
                f"The stretch {stretch.name!r} starts with a tensor {name!r}, which its network does not have; it has "
                f"{', '.join(sorted(shapes)[:4])} and so on."
            )
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise InputError(
                f"The stretch {stretch.name!r} starts with a {name} of shape {tuple(tensor.shape)}; its network's has "
                f"{tuple(shapes[name])}."
            )
    return [{name: tensor / _forward(engine, name) for name, tensor in weights.items()} for weights in found]


def _as_used(engine: Engine, weights: Weights) -> Weights:
    """Weights with the parametrization's multipliers in them: what stretches of other sizes can share."""
    return {name: tensor * _forward(engine, name) for name, tensor in weights.items()}


def _forward(engine: Engine, name: str) -> float:
    scale = engine.table.scales[name]
    return scale.forward * scale.residual


def _joined(pack: Pack, member: int, pieces: Sequence[Piece], tokens: Sequence[int]) -> Run:
    """One record of all stretches: losses in order, tokens counted on, costs added up."""
    horizon, begins, steps = pack.specs[member].rung.tokens, 0, 0
    seen, judged, judged_tokens = [], [], []
    for piece, each in zip(pieces, tokens, strict=False):
        seen.append(begins + each * np.arange(1, len(piece.train_loss) + 1))
        due = [j for j in piece.judged if np.isfinite(j[1])]
        judged += [(steps + step, loss, accuracy) for step, loss, accuracy in due]
        judged_tokens += [begins + each * step for step, _, _ in due]
        begins, steps = begins + each * len(piece.train_loss), steps + len(piece.train_loss)
    run = recorded(
        pack, member, train_loss=np.concatenate([piece.train_loss for piece in pieces]), judged=judged,
        why=pieces[-1].why, cost=_together([piece.cost for piece in pieces]), created=pieces[0].created,
        metrics=pieces[-1].metrics,
    )  # fmt: skip
    curve = dict(run.curve) | {"tokens": np.minimum(np.concatenate(seen), horizon)}
    return replace(run, curve=curve | {"judged_tokens": np.minimum(np.array(judged_tokens, dtype=np.int64), horizon)})


def _together(costs: Sequence[Mapping[str, Any]]) -> Cost:
    flops, seconds, spent, compiled = (
        sum(cost[name] or 0 for cost in costs) for name in ("flops", "seconds", "spent_flops", "compiled_steps")
    )
    return replace(Cost(**costs[-1]), flops=flops, seconds=seconds, spent_flops=spent, compiled_steps=compiled)


def _steps(sub: Pack) -> int:
    return -(-sub.rung.tokens // sub.tokens_per_step())


def _further(report: Report, key: str, before: int, steps: int, pieces: Sequence[Sequence[Piece]]) -> Report:
    """A stretch's progress as that of the whole pack, what its earlier stretches cost included."""
    if report is None:
        return None
    tell, costs = report, [piece.cost for member in pieces for piece in member]
    flops, seconds = (sum(cost[name] or 0.0 for cost in costs) for name in ("spent_flops", "seconds"))

    def further(progress: Progress) -> None:
        step, spent, took = before + progress.step, flops + progress.flops, seconds + progress.seconds
        tell(replace(progress, pack=key, step=step, steps=steps, flops=spent, seconds=took))

    return further


def _write(place: Place, step: int, keys: Sequence[str], pieces: Sequence[Piece]) -> None:
    tensors = {f"{m}.weights.{name}": t for m, piece in enumerate(pieces) for name, t in piece.weights.items()}
    tensors |= {f"{m}.train_loss": torch.from_numpy(piece.train_loss) for m, piece in enumerate(pieces)}
    held = ("judged", "why", "cost", "metrics", "created")
    facts = {"members": list(keys), "pieces": [{name: getattr(piece, name) for name in held} for piece in pieces]}
    checkpoint.save(place, step, tensors, facts)


def _read(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> list[Piece]:
    found = []
    for m, said in enumerate(facts["pieces"]):
        start = f"{m}.weights."
        weights = {n.removeprefix(start): t.to(device) for n, t in tensors.items() if n.startswith(start)}
        judged = [(int(step), loss, accuracy) for step, loss, accuracy in said["judged"]]
        losses = tensors[f"{m}.train_loss"].numpy()
        found.append(Piece(**dict(said) | {"judged": judged, "weights": weights, "train_loss": losses}))
    return found
