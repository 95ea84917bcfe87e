"""Local training in a loop of your own: K workers take H steps each, then one outer step is made of where they went.

The workers are processes (torchrun), or one alone. Each steps with its own torch optimizer on its own batches; every H
steps they meet once, and the outer rule (SlowMo, averaging, LearnedOuter, any part) moves the weights that the round
began with. All make that step themselves, of the same numbers. A newcomer would average the weights and go on: the
outer rule has a state too, and it belongs to the weights at the round's start.
"""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.bridge.optimizer import TorchOptimizer
from windtunnel.bridge.rows import LOW, sharded
from windtunnel.bridge.workers import Heard, check_agreement, refused_on_all, workers_of
from windtunnel.errors import InputError
from windtunnel.scaling.adopt import Adopted
from windtunnel.scaling.wrapped import parameters
from windtunnel.train.extras import told_to
from windtunnel.train.pack import numbers_of

COUNTS = ("taken", "rounds")


class LocalSteps:
    """Every `steps` steps of `local`, a torch optimizer of the model, the workers meet and make one step of `outer`.

    Call `step()` after each `local.step()`. `outer` is a part with its numbers filled in, `scales` what
    `wt.adopt(..., optimizer=outer)` returned for this model; a rule that `displaces` (SlowMo) has its rate as it is for
    all tensors. `carried` False clears the local optimizer's state after every round, as where learned outer rules are
    trained. `group` is the workers' process group, None all processes, or one worker alone where there are none.

    Tensors that are frozen, or that no worker's step used in a round, stay as they are, and so does their outer state.
    Buffers are each worker's own; the first round warns of those that training changes. A worker whose weights are not
    finite is left out of the mean, with a warning on all (`left_out` counts the last round's); it goes on from the
    others' weights, its local optimizer's state cleared. Where no worker is left, all return to the round's start and
    `step` raises InputError. A process that is gone makes `step` raise torch's error on the others; what they hold is
    the round before, and goes on with any number of workers. `outer` is a torch optimizer: a schedule may move its
    rate. Raises InputError where workers disagree on tensors, values or settings.
    """

    def __init__(
        self, outer: Any, model: nn.Module, scales: Adopted, local: torch.optim.Optimizer, *, steps: int,
        carried: bool = True, group: Any = None,
    ):  # fmt: skip
        self.workers, self.steps, self.carried, self.local = workers_of(group), steps, carried, local
        with refused_on_all(self.workers):
            _check(outer, local, steps)
            named = parameters(model)
            self._held = {name: param for name, param in named.items() if param.requires_grad}
            _check_whole(self._held)
            _check_moved(self._held, local)
            starts = {name: _start(param) if param.requires_grad else param for name, param in named.items()}
            self._starts = {name: starts[name] for name in self._held}
            self.outer = TorchOptimizer(outer, _Named(starts), _as_it_is(outer, scales), pretrained=True)
        self.taken, self.rounds, self.left_out = 0, 0, 0
        self._used: set[str] = set()
        self._statistics = bool(getattr(outer, "statistics", False))
        self._kind = torch.float32
        for start in self._starts.values():
            self._kind = torch.promote_types(self._kind, start.dtype)
        self._buffers = {n: b.detach().clone() for n, b in model.named_buffers() if b.is_floating_point()}
        self._model, self._sites = model, scales.table.sites
        self._watched = True
        for hooked, told in (
            (local.register_step_pre_hook, self._watch), (local.register_step_post_hook, self._note),
        ):  # fmt: skip
            weakref.finalize(self, hooked(_while_it_lives(told)).remove)
        self._agree()

    @property
    def bytes_per_round(self) -> int:
        """What this worker gives to the collectives of a round."""
        count = sum(start.numel() for start in self._starts.values())
        return self.workers.bytes_of_a_round(count, len(self._starts), self._kind.itemsize, self._statistics)

    @torch.no_grad()
    def step(self) -> bool:
        """Count a local step; where it was the round's last, meet. Whether the workers met."""
        self.taken += 1
        if self.taken < self.steps:
            return False
        self._meet()
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """All that goes on, as plain tensors by name, which safetensors can write; the same on all after a round.

        The weights that the round began with, the outer rule's state under its identity (a learned rule's hash), its
        rates and the steps taken since. Within a round the model's own weights and the local optimizer's state are the
        worker's, and yours to keep.
        """
        found = {"identity": _as_bytes(self._identity), "used": self._marks().to(torch.uint8).cpu()}
        found |= {name: torch.tensor(getattr(self, name)) for name in COUNTS}
        found["rates"] = torch.tensor([float(group["lr"]) for group in self.outer.param_groups], dtype=torch.float64)
        for name, start in self._starts.items():
            found[f"start.{name}"] = start.detach().contiguous()
            for leaf, value in self.outer.state.get(start, {}).items():
                found[f"state.{name}.{leaf}"] = value.contiguous()
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, on all workers at once; their number may be another.

        At a round's start the model gets its weights from here. Raises InputError for the state of another rule or
        model, on all workers where one has it, and where the workers' states differ.
        """
        with refused_on_all(self.workers):
            self._check_state(state_dict)
        for name, start in self._starts.items():
            start.copy_(state_dict[f"start.{name}"])
            self._load_outer(name, start, state_dict)
        self.taken, self.rounds = (int(state_dict[name]) for name in COUNTS)
        self.outer._taken = self.rounds
        self._used = {name for name, used in zip(self._starts, state_dict["used"].tolist(), strict=True) if used}
        for group, rate in zip(self.outer.param_groups, state_dict["rates"].tolist(), strict=True):
            group["lr"] = rate
        if not self.taken:
            self._write()
        self._agree()

    # inside

    @property
    def _identity(self) -> str:
        return str(getattr(self.outer.part, "identity", type(self.outer.part).__name__))

    def _watch(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Before a round's first local step: whether the weights are those that it begins with; said once."""
        if self.taken or not self._watched:
            return
        same = [(start.to(param.dtype) == param).all() for start, param in self._pairs()]
        if not bool(torch.stack(same).all()):
            self._watched = False
            warnings.warn(
                "The weights were changed since the last round, or since LocalSteps was made; the change counts as a "
                "part of this worker's way. Make it after weights are loaded, or load its own state with them.",
                stacklevel=4,
            )

    def _note(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """After a local step: the tensors that had a gradient."""
        self._used |= {name for name, param in self._held.items() if param.grad is not None}

    def _marks(self) -> Tensor:
        device = next(iter(self._starts.values())).device
        return torch.tensor([float(n in self._used) for n in self._starts], dtype=self._kind, device=device)

    def _meet(self) -> None:
        way = torch.cat([(s.to(p.dtype).to(self._kind) - p).flatten() for s, p in self._pairs()])
        finite = bool(way.isfinite().all())
        heard = (self.workers.apart if self._statistics else self.workers.mean)(way, self._marks())
        del way
        self.taken, self._used, self.left_out = 0, set(), self.workers.count - heard.count
        if not self.carried or not finite:
            self.local.state.clear()
        if not heard.count or not bool(heard.mean.isfinite().all()):
            self._write()
            raise InputError(
                f"No outer step can be made of round {self.rounds + 1}: of {self.workers.count} workers {heard.count} "
                f"came back with finite weights, and their mean way is not finite. All have the weights of the round's "
                f"start again; lower the local learning rate, or take fewer steps in a round."
            )
        self._move(heard)
        self._write()
        self.rounds += 1
        self._say(finite)

    def _move(self, heard: Heard) -> None:
        """One step of the outer rule, of the tensors that some worker used."""
        told, at = dict[str, dict[str, Tensor]](), 0
        for (name, start), used in zip(self._starts.items(), heard.marks.tolist(), strict=True):
            part = slice(at, at + start.numel())
            at = part.stop
            if used:
                start.grad = heard.mean[part].view(start.shape).to(start.dtype)
                told[name] = {n: row[part].view(start.shape) for n, row in heard.statistics.items()}
        self.outer.step(told=told)
        self.outer.zero_grad()

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((start, self._held[name]) for name, start in self._starts.items())

    def _write(self) -> None:
        """The round's start into the model."""
        for start, param in self._pairs():
            param.copy_(start)

    def _say(self, finite: bool) -> None:
        """What a round leaves to be said, as warnings."""
        if self.left_out:
            own = "" if finite else " This is one of them; its local optimizer's state is cleared."
            warnings.warn(
                f"{self.left_out} of {self.workers.count} workers came back from round {self.rounds} with weights that "
                f"are not finite; they are left out of the mean and go on from the others' weights.{own}",
                stacklevel=5,
            )
        now = {name: buffer for name, buffer in self._model.named_buffers() if name in self._buffers}
        moved = [n for n, first in self._buffers.items() if n in now and not torch.equal(now[n], first)]
        self._buffers = {}
        if moved and self.workers.count > 1:
            warnings.warn(
                f"Training changes buffers ({', '.join(moved[:3])}), and workers keep their own: average or recompute "
                f"them before you save or judge the model.",
                stacklevel=5,
            )

    def _load_outer(self, name: str, start: Tensor, state_dict: Mapping[str, Tensor]) -> None:
        """Into a state as the rule begins it, so that it lies in memory as one that was never saved."""
        own = _leaves(state_dict, name)
        self.outer.state.pop(start, None)
        if own:
            first = self.outer.part.init(start.detach(), self._sites[name])
            self.outer.state[start].update({leaf: value.copy_(own[leaf]) for leaf, value in first.items()})

    def _check_state(self, state_dict: Mapping[str, Tensor]) -> None:
        """Raise InputError for a state that cannot be loaded whole."""
        if "identity" not in state_dict:
            raise InputError("This is not the state of LocalSteps; give what its state_dict returned.")
        saved = bytes(state_dict["identity"].tolist()).decode("utf-8", "replace")
        if saved != self._identity:
            raise InputError(
                f"The state is of {saved}, and the outer rule is {self._identity}; make it with the weights that the "
                f"state was made with."
            )
        wanted = {f"start.{name}": tuple(start.shape) for name, start in self._starts.items()}
        wanted |= {"rates": (len(self.outer.param_groups),), "used": (len(wanted),)} | dict.fromkeys(COUNTS, ())
        found = _shapes({n: t for n, t in state_dict.items() if n.startswith("start.") or n in wanted})
        wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)]
        if wrong:
            raise InputError(
                f"The state is of another model: {', '.join(wrong[:3])}; give that of this model, with the same "
                f"tensors frozen and the same scale table."
            )
        for name, start in self._starts.items():
            own = _leaves(state_dict, name)
            if own and _shapes(own) != _shapes(self.outer.part.init(start.detach(), self._sites[name])):
                raise InputError(f"The state of {name} is not one of {self._identity} for a tensor of this shape.")

    def _agree(self) -> None:
        """Raise InputError where the workers would not begin, or go on, alike."""
        tensors = [(name, tuple(start.shape), str(self._held[name].dtype)) for name, start in self._starts.items()]
        part = self.outer.part
        check_agreement(
            self.workers,
            {
                "their tensors": tensors,
                "the outer rule": f"{self._identity} {numbers_of(part)}",
                "the steps of a round": self.steps,
                "the steps taken in this round": self.taken,
                "the values they begin with": _digest({n: t for n, t in self.state_dict().items() if n != "used"}),
            },
        )


