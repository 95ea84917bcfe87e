"""How to train at any size: Recipe, its slots as protocols, Site, Judge and tuned().

A Recipe is a frozen set of parts. A newcomer's mistake is to write a size into it: sizes belong to Rungs. What a part
*means* is the syntax tree of its source (see `meaning.py`), so rewording never retrains and a changed constant does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import prod
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from windtunnel.errors import InputError, meant
from windtunnel.ladder import Rung, Size
from windtunnel.meaning import carry_source, describe, name_of, title

if TYPE_CHECKING:  # the slots' signatures speak of torch; importing this module does not
    import numpy as np
    from torch import Tensor, nn

UNIT = "nats per token"  # of a judge's loss, unless it has one of its own
OF_EXAMPLES = "nats per example"  # the same where an example is one prediction


@dataclass(frozen=True)
class Tuned:
    """A range to be searched at the base rung, on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (isinstance(self.low, Real) and isinstance(self.high, Real)):
            raise InputError(
                f"tuned({self.low!r}, {self.high!r}) is no range; it takes two numbers, as in tuned(1e-4, 1e-1)."
            )
        if not 0 < self.low < self.high < float("inf"):
            raise InputError(
                f"tuned({self.low!r}, {self.high!r}) is an empty or inverted range; it is searched on a log scale, so "
                f"it needs 0 < low < high. To fix a value, write the value."
            )

    def __repr__(self) -> str:
        return f"tuned({self.low:g}, {self.high:g})"


def is_rate(name: str) -> bool:
    """Whether a number field is a learning rate, which is scaled for its site and follows the schedule."""
    return name == "lr" or name.endswith("_lr")


def is_open(part: Any) -> bool:
    """Whether a field of a part is still to be tuned, so that its values cannot be checked yet."""
    return any(isinstance(getattr(part, f.name), Tuned) for f in fields(part))


def tuned(low: float, high: float) -> Any:
    """Mark a part's field as searched between `low` and `high` (log scale) at the base rung, then transferred."""
    return Tuned(low, high)


@dataclass(frozen=True, kw_only=True)
class Site:
    """What one tensor is to the network; tensors with equal sites are interchangeable to an optimizer.

    `role` is one of: embedding (lookup table), tied (lookup table that is also the readout), input (fan-in does not
    grow with width), hidden (both sides grow), router, expert_up and expert_down (of a mixture of experts: to the
    experts' scores, from the stream, back to it), readout (fan-out does not grow), gain, bias, vector (grows with
    width, has no inputs, keeps the initial values that the model gives it), fixed (does not grow).
    `fan_in` and `fan_out` are counts at this width; `layers` counts the blocks of the growing stack that the tensor
    stands in, 1 outside. `axes` says what the axes mean where they are not (out, in, ...): "-io" is stacked copies, in,
    out.
    """

    role: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    layers: int = 1
    axes: str = ""


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """What a model and a batch rule need to know of the data.

    `classes`: outcomes predicted (the vocabulary of a text). `tokens_per_example`: predictions in one example (the
    context length of a text, 1 for an image). `train_tokens`: unique training tokens. `example_shape`: shape of one
    example's input.
    """

    classes: int
    tokens_per_example: int
    train_tokens: int
    example_shape: tuple[int, ...]


class Model(Protocol):
    """Builds a plain torch module for a rung and knows its size without building it.

    A part may have an attribute `roles`, tensor name or pattern to role, for what shapes cannot tell: a router
    ("router") or keys of a fixed number of heads ("hidden") look like a readout, stacked matrices need their axes
    (("hidden", "-oi")).
    """

    def build(self, rung: Rung, data: DataShape) -> nn.Module: ...
    def size(self, rung: Rung, data: DataShape) -> Size: ...


