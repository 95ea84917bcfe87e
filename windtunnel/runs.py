"""RunSpec: what was asked. Run: the immutable record of what happened. Outcome: how it ended.

A RunSpec is plain data, so its key can be computed, stored and compared without the code that trains it. A newcomer
would look for the study's name or the stage in the key: they are labels, because the same run may serve a sweep, a
ladder and another study. Hardware is never asked; a Run records it as part of its cost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from windtunnel.ladder import Rung, Size, four_decimals
from windtunnel.notebook import card

if TYPE_CHECKING:
    import numpy as np

# Raised by one when the engine would train the same spec to other numbers; part of every key.
ENGINE = 1
OPEN = "windtunnel.recipe.Tuned"  # the meaning of a field to be tuned, in the description of a recipe


class Outcome(StrEnum):
    """How a run ended. Only `finished` runs are fitted; the others are listed with their reason."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    CRASHED = "crashed"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run that was asked for: a described recipe, a rung with its batch settled, hyperparameters and a seed."""

    recipe: Mapping[str, Any]
    rung: Rung
    hyperparameters: Mapping[str, float]
    seed: int
    judge: Mapping[str, Any]
    base_rung: Rung  # where the parametrization's multipliers are 1

    @cached_property
    def key(self) -> str:
        """Content address: equal asks have equal keys on every machine. A value that was tuned is asked as one that is
        written in the recipe: the range in which it was found is not."""
        recipe, open_ = _meaning_alone(self.recipe)
        values = {name: float(value) for name, value in self.hyperparameters.items()}
        left = {name: value for name, value in values.items() if name not in open_}
        return self._address(_filled(recipe, values) if open_ else recipe, left)

    @cached_property
    def former_key(self) -> str:
        """The key that 0.1.0 gave it, with the range of what was tuned: its records are still found."""
        values = {name: float(value) for name, value in self.hyperparameters.items()}
        return self._address(_without_names(self.recipe), values)

    def _address(self, recipe: Any, hyperparameters: Mapping[str, float]) -> str:
        asked = {
            "engine": ENGINE,
            "recipe": recipe,
            "rung": self.rung.to_json(),
            "base_shape": [self.base_rung.width, self.base_rung.depth],
            "hyperparameters": hyperparameters,
            "seed": self.seed,
            "judge": self.judge,
        }
        return hashlib.sha256(canonical(asked).encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` turns back into an equal spec."""
        return {
            "recipe": dict(self.recipe),
            "rung": self.rung.to_json(),
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            "judge": dict(self.judge),
            "base_rung": self.base_rung.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSpec:
        """The spec that `to_json` wrote."""
        return cls(
            recipe=data["recipe"],
            rung=Rung(**data["rung"]),
            hyperparameters=data["hyperparameters"],
            seed=data["seed"],
            judge=data["judge"],
            base_rung=Rung(**data["base_rung"]),
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run took. `flops` is what it would have taken alone; `seconds` its share of its pack's wall time, on one
    device or over all `processes`. `spent_flops` is less than `flops` where runs of several horizons had one trunk,
    which they share evenly."""

    flops: float
    seconds: float
    device: str
    threads: int
    members: int  # runs trained together in its pack
    alone_because: str | None = None  # why a recipe could not be packed
    spent_flops: float | None = None
    compiled_steps: int = 0
    eager_because: str | None = None  # why a long pack was not compiled
    processes: int = 1  # devices that trained this one run together
    precision: str = "float32"  # of matrix products
    pieces: int = 1  # that a step's examples were taken in, on each device, for want of memory
    peak: float | None = None  # measured FLOP/s of a large matrix product on one of the devices, where it was measured

    @property
    def spent(self) -> float:
        """FLOPs that were spent on it."""
        return self.flops if self.spent_flops is None else self.spent_flops

    @property
    def flops_per_second(self) -> float:
        """Training FLOPs a second, over all devices; NaN for a run that took no time."""
        return self.flops / self.seconds if self.seconds > 0 else float("nan")

    @property
    def utilization(self) -> float | None:
        """Share of the measured peak of all devices that training used (MFU); None where no peak was measured."""
        return self.flops_per_second / (self.peak * self.processes) if self.peak else None


@dataclass(frozen=True, kw_only=True)
class Run:
    """The record of one run. `loss` is the judge's last value in nats per token, None unless the run finished.

    `curve` holds equally long arrays `step`, `tokens`, `train_loss`, and the judge's own `judged_tokens`,
    `judged_loss`. `labels` (study, idea, stage) are remarks of whoever asked first and identify nothing.
    """

    key: str
    spec: RunSpec
    outcome: Outcome
    loss: float | None
    metrics: Mapping[str, float]
    size: Size
    cost: Cost
    curve: Mapping[str, np.ndarray] = field(repr=False, compare=False)
    message: str = ""
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict, repr=False)

    def _repr_html_(self) -> str:
        rung, ended = self.spec.rung, "no loss" if self.loss is None else f"loss {four_decimals(self.loss)}"
        facts = {
            "labels": ", ".join(f"{name} {value}" for name, value in self.labels.items()),
            "sizes": f"{self.size.params:,} params, {rung.tokens:,} tokens, width {rung.width}, depth {rung.depth}",
            "hyperparameters": ", ".join(f"{name} {value:g}" for name, value in self.spec.hyperparameters.items()),
            "seed": self.spec.seed,
            "metrics": ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items()),
            "cost": f"{self.cost.spent:.3g} FLOPs, {self.cost.seconds:.3g} s on {self.cost.device}",
            "recorded": self.created,
        }
        caveats = [] if self.finished else [f"{self.outcome}: {self.message}"]
        return card(f"Run {self.key}", says=f"{self.outcome}, {ended}", caveats=caveats, facts=facts)

    @property
    def finished(self) -> bool:
        """Whether the run reached its horizon with a finite loss."""
        return self.outcome is Outcome.FINISHED

    def to_json(self) -> dict[str, Any]:
        """Everything but the curve and the source files."""
        return {
            "key": self.key,
            "outcome": str(self.outcome),
            "message": self.message,
            "loss": self.loss,
            "metrics": dict(self.metrics),
            "size": asdict(self.size),
            "cost": asdict(self.cost),
            "created": self.created,
            "versions": dict(self.versions),
            "labels": dict(self.labels),
            "spec": self.spec.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], curve: Mapping[str, Any], source: Mapping[str, str]) -> Run:
        """The run that `to_json` wrote."""
        return cls(
            key=data["key"],
            spec=RunSpec.from_json(data["spec"]),
            outcome=Outcome(data["outcome"]),
            message=data["message"],
            loss=data["loss"],
            metrics=data["metrics"],
            size=Size(**_known(Size, data["size"])),
            cost=Cost(**_known(Cost, data["cost"])),
            created=data["created"],
            versions=data["versions"],
            labels=data["labels"],
            curve=curve,
            source=source,
        )


def canonical(data: Any) -> str:
    """One text for equal data: sorted names, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows: a later one may have noted more of what a run was and took."""
    return {f.name: data[f.name] for f in fields(kind) if f.name in data}


@dataclass(frozen=True)
class _Open:
    """A field of a described recipe that is left to be tuned."""

    name: str
    described: Any


def _meaning_alone(recipe: Mapping[str, Any]) -> tuple[Any, set[str]]:
    """A described recipe without names, and its open fields; the last is kept, for thousands of specs share one.

    Where phases train stretches of their own, they are given the ranges and may lean on them: nothing is open then.
    """
    if not _last or _last[0] is not recipe:
        open_: set[str] = set()
        marked = recipe if recipe.get("phases") else {slot: _marked(part, open_) for slot, part in recipe.items()}
        _last[:] = [recipe, (_without_names(marked), open_)]
    return _last[1]


_last: list[Any] = []  # a described recipe, kept so that nothing else has its identity, and what it means


def _marked(part: Any, open_: set[str]) -> Any:
    """A described part, or several, whose open fields are marked as such, and their names added to a set.

    Fields of parts within it are not set by hyperparameters.
    """
    if isinstance(part, list | tuple):
        return [_marked(item, open_) for item in part]
    if not isinstance(part, Mapping) or not isinstance(held := part.get("fields"), Mapping):
        return part
    marked = {name: _Open(name, _without_names(value)) for name, value in held.items() if is_range(value)}
    open_.update(marked)
    return {**part, "fields": {**held, **marked}}


def is_range(described: Any) -> bool:
    """Whether a described field was left open to be tuned."""
    return isinstance(described, Mapping) and described.get("meaning") == OPEN


def _filled(marked: Any, values: Mapping[str, float]) -> Any:
    """A marked recipe with the values of its open fields, or their range where there is none."""
    if isinstance(marked, _Open):
        return values.get(marked.name, marked.described)
    if isinstance(marked, Mapping):
        return {k: _filled(v, values) for k, v in marked.items()}
    return [_filled(item, values) for item in marked] if isinstance(marked, list) else marked


def _without_names(described: Any) -> Any:
    """Drop the human names of parts, so that renaming or moving one does not retrain."""
    if isinstance(described, Mapping):
        return {k: _without_names(v) for k, v in described.items() if not (k == "is" and len(described) > 1)}
    if isinstance(described, list | tuple):
        return [_without_names(item) for item in described]
    return described
