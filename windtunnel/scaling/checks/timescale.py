"""Decay timescale: over how many steps do weights forget? One over (lr x decay), for decay in PyTorch's sense.

Weights under decoupled decay are a moving average of steps over that many of them (2405.13698); its share of the run is
what should stay the same (2505.13738). A newcomer would keep lr or decay alone: a rule that lowers the rate of wide
tensors lengthens their memory with it, unless decay is raised (wt.adopt does) or is independent of lr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch

from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.scaling.checks.setup import Setup
from windtunnel.scaling.checks.words import SHOWN, listed, table, told
from windtunnel.scaling.sizes import Size, built
from windtunnel.scaling.slopes import plain

Groups = torch.optim.Optimizer | Sequence[Mapping[str, Any]]
TOLERANCE = 0.01  # relative: rounding of values that a person wrote, no more
SOURCE = "EMA timescale: 2405.13698; as a share of the run: 2505.13738"
LIMITS = (
    "It is the timescale at the groups' present lr: a schedule lengthens it as it decays. That it is equal at all "
    "sizes does not say that it is a good one."
)
# torch's optimizers whose decay goes into the gradient
COUPLED = ("Adam", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adamax", "Adadelta")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One tensor's (or group's) timescale in steps at every size, and as a share of that size's run."""

    name: str
    steps: tuple[float, ...]
    shares: tuple[float, ...]

    @property
    def differs(self) -> bool:
        """Whether the share of the run is not the same at all sizes."""
        return max(self.shares) > min(self.shares) * (1 + TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class DecayTimescale:
    """Timescales by tensor over sizes; `ok` is None where nothing decays."""

    sizes: tuple[Any, ...]
    memories: tuple[Memory, ...]
    coupled: tuple[str, ...] = ()

    @property
    def differing(self) -> list[Memory]:
        """Those whose share of the run is not the same at all sizes."""
        return [each for each in self.memories if each.differs]

    @property
    def ok(self) -> bool | None:
        """Whether every timescale is the same share of the run at every size."""
        if self.differing or self.coupled:
            return False
        return True if self.memories else None

    @property
    def verdict(self) -> str:
        """The same as words."""
        if self.coupled:
            return "decay is coupled"
        return {True: "the same at every size", False: "differs over sizes", None: "nothing decays"}[self.ok]

    _repr_pretty_ = printed

    def __str__(self) -> str:
        alike: dict[tuple[tuple[float, ...], tuple[float, ...]], list[str]] = {}
        for each in self.differing or self.memories:
            alike.setdefault((each.steps, each.shares), []).append(each.name)
        rows = [
            (names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
             " ".join(f"{value:.4g}" for value in steps) + " steps",
             " ".join(f"{share:.1%}" for share in shares) + " of the run")
            for (steps, shares), names in list(alike.items())[:SHOWN]
        ]  # fmt: skip
        return told(
            f"decay timescale 1/(lr x decay) at size {listed(self.sizes)}: {self.verdict}",
            table(rows),
            "Scale decay by one over lr's factor (wt.adopt's groups do), and by tokens or batch as "
            "windtunnel.scaling.rules.carry.timescale says." if self.differing else "",
            f"{', '.join(self.coupled)} puts decay into the gradient, where it has no timescale and Adam divides it "
            f"away; use AdamW, or decoupled_weight_decay=True." if self.coupled else "",
            LIMITS if self.memories else "",
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"check": "decay_timescale", "sizes": list(self.sizes), "ok": self.ok, "verdict": self.verdict,
                "source": SOURCE, "limits": LIMITS, "coupled": list(self.coupled),
                "memories": [{"name": m.name, "steps": [plain(v) for v in m.steps], "differs": m.differs,
                              "shares": [plain(v) for v in m.shares]} for m in self.memories]}  # fmt: skip


def decay_timescale(groups: Groups | Mapping[Size, Groups], *, steps: float | Mapping[Size, float]) -> DecayTimescale:
    """How long weights remember at each size, by tensor where groups name theirs (wt.adopt's do), else by group.

    `groups` are parameter groups or an optimizer, or such by size; `steps` the length of the run, one or by size.
    Tensors that do not decay are left out. Raises InputError for groups without lr, and for sizes without steps.
    """
    by_size: dict[Any, Groups] = dict(groups) if isinstance(groups, Mapping) else {"this": groups}
    lengths = {size: _length(steps, size) for size in by_size}
    found = {size: _timescales(each) for size, each in by_size.items()}
    names = dict.fromkeys(name for each in found.values() for name in each)
    shared = [name for name in names if all(name in each for each in found.values())]
    memories = []
    for name in shared:
        taken = tuple(found[size][name] for size in by_size)
        if min(taken) < inf:
            shares = tuple(value / lengths[size] for value, size in zip(taken, by_size, strict=True))
            memories.append(Memory(name=name, steps=taken, shares=shares))
    coupled = sorted({type(each).__name__ for each in by_size.values() if _coupled(each)})
    return DecayTimescale(sizes=tuple(by_size), memories=tuple(memories), coupled=tuple(coupled))


def groups_at(setup: Setup, sizes: Sequence[Size]) -> dict[Size, list[dict[str, Any]]]:
    """The parameter groups of a setup at every size, for `decay_timescale`; models are built on the meta device."""
    values = {"weight_decay": setup.weight_decay, "eps": setup.eps}
    return {size: setup.scales(size).groups(built(setup.build, size), setup.lr, **values) for size in sizes}


def _timescales(groups: Groups) -> dict[str, float]:
    listed_groups = groups.param_groups if isinstance(groups, torch.optim.Optimizer) else groups
    found = {}
    for number, group in enumerate(listed_groups):
        if "lr" not in group:
            raise InputError(f"Parameter group {number} has no lr; give an optimizer, or groups that hold theirs.")
        rate = float(group["lr"]) * float(group.get("weight_decay", 0.0))
        for name in group.get("names") or [f"group {number}"]:
            found[name] = 1 / rate if rate > 0 else inf
    return found


def _length(steps: float | Mapping[Size, float], size: Size) -> float:
    length = steps.get(size) if isinstance(steps, Mapping) else steps
    if length is None or not length > 0:
        raise InputError(f"steps at size {size} is {length}; give the number of steps of the run there, above 0.")
    return float(length)


def _coupled(groups: Groups) -> bool:
    if not isinstance(groups, torch.optim.Optimizer) or type(groups).__name__ not in COUPLED:
        return False
    decays = any(float(group.get("weight_decay", 0.0)) > 0 for group in groups.param_groups)
    return decays and not any(group.get("decoupled_weight_decay") for group in groups.param_groups)