class Optimizer(Protocol):
    """An update rule for one tensor of one model; the engine batches it over tensors and members of a pack.

    `geometry` says how an update's size grows: "entrywise" (Adam), "gradient" (SGD), "spectral" (Muon), "orthogonal"
    (Shampoo, SOAP), "matched" (Muon in Moonshot's form) or "relative" (LAMB); see `scaling.rules.reach`. It is a method
    `geometry(site)` where it depends on the tensor. `hp` holds every number field of the part as a tensor without axes;
    those called `lr` or `..._lr` are already scheduled and scaled for this site.

    What the engine asks for only where a part has it (`train.extras`):
    `numbers(tensors: name to Site, seed, stretch) -> name to numbers`, constants of single tensors, by name, in `hp`;
    `needs`, of "loss" (of the batch, before the update, in nats per token) and "horizon" (steps of the whole training),
    in `hp`; `totals(grad, state, param, hp, site) -> dict of scalars`, summed over all tensors of the network, in `hp`
    of the next two; `maxima`, the same of tensors of one shape, of which `hp` has the largest entries;
    `look_ahead(grad, state, param, hp, site) -> shift`: the gradient that `update` gets is taken at the weights shifted
    by it (say `cost = 2`); `readout(param, state, site) -> param`, the weights that are judged;
    `suits(parametrization)` raises InputError for a rule under which its steps would not have the size they should.
    """

    geometry: Any

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]: ...
    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


class Schedule(Protocol):
    """The learning rate's multiplier after `tokens` of `horizon` tokens."""

    def __call__(self, tokens: float, horizon: float) -> float: ...


class BatchRule(Protocol):
    """Examples per step at a rung.

    An optional attribute `carry` says how the optimizer's numbers follow batch and horizon (`scaling.rules.carry`).
    """

    def __call__(self, rung: Rung, data: DataShape) -> int: ...


class DataPlan(Protocol):
    """Which examples each step sees. `batch` is a pure function of (seed, step), so runs can be paired and resumed.

    `fingerprint` identifies what was read and how it is cut into examples; it enters every key. `held_out` yields the
    same validation examples in the same order every time, whatever the `size` of its chunks; training never sees them.
    `repeat` allows more than one pass.
    A plan whose examples have an identity says which ones a step sees with `indices(seed, step, size)`, whole
    numbers: what an objective's memory is kept by. One that can be cut to fewer distinct tokens, to be repeated, has
    `limited(unique_tokens) -> data plan`; those of a smaller cut are among those of a larger one.
    """

    repeat: bool

    def shape(self) -> DataShape: ...
    def fingerprint(self) -> str: ...
    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]: ...
    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]: ...


class Objective(Protocol):
    """The loss per token: outputs (examples, tokens, classes) and targets (examples, tokens) to (examples, tokens).

    One that needs more names it in an attribute `needs` and is called with a third argument, a dict of just that:
    "done" (share of the horizon), "params" and "start" (name to tensor, now and at the beginning; for penalties on
    weights, which are added to the loss of every token), "reference" (what the network as it was at the beginning puts
    out), "memory" (of the batch's examples, from their last visit; the objective then has `memory(data shape) -> dict
    of tensors`, a new example's, and returns the loss and the memory as it is to be kept), "indices" (the data plan's
    numbers of the batch's examples, (examples,)).
    """

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor: ...


class Transform(Protocol):
    """A change of the network: takes the built module, returns the module to be trained.

    One that changes how many parameters there are, or what a token costs, has `size(size, rung, data) -> Size`; one
    whose new tensors shapes cannot tell apart states them in `roles`, as a model part does. One whose network follows
    the training names what it needs in `needs`: "done" (share of the horizon) and "noise" (a whole number below 2^31 of
    this run and step, for dropout). The engine writes them, while training, into the 0-d buffers of that name
    (persistent=False) that modules have.
    """

    def __call__(self, model: nn.Module) -> nn.Module: ...