class _Named(nn.Module):
    """Tensors under the names that they have in a model, for those who ask a module for its parameters."""

    def __init__(self, held: Mapping[str, Any]) -> None:
        super().__init__()
        self._by_name = dict(held)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._by_name.items()


def _start(param: Tensor) -> nn.Parameter:
    """The weights that a round begins with; wide, so that outer steps smaller than a narrow type's last bit add up."""
    kind = torch.float32 if param.dtype in LOW else param.dtype
    return nn.Parameter(param.detach().to(kind, copy=True))


def _as_it_is(outer: Any, scales: Adopted) -> Adopted:
    """The table with rate 1 everywhere for a rule whose rate is a share of the workers' way."""
    if not getattr(outer, "displaces", False):
        return scales
    plain = {name: replace(scale, lr=1.0) for name, scale in scales.table.scales.items()}
    return Adopted(table=replace(scales.table, scales=plain))


def _check(outer: Any, local: Any, steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps is {steps!r}; it is the number of local steps in a round, at least 1.")
    if not isinstance(local, torch.optim.Optimizer):
        raise InputError(f"local is a {type(local).__name__}; give the torch optimizer that takes the local steps.")
    asked = [*told_to(outer), *(["look_ahead"] if hasattr(outer, "look_ahead") else [])]
    if asked:
        raise InputError(
            f"{type(outer).__name__} asks for {', '.join(asked)}, which an outer step does not have; take SlowMo, "
            f"LearnedOuter or another part that needs gradients alone."
        )


def _check_whole(held: Mapping[str, Any]) -> None:
    if not held:
        raise InputError("The model has no tensors that are trained; unfreeze some before the workers begin.")
    parts = [name for name, param in held.items() if sharded(param)]
    if parts:
        raise InputError(
            f"{parts[0]} is sharded (DTensor): a worker here holds the whole model. Shard within no worker, or give "
            f"each worker one process."
        )


def _check_moved(held: Mapping[str, Tensor], local: torch.optim.Optimizer) -> None:
    ours = {id(param) for param in held.values()}
    if not any(id(param) in ours for group in local.param_groups for param in group["params"]):
        raise InputError(
            "local moves no tensor of this model that is trained; make it of this model's parameters, after the model "
            "is made or moved for the last time."
        )


def _while_it_lives(method: Callable[..., None]) -> Callable[..., None]:
    """A hook that does not keep what it tells: an optimizer may outlive the LocalSteps made around it."""
    found = weakref.WeakMethod(method)

    def hook(*args: Any) -> None:
        if told := found():
            told(*args)

    return hook


def _leaves(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The outer rule's state of one tensor, as it is kept."""
    begins = f"state.{name}."
    return {key.removeprefix(begins): value for key, value in state_dict.items() if key.startswith(begins)}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _as_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """One word for the values of all tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
