"""Any optimizer part as a torch.optim.Optimizer: its update rule, the scale table's rates, your own loop.

A part is written for one tensor; this calls it for every tensor of a model, as the engine does, to the same bits. The
groups are the table's: tensors of equal site and scale, with `lr`, its `lr_mult` and every other number of the part in
the group, so that torch's schedulers, `Adopted.check` and checkpoints find what they know. A scheduler writes `lr`
alone; a part's other rates (`others_lr` of Muon) follow it in proportion. A newcomer would give Muon all tensors alike:
which of them are matrices inside the network is the table's to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.bridge.rows import Tree, View, by_rows, view_of
from windtunnel.errors import InputError
from windtunnel.recipe import Site, Tuned, is_rate
from windtunnel.scaling.adopt import Adopted
from windtunnel.scaling.initial import warn_of_other_values
from windtunnel.scaling.table import check_rates, geometry_of
from windtunnel.train.divided import together
from windtunnel.train.extras import told_to
from windtunnel.train.pack import groups_of, numbers_of, scaled

Work = Iterator[tuple[View, Tree, Site, Tree]]  # a tensor that has a gradient, its state, its site, its numbers


class TorchOptimizer(torch.optim.Optimizer):
    """A part (AdamW, Lion, Muon, Shampoo, one of your own) over the tensors of an adopted model.

    `part` has its numbers filled in, as at the base size; `scales` is what `wt.adopt(..., optimizer=part)` returned for
    this model, whose factors are applied. Frozen tensors are left out. `seed` is of parts that draw (`numbers`),
    `pretrained` says that the weights are not initial ones, as for `Adopted.groups`. State is kept in float32 where
    weights are narrower. Weights may be DTensors (FSDP2): the state is sharded as they are. A part that looks ahead
    needs a closure; one that needs the loss (VeLO) `step(loss=...)` or a closure that returns it; one that needs the
    horizon `horizon`, the steps of the whole training. The weights that a part wants judged are there within
    `judged()`. Raises InputError for a model that is not the table's, a number left open, a horizon that is missing,
    a table of another rule than that of a learned part's training, and tensors that FSDP1 has flattened.
    """

    def __init__(
        self, part: Any, model: nn.Module, scales: Adopted, *, seed: int = 0, pretrained: bool = False,
        horizon: int | None = None,
    ):  # fmt: skip
        _check(part)
        _check_horizon(part, horizon)
        held = scales._matched(model)
        _check_shapes(held, scales)
        check_rates(part, scales.table)
        if not pretrained:
            warn_of_other_values(held, scales.table)
        trained = [(g, [n for n in g.names if held[n].requires_grad]) for g in groups_of(scales.table)]
        trained = [(group, names) for group, names in trained if names]
        self.part, self.sites = part, [group.site for group, _ in trained]
        self.numbers = _own_numbers(part, scales, seed)
        self._alone: dict[int, bool] = {}
        self._made: dict[Any, Any] = {}
        self._said: set[str] = set()
        self._taken = 0  # steps, for what a part remarks
        self._horizon = {"horizon": float(horizon)} if horizon is not None else {}
        numbers = numbers_of(part)
        named = {"identity": part.identity} if hasattr(part, "identity") else {}
        made = [
            {"params": [(name, held[name]) for name in names], **_scaled(numbers, group.scale), **named}
            for group, names in trained
        ]
        super().__init__(made, dict(numbers))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only the table's own tensors: what another one is to the network is not known. Raises InputError."""
        if len(self.param_groups) >= len(self.sites):
            raise InputError(
                "This optimizer knows the tensors of its scale table only; unfreeze and adopt first, then make the "
                "optimizer of the whole model."
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | None = None, *, loss: Any = None,
        told: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Any:  # fmt: skip
        """Move every tensor that has a gradient; returns what the closure returned. Raises InputError.

        `loss`, a number, is that of the batch whose gradient this is, for a part that needs it; without it, it is what
        the closure returns. `told` are further tensors for the part's numbers, by the name of the parameter that they
        are about (what workers say besides their mean).
        """
        returned = None if closure is None else _with_grad(closure)
        shared, told = self._horizon | _told(self.part, loss, returned), told or {}
        self._remark()
        if hasattr(self.part, "look_ahead"):
            self._look_ahead(closure, shared, told)
        views, shares = list[View](), list[Any]()
        for view, state, site, hp in self._joined(self._work(shared, told)):
            if view.divided is not None:
                views.append(view)
                shares.append((view.divided.rule.update(view.grad, state, view.param, hp), view.divided.share))
            else:
                self._take(view, *self.part.update(view.grad, state, view.param, hp, site))
        for index, found in together(shares):
            self._take(views[index], *found)
            del found
        return returned

    def _take(self, view: View, move: Tensor, new: Tree) -> None:
        """A step and the state after it."""
        self.state[view.like].update(view.closed(new))
        view.move(move)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Within it the model has the weights that the part wants judged and saved (its `readout`, averages)."""
        views = self._held() if hasattr(self.part, "readout") else []
        kept = [(view, view.kept()) for view, _, _ in views]
        with torch.no_grad():
            for view, state, site in views:
                view.become(self.part.readout(view.param, state, site))
        try:
            yield
        finally:
            with torch.no_grad():
                for view, values in kept:
                    view.back(values)

    def load_state_dict(self, state_dict: Any) -> None:
        """As torch's; but the state keeps its own types, where torch would cast it to the weights'.

        Raises InputError for the state of a part with another identity (a learned optimizer's other weights).
        """
        own = getattr(self.part, "identity", None)
        others = {group.get("identity") for group in state_dict["param_groups"]} - {own}
        if others:
            saved, here = sorted(map(str, others))[0], own or type(self.part).__name__
            raise InputError(
                f"The state is of {saved}, and this optimizer is {here}; make it with the weights that the state was "
                f"made with."
            )
        super().load_state_dict(state_dict)
        steps = [int(state["steps"]) for state in self.state.values() if "steps" in state]
        self._taken = max(steps, default=0)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                here = self.state[param][name]
                if isinstance(value, Tensor) and here.dtype != value.dtype:
                    self.state[param][name] = value.to(here.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        held = super().__getstate__()
        return held | {
            "part": self.part,
            "sites": self.sites,
            "numbers": self.numbers,
            "_alone": {},
            "_made": {},
            "_said": set(),
            "_taken": self._taken,
            "_horizon": self._horizon,
        }

    # inside

    def _remark(self) -> None:
        """What the part has to say of the number of steps taken, as a warning, once for each thing it says."""
        self._taken += 1
        said = self.part.remark(self._taken) if hasattr(self.part, "remark") else ""
        if said and said not in self._said:
            self._said.add(said)
            warnings.warn(said, stacklevel=3)

    def _work(self, shared: Mapping[str, Any], told: Mapping[str, Mapping[str, Tensor]]) -> Work:
        """All tensors that have a gradient, each opened when its turn comes; a new one's state begins then, at its
        values of now."""
        self._check_gradients()
        for index, group in enumerate(self.param_groups):
            site, own = self.sites[index], self.numbers
            for name, param in zip(group["param_names"], group["params"], strict=True):
                if param.grad is None:
                    continue
                hp = {**self._hp(index, param.device), **_tensors(own.get(name, {}), param.device)}
                view = view_of(param, self.part, site, lambda index=index, hp=hp: self._rows_alone(index, hp))
                hp = hp | _placed(shared, param.device) | dict(told.get(name, {}))
                if not self.state[param]:
                    rule = view.divided.rule if view.divided is not None else None
                    first = self.part.init(view.param, site) if rule is None else rule.init(view.param)
                    self.state[param].update(view.closed(first))
                yield view, view.opened(self.state[param]), site, hp

    def _check_gradients(self) -> None:
        for group in self.param_groups:
            for name, param in zip(group["param_names"], group["params"], strict=True):
                if param.grad is not None and param.grad.is_sparse:
                    raise InputError(f"{name} has a sparse gradient; build the embedding with sparse=False.")

    def _held(self) -> list[tuple[View, Tree, Site]]:
        """All tensors that have a state, opened."""
        found = []
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                if self.state[param]:
                    hp, site = self._hp(index, param.device), self.sites[index]
                    view = view_of(param, self.part, site, lambda index=index, hp=hp: self._rows_alone(index, hp))
                    found.append((view, view.opened(self.state[param]), site))
        return found

    def _hp(self, index: int, device: torch.device) -> Tree:
        """A group's numbers as tensors, made anew when they change."""
        numbers = _numbers_now(self.param_groups[index], numbers_of(self.part))
        if self._made.get((index, device), (None,))[0] != numbers:
            self._made[index, device] = numbers, _tensors(numbers, device)
        return self._made[index, device][1]

    def _rows_alone(self, index: int, hp: Tree) -> bool:
        """Whether rows of this group's tensors may be updated apart; tried out once."""
        if index not in self._alone:
            sample = {name: value.cpu() for name, value in hp.items()}
            self._alone[index] = by_rows(self.part, self.sites[index], sample)
        return self._alone[index]

    def _joined(self, work: Work) -> Work:
        """With what the part sums, or seeks the largest of, over the whole network among the numbers."""
        if not hasattr(self.part, "totals") and not hasattr(self.part, "maxima"):
            return work
        held, whole = list(work), dict[str, Tensor]()
        for method, join in (("totals", torch.add), ("maxima", torch.maximum)):
            if not hasattr(self.part, method):
                continue
            for view, state, site, hp in held:
                for name, value in getattr(self.part, method)(view.grad, state, view.param, hp, site).items():
                    wide = value.to(hp["lr"].dtype)
                    whole[name] = join(whole[name], wide) if name in whole else wide
        return ((view, state, site, {**hp, **whole}) for view, state, site, hp in held)

    def _look_ahead(
        self, closure: Callable[[], Any] | None, shared: Mapping[str, Any], told: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Leave the gradient of the shifted weights in place of that of the weights."""
        if closure is None:
            raise InputError(
                f"{type(self.part).__name__} takes a second gradient at other weights: call step(closure), where "
                f"closure() clears the gradients, computes the loss of the same batch, calls backward and returns it."
            )
        work = list(self._joined(self._work(shared, told)))
        kept = [(view, view.kept()) for view, *_ in work]
        for view, state, site, hp in work:
            view.move(self.part.look_ahead(view.grad, state, view.param, hp, site))
        _with_grad(closure)
        for view, values in kept:
            view.back(values)


def _with_grad(closure: Callable[[], Any]) -> Any:
    with torch.enable_grad():
        return closure()


def _check(part: Any) -> None:
    """InputError for a part that is a class, leaves a number open, or has no rate."""
    if isinstance(part, type):
        raise InputError(f"part is the class {part.__name__}; give an object with its numbers: {part.__name__}(lr=...)")
    geometry_of(part)
    numbers = numbers_of(part)
    left = [f.name for f in fields(part) if isinstance(getattr(part, f.name), Tuned)]
    if left:
        said = ", ".join(f"{name}=..." for name in left)
        raise InputError(
            f"{type(part).__name__} leaves {', '.join(left)} open for tuning; give the numbers that were best at the "
            f"base size: {type(part).__name__}({said})."
        )
    if not numbers.get("lr", 0) > 0:
        raise InputError(
            f"{type(part).__name__} has lr {numbers.get('lr')}; schedulers multiply a rate called lr, so give one "
            f"above zero."
        )


def _check_horizon(part: Any, horizon: int | None) -> None:
    name = type(part).__name__
    if horizon is not None and horizon < 1:
        raise InputError(f"horizon is {horizon}; it is the number of steps of the whole training, at least 1.")
    if horizon is None and "horizon" in told_to(part):
        raise InputError(
            f"{name} follows how much of the training is done: give its steps, TorchOptimizer({name}(...), model, "
            f"scales, horizon=10_000)."
        )


def _told(part: Any, given: Any, returned: Any) -> dict[str, Any]:
    """The loss for the part's numbers, on whatever device it is: nothing waits for it. Raises InputError."""
    needed = "loss" in told_to(part)
    loss = returned if given is None and needed else given
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return {"loss": loss.detach().reshape(())}
    if isinstance(loss, int | float):
        return {"loss": float(loss)}
    if loss is None and not needed:
        return {}
    said = "neither was it given nor did a closure return it" if loss is None else f"what came is {loss!r:.60}"
    raise InputError(
        f"{type(part).__name__} needs the loss of every step, and {said}: call step(loss=loss) after loss.backward(), "
        f"or step(closure) with a closure that returns it."
    )


def _check_shapes(held: Mapping[str, nn.Parameter], scales: Adopted) -> None:
    for name, param in held.items():
        if tuple(param.shape) != scales.table.sites[name].shape:
            raise InputError(
                f"{name} has shape {tuple(param.shape)}, and the table says {scales.table.sites[name].shape}: "
                f"FullyShardedDataParallel has flattened it. Use fully_shard, which keeps shapes."
            )


def _scaled(numbers: Mapping[str, float], scale: Any) -> dict[str, float]:
    """A group's numbers, scaled as the engine does; `peak_lr` is what `lr` was before any schedule."""
    found = scaled(numbers, scale)
    return found | {"lr_mult": scale.lr, "peak_lr": found["lr"]}


def _own_numbers(part: Any, scales: Adopted, seed: int) -> dict[str, dict[str, float]]:
    """What the part says of single tensors, by name."""
    if not hasattr(part, "numbers"):
        return {}
    return {name: dict(own) for name, own in part.numbers(dict(scales.table.sites), seed, 0).items()}


def _numbers_now(group: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """A group's numbers as they are now: other rates follow `lr`."""
    numbers = {name: float(group[name]) for name in names}
    share = numbers["lr"] / float(group["peak_lr"])
    return {n: v * share if is_rate(n) and n != "lr" else v for n, v in numbers.items()}


def _tensors(numbers: Mapping[str, float], device: torch.device) -> dict[str, Tensor]:
    """64-bit tensors without axes, as the engine gives them; filled on the device, which waits for nothing."""
    return {name: torch.full((), value, dtype=_kind(device), device=device) for name, value in numbers.items()}


def _placed(told: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """The same of what is told at a step, a tensor or a number each."""
    return {name: torch.as_tensor(value, dtype=_kind(device), device=device) for name, value in told.items()}


def _kind(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
