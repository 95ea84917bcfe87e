"""What changes from step to step while a pack trains: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.train.pack import Group


@dataclass
class State:
    """Stacked parameters, optimizer states, curves and who is still alive."""

    alive: list[int]
    params: list[Tensor]
    states: list[dict[str, Tensor]]
    step: int = 0
    seconds: float = 0.0
    created: str = ""
    train_loss: list[np.ndarray] = field(default_factory=list)  # one row a step, one column a member; NaN when retired
    judged: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)  # step, loss and accuracy by member
    retired: dict[int, str] = field(default_factory=dict)  # member -> why

    def retire(self, bad: Sequence[int], why: str, grads: list[Tensor], groups: Sequence[Group]) -> list[Tensor]:
        """Cut the rows of diverged members out; returns the gradients of those that stay."""
        stays = [row for row, member in enumerate(self.alive) if member not in bad]
        index = torch.tensor(stays, dtype=torch.long, device=self.params[0].device)
        self.states = [
            {name: _cut(t, index, len(group.names)) for name, t in tree.items()}
            for tree, group in zip(self.states, groups, strict=True)
        ]
        self.params = [p.index_select(0, index) for p in self.params]
        self.retired |= {member: why for member in bad}
        self.alive = [member for member in self.alive if member not in bad]
        return [g.index_select(0, index) for g in grads]


def to_checkpoint(state: State, members: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a state; `members` are the keys of all runs of the pack."""
    tensors = {f"param.{i}": p for i, p in enumerate(state.params)}
    tensors |= {f"state.{i}.{name}": t for i, tree in enumerate(state.states) for name, t in tree.items()}
    if state.train_loss:
        tensors["train_loss"] = torch.from_numpy(np.stack(state.train_loss))
    for i, (_, loss, accuracy) in enumerate(state.judged):
        tensors[f"judged.{i}"] = torch.from_numpy(np.stack([loss, accuracy]))
    facts = {
        "members": list(members),
        "alive": state.alive,
        "retired": {str(member): why for member, why in state.retired.items()},
        "judged_steps": [step for step, _, _ in state.judged],
        "seconds": state.seconds,
        "created": state.created,
    }
    return tensors, facts


def from_checkpoint(
    facts: Mapping[str, Any], tensors: Mapping[str, Tensor], groups: int, device: torch.device
) -> State:
    """The state that `to_checkpoint` took apart."""
    states: list[dict[str, Tensor]] = [{} for _ in range(groups)]
    for name, tensor in tensors.items():
        if name.startswith("state."):
            _, index, leaf = name.split(".", 2)
            states[int(index)][leaf] = tensor.to(device)
    judged = [tensors[f"judged.{i}"].numpy() for i in range(len(facts["judged_steps"]))]
    return State(
        alive=facts["alive"],
        params=[tensors[f"param.{i}"].to(device) for i in range(groups)],
        states=states,
        step=facts["step"],
        seconds=facts["seconds"],
        created=facts["created"],
        train_loss=list(tensors["train_loss"].numpy()) if "train_loss" in tensors else [],
        judged=[(step, both[0], both[1]) for step, both in zip(facts["judged_steps"], judged, strict=True)],
        retired={int(member): why for member, why in facts["retired"].items()},
    )


def _cut(tensor: Tensor, rows: Tensor, repeated: int) -> Tensor:
    """Select members of a (m * g, ...) tensor."""
    return tensor.unflatten(0, (-1, repeated)).index_select(0, rows).flatten(0, 1)
