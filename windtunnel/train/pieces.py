"""What a member did in one stretch: kept in the pack's folder once it has ended, and joined to one record at the end.

A record's curve is that of the stretches which its network went through; its cost is that of all of them. A newcomer
would count only the former: what a search tried and left behind was paid too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.places import Place
from windtunnel.recipe import Stretch, Told, Weights
from windtunnel.runs import Cost, Run
from windtunnel.train import checkpoint
from windtunnel.train.pack import Pack
from windtunnel.train.precision import PRECISIONS
from windtunnel.train.record import recorded

HELD = ("judged", "why", "cost", "metrics", "created")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one member did in one stretch: its last `weights`, empty if it diverged, and what forks of it need."""

    train_loss: np.ndarray
    judged: list[tuple[int, float, float]]
    why: str | None
    cost: dict[str, Any]
    metrics: dict[str, float]
    created: str
    weights: Weights
    end: Weights = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A stretch that has ended: what was asked, what came of it, its tokens a step and where in its data it ended."""

    stretch: Stretch
    piece: Piece
    tokens_per_step: int
    data: str  # fingerprint
    next_example: int

    def told(self) -> Told:
        """As a search is told of it."""
        return Told(stretch=self.stretch, losses=self.piece.train_loss, diverged=bool(self.piece.why))


def write(place: Place, step: int, keys: Sequence[str], pieces: Sequence[Piece]) -> None:
    """Keep the pieces of a stretch that has ended, one a key."""
    tensors: dict[str, Tensor] = {}
    for m, piece in enumerate(pieces):
        tensors |= {f"{m}.weights.{name}": t for name, t in piece.weights.items()}
        tensors |= {f"{m}.end.{name}": t for name, t in piece.end.items()}
        tensors[f"{m}.train_loss"] = torch.from_numpy(piece.train_loss)
    facts = {"members": list(keys), "pieces": [{name: getattr(piece, name) for name in HELD} for piece in pieces]}
    checkpoint.save(place, step, tensors, facts)


def read(place: Place, keys: Sequence[str], device: torch.device) -> list[Piece] | None:
    """The pieces that were kept under these keys, None where there are none."""
    kept = checkpoint.newest(place)
    if kept is None or kept[0]["members"] != list(keys):
        return None
    facts, tensors = kept
    found = []
    for m, said in enumerate(facts["pieces"]):
        judged = [(int(step), loss, accuracy) for step, loss, accuracy in said["judged"]]
        held = {"judged": judged, "train_loss": tensors[f"{m}.train_loss"].numpy()}
        held |= {what: _below(tensors, f"{m}.{what}.", device) for what in ("weights", "end")}
        found.append(Piece(**dict(said) | held))
    return found


def _below(tensors: Mapping[str, Tensor], start: str, device: torch.device) -> dict[str, Tensor]:
    return {name.removeprefix(start): t.to(device) for name, t in tensors.items() if name.startswith(start)}


def joined(pack: Pack, member: int, line: Sequence[Ended], everything: Sequence[Ended]) -> Run:
    """One record: losses of the stretches in `line` in order, tokens counted on, the costs of everything added up.

    Where stretches had values of their own, the curve says when each began (`searched_tokens`) and its values.
    """
    horizon, begins, steps = pack.specs[member].rung.tokens, 0, 0
    seen, judged, judged_tokens, starts = [], [], [], []
    for ended in line:
        piece, each = ended.piece, ended.tokens_per_step
        seen.append(begins + each * np.arange(1, len(piece.train_loss) + 1))
        due = [j for j in piece.judged if np.isfinite(j[1])]
        judged += [(steps + step, loss, accuracy) for step, loss, accuracy in due]
        judged_tokens += [begins + each * step for step, _, _ in due]
        starts.append(begins)
        begins, steps = begins + each * len(piece.train_loss), steps + len(piece.train_loss)
    last = line[-1].piece
    run = recorded(
        pack, member, train_loss=np.concatenate([ended.piece.train_loss for ended in line]), judged=judged,
        why=last.why, cost=_together([ended.piece.cost for ended in everything]), created=everything[0].piece.created,
        metrics=last.metrics,
    )  # fmt: skip
    curve = dict(run.curve) | {"tokens": np.minimum(np.concatenate(seen), horizon)}
    curve["judged_tokens"] = np.minimum(np.array(judged_tokens, dtype=np.int64), horizon)
    return replace(run, curve=curve | _searched(line, starts))


def _searched(line: Sequence[Ended], starts: Sequence[int]) -> dict[str, np.ndarray]:
    named = sorted({name for ended in line for name in ended.stretch.values or {}})
    if not named:
        return {}
    values = [ended.stretch.values or {} for ended in line]
    found = {f"searched_{name}": np.array([own.get(name, np.nan) for own in values]) for name in named}
    return {"searched_tokens": np.array(starts, dtype=np.int64)} | found


def _together(costs: Sequence[Mapping[str, Any]]) -> Cost:
    flops, seconds, spent, compiled = (
        sum(cost[name] or 0 for cost in costs) for name in ("flops", "seconds", "spent_flops", "compiled_steps")
    )
    lowest = max((cost["precision"] for cost in costs), key=PRECISIONS.index)  # of any stretch
    return replace(
        Cost(**costs[-1]), flops=flops, seconds=seconds, spent_flops=spent, compiled_steps=compiled, precision=lowest
    )