Weights = Mapping[str, "Tensor"]  # of one network, by parameter name


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A piece of training with a recipe, a size and a horizon of its own.

    `start` makes its first weights from the last ones of earlier stretches, by their names and as the network uses them
    (the parametrization's multipliers are in them, so that sizes can share them); a tensor that it leaves out begins as
    a new network's would, and without it all do. The optimizer's state is new. Its data go on where the last
    stretch on the same data stopped, and its schedule spans its own tokens.
    """

    name: str
    recipe: Recipe
    rung: Rung
    start: Callable[[Mapping[str, Weights]], Weights] | None = None
    fork: str | None = None  # the ended stretch whose weights, optimizer state and place in the data it goes on with
    values: Mapping[str, float] | None = None  # of fields that its recipe leaves open, in place of the run's own


class Phases(Protocol):
    """Training in several stretches, in order; the last one's network is judged, and has the size of `rung`.

    `recipe` is the whole recipe with this slot empty; `rung.tokens` are what all stretches together may see, times the
    part's `cost` where it has one.
    """

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]: ...


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a search is told of a stretch that has ended: `losses`, a number a step, are of its training batches.

    They are the losses of the batches before each update, in nats per token; the judge's are never told.
    """

    stretch: Stretch
    losses: np.ndarray
    diverged: bool


class AskingPhases(Phases, Protocol):
    """Phases that decide what is trained next by what was measured.

    `ask` is a pure function of the run's seed and of what has ended so far, in the order in which it was asked for: the
    next stretches, which are trained together where they differ in numbers alone and begin at the same place in the
    data; none when it is over. `chosen` names the stretch whose network is the result; the run's own curve is that of
    the stretches it was forked from. `stretches` foretells the bill: as many tokens of the same sizes.
    """

    def ask(self, recipe: Recipe, rung: Rung, told: Sequence[Told], seed: int) -> Sequence[Stretch]: ...
    def chosen(self, told: Sequence[Told]) -> str: ...


class Probe(Protocol):
    """Further numbers of a trained network, by name; `batches` are the judge's held-out inputs and targets."""

    def __call__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Mapping[str, float]: ...


@runtime_checkable
class Parametrization(Protocol):
    """How initial size, step size, eps, decay and forward multiplier of a site follow from its growth over the base."""

    def scale(self, site: Site, base: Site, geometry: str) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train at any size. Each slot holds a part; `but` returns a copy with other parts."""

    model: Any
    parametrization: Any
    optimizer: Any
    schedule: Any
    batch: Any
    data: Any
    objective: Any
    transforms: tuple[Any, ...] = ()
    phases: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.transforms, tuple):
            raise InputError(f"transforms={self.transforms!r} is no tuple; write transforms=(one, another) or (one,).")
        for slot, held in self.parts().items():
            for part in held if isinstance(held, tuple) else (held,):
                _check_fills(slot, part)

    def but(self, **slots: Any) -> Recipe:
        """This recipe with some slots filled otherwise."""
        names = [f.name for f in fields(self)]
        unknown = sorted(set(slots) - set(names))
        if unknown:
            raise InputError(
                f"A Recipe has no slot {', '.join(unknown)}.{meant(unknown[0], names)} "
                f"Its slots are {', '.join(names)}. To change a field inside a part, fill the slot: "
                f"but(optimizer=AdamW(lr=3e-3))."
            )
        return replace(self, **slots)

    def data_at(self, rung: Rung) -> Any:
        """The data plan as a rung is trained on it: all, or so many distinct tokens. Raises InputError if it cannot."""
        if rung.unique_tokens is None:
            return self.data
        limited = getattr(self.data, "limited", None)
        if limited is None:
            raise InputError(
                f"The rung ({rung}) limits the distinct tokens, but the data plan {type(self.data).__name__} cannot be "
                f"cut; give it limited(unique_tokens) -> data plan, or leave unique_tokens out."
            )
        return limited(rung.unique_tokens)

    def settled(self, rung: Rung) -> Rung:
        """The rung with the batch rule applied where it leaves the batch open."""
        return rung if rung.batch else rung.but(batch=self.batch(rung, self.data.shape()))

    def size(self, rung: Rung) -> Size:
        """Parameters and FLOPs at a rung: the model's, as its transforms leave them, times what parts say they cost.

        A part that makes a step dearer has a number `cost`, a factor on the FLOPs of a forward and backward pass.
        """
        data = self.data.shape()
        size = self.model.size(rung, data)
        for transform in self.transforms:
            change = getattr(transform, "size", None)
            size = change(size, rung, data) if change is not None else size
        cost = prod(float(getattr(part, "cost", 1.0)) for part in self.pieces())
        return size if cost == 1.0 else replace(size, flops_per_token=size.flops_per_token * cost)

    def roles(self) -> dict[str, Any]:
        """What the model part and the transforms state of tensors' roles, by pattern; the model's words first."""
        found: dict[str, Any] = {}
        for part in (self.model, *self.transforms):
            stated = getattr(part, "roles", None) or {}
            found |= {pattern: role for pattern, role in stated.items() if pattern not in found}
        return found

    def pieces(self) -> list[Any]:
        """All parts, those of a slot that holds several one by one."""
        return [piece for part in self.parts().values() for piece in (part if isinstance(part, tuple) else (part,))]

    def parts(self) -> dict[str, Any]:
        """Slot name to part; the slot `phases` only where it is filled."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in held.items() if name != "phases" or part is not None}

    def tuned_fields(self) -> dict[str, Tuned]:
        """Name to range of every field left open for tuning. Names are field names and must be unique over slots."""
        found: dict[str, Tuned] = {}
        for slot, name, value in self._fields():
            if isinstance(value, Tuned):
                if name in found:
                    raise InputError(
                        f"Two slots have a tuned field called {name} (one is {slot}); hyperparameters are named by "
                        f"their field, so rename one of them or fix its value."
                    )
                found[name] = value
        return found

    def fill(self, values: Mapping[str, float]) -> Recipe:
        """This recipe with tuned fields set to `values`; raises if one is missing or unknown."""
        ranges = self.tuned_fields()
        if set(values) != set(ranges):
            raise InputError(
                f"The recipe leaves {sorted(ranges) or 'nothing'} open for tuning; values were given for "
                f"{sorted(values) or 'nothing'}."
            )
        changes: dict[str, Any] = {}
        for slot, part in self.parts().items():
            filled = tuple(_filled(p, values) for p in part) if isinstance(part, tuple) else _filled(part, values)
            changes[slot] = filled
        return replace(self, **changes)

    def shaped(self, values: Mapping[str, float]) -> Recipe:
        """This recipe with the tuned fields of every slot but optimizer and schedule set: what a pack's members share,
        because those fields may change the network or the batch."""
        filled = self.fill(values)
        return replace(filled, optimizer=self.optimizer, schedule=self.schedule)

    def describe(self) -> dict[str, Any]:
        """Slot to plain data: the part's name, its fields and the meaning of its source. The data slot is its
        fingerprint, because the same text read from another folder is the same data."""
        described = {slot: describe(part) for slot, part in self.parts().items() if slot != "data"}
        carry_source(type(self.data))
        described["data"] = {"is": title(self.data), "fingerprint": self.data.fingerprint()}
        return described

    def _fields(self) -> Iterator[tuple[str, str, Any]]:
        for slot, held in self.parts().items():
            for part in held if isinstance(held, tuple) else (held,):
                if is_dataclass(part) and not isinstance(part, type):
                    for field in fields(part):
                        yield slot, field.name, getattr(part, field.name)


# What a part must have to fill a slot; nothing is asked of one that is a function but that it can be called.
METHODS = {
    "model": ("build", "size"), "parametrization": ("scale",), "optimizer": ("init", "update"),
    "data": ("shape", "fingerprint", "batch", "held_out"),
}  # fmt: skip
CALLED = {
    "schedule": "(tokens, horizon) -> share of the peak rate", "batch": "(rung, data shape) -> examples a step",
    "objective": "(outputs, targets) -> losses", "transforms": "(module) -> module",
}  # fmt: skip
HINTS = {
    "model": " windtunnel.parts.models.Own(function) makes one of a function that builds a torch module.",
    "optimizer": " torch's optimizers do not fill it; windtunnel.parts.optimizers has AdamW(), SGD(), Muon() and more.",
}


def _check_fills(slot: str, part: Any) -> None:
    """Raise InputError for what cannot be a part of a slot; whether it is a good one, its runs and `check` tell."""
    if slot == "data" and part is None:  # to be filled
        return
    missing = [name for name in METHODS.get(slot, ()) if not callable(getattr(part, name, None))]
    if missing or (slot in METHODS and isinstance(part, type)):
        said = f"{part.__qualname__} is a class" if isinstance(part, type) else f"it has no {' and no '.join(missing)}"
        raise InputError(
            f"{slot}={part!r} does not fill the slot: {said}; it takes a part with {', '.join(METHODS[slot])} "
            f"(windtunnel.recipe has the protocol).{HINTS.get(slot, '')}"
        )
    if slot in CALLED and (not callable(part) or (slot != "transforms" and isinstance(part, type))):
        raise InputError(
            f"{slot}={part!r} does not fill the slot; it takes a part that is called, {CALLED[slot]}: see "
            f"windtunnel.parts."
        )


def _filled(part: Any, values: Mapping[str, float]) -> Any:
    """A part with its open fields set; one without any is returned as it is."""
    if not is_dataclass(part) or isinstance(part, type):
        return part
    own = {f.name: float(values[f.name]) for f in fields(part) if isinstance(getattr(part, f.name), Tuned)}
    return replace(part, **own) if own else part


@dataclass(frozen=True, kw_only=True)
class Judge:
    """By what every run of a study is judged: `tokens` held-out tokens of `data`, `evaluations` times over a run.

    Belongs to the study, so an idea may change how a model is trained but never how it is judged. The loss is the mean
    cross-entropy in nats per token, or the mean of what `loss` says: a part that maps outputs and targets to losses
    (examples, ...) as an objective does, positive, for laws are fitted to its logarithm; outputs are (examples, tokens,
    classes) as the network gives them, targets as the data plan does. `probes` measure more on each finished network;
    the record's metrics hold it.
    """

    data: Any
    tokens: int = 65536
    evaluations: int = 5
    probes: tuple[Any, ...] = ()
    loss: Any = None

    def __post_init__(self) -> None:
        if self.loss is not None and (isinstance(self.loss, type) or not callable(self.loss)):
            raise InputError(
                f"Judge loss is {self.loss!r}; give a part (outputs, targets) -> losses, as SquaredError(), or leave "
                f"it out for cross-entropy."
            )
        if needs := getattr(self.loss, "needs", ()):
            raise InputError(
                f"Judge loss is {name_of(self.loss)}, which needs {', '.join(needs)} besides outputs and "
                f"targets; a judge has those alone."
            )
        describe(self.loss)  # raises for what cannot be part of a key
        if self.tokens < 1 or self.evaluations < 1:
            raise InputError(
                f"Judge(tokens={self.tokens}, evaluations={self.evaluations}): both must be at least 1; the last "
                f"evaluation is the loss that the laws are fitted to."
            )

    def describe(self) -> dict[str, Any]:
        """Plain data for a run's key."""
        said = {"data": self.data.fingerprint(), "tokens": self.tokens, "evaluations": self.evaluations}
        said |= {"probes": describe(self.probes)} if self.probes else {}
        return said | ({"loss": describe(self.loss)} if self.loss is not None else {})

    @property
    def unit(self) -> str:
        """What the loss is, for figures and words."""
        if self.loss is not None:
            return name_of(self.loss)
        return OF_EXAMPLES if self.data.shape().tokens_per_example == 1 else UNIT
