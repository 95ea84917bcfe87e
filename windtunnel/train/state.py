"""What changes from step to step while a pack trains: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from windtunnel.train.pack import Group
from windtunnel.train.rows import Row, without


@dataclass
class State:
    """Stacked parameters and optimizer states, whose rows they are, and curves.

    `horizons` and `spent` count a member's steps, to be done and done, a step that k members shared as 1/k. `compiled`
    and `precision` say how the rows are trained from here on, so that a resumed pack goes on with the same arithmetic.
    `start` and `memory` are there for objectives that need them, a row each, as is `probed`, what probes said of a
    member.
    """

    rows: list[Row]
    params: list[Tensor]
    states: list[dict[str, Tensor]]
    spent: np.ndarray
    horizons: list[int]
    step: int = 0
    seconds: float = 0.0
    created: str = ""
    compiled: bool = False
    compiled_steps: int = 0
    precision: str = "float32"
    train_loss: list[np.ndarray] = field(default_factory=list)  # one row a step, one column a member; NaN when gone
    judged: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)  # step, loss and accuracy by member
    retired: dict[int, str] = field(default_factory=dict)  # member -> why
    start: list[Tensor] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    probed: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def alive(self) -> list[int]:
        """Members that still train, in the order of their rows."""
        return [member for row in self.rows for member in row]

    def regroup(self, rows: list[Row], source: Sequence[int], groups: Sequence[Group]) -> bool:
        """Let row i be a copy of what row `source[i]` was; False if that changes nothing."""
        same = list(source) == list(range(len(self.rows)))
        self.rows = rows
        if same:
            return False
        index = torch.tensor(source, dtype=torch.long, device=self.params[0].device)
        self.params = [p.index_select(0, index) for p in self.params]
        self.start = [p.index_select(0, index) for p in self.start]
        self.memory = {name: t.index_select(0, index) for name, t in self.memory.items()}
        self.states = [
            {name: _picked(t, index, len(group.names)) for name, t in tree.items()}
            for tree, group in zip(self.states, groups, strict=True)
        ]
        return True

    def leave(self, gone: Sequence[int], groups: Sequence[Group]) -> bool:
        """Let members go, with every row that only they had; False if no row went."""
        return self.regroup(*without(self.rows, set(gone)), groups)


def to_checkpoint(state: State, members: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a state; `members` are the keys of all runs of the pack."""
    tensors = {f"param.{i}": p for i, p in enumerate(state.params)}
    tensors |= {f"state.{i}.{name}": t for i, tree in enumerate(state.states) for name, t in tree.items()}
    tensors |= {f"start.{i}": p for i, p in enumerate(state.start)}
    tensors |= {f"memory.{name}": t for name, t in state.memory.items()}
    if state.train_loss:
        tensors["train_loss"] = torch.from_numpy(np.stack(state.train_loss))
    for i, (_, loss, accuracy) in enumerate(state.judged):
        tensors[f"judged.{i}"] = torch.from_numpy(np.stack([loss, accuracy]))
    facts = {
        "members": list(members),
        "rows": [list(row) for row in state.rows],
        "spent": state.spent.tolist(),
        "horizons": state.horizons,
        "compiled": state.compiled,
        "compiled_steps": state.compiled_steps,
        "precision": state.precision,
        "retired": {str(member): why for member, why in state.retired.items()},
        "judged_steps": [step for step, _, _ in state.judged],
        "seconds": state.seconds,
        "created": state.created,
        "probed": {str(member): found for member, found in state.probed.items()},
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
        rows=[tuple(row) for row in facts["rows"]],
        params=[tensors[f"param.{i}"].to(device) for i in range(groups)],
        states=states,
        spent=np.array(facts["spent"]),
        horizons=facts["horizons"],
        step=facts["step"],
        seconds=facts["seconds"],
        created=facts["created"],
        compiled=facts["compiled"],
        compiled_steps=facts["compiled_steps"],
        precision=facts.get("precision", "float32"),
        train_loss=list(tensors["train_loss"].numpy()) if "train_loss" in tensors else [],
        judged=[(step, both[0], both[1]) for step, both in zip(facts["judged_steps"], judged, strict=True)],
        retired={int(member): why for member, why in facts["retired"].items()},
        start=[tensors[f"start.{i}"].to(device) for i in range(groups) if f"start.{i}" in tensors],
        memory={n.split(".", 1)[1]: t.to(device) for n, t in tensors.items() if n.startswith("memory.")},
        probed={int(member): found for member, found in facts.get("probed", {}).items()},
    )


def _picked(tensor: Tensor, rows: Tensor, repeated: int) -> Tensor:
    """Rows of a (rows * tensors of a group, ...) tensor."""
    return tensor.unflatten(0, (-1, repeated)).index_select(0, rows).flatten(0, 1)
