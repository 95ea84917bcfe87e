"""Setup: what a check needs of your own training loop, and how it starts a run of it.

Everything is yours but the scales: the model of a size, the optimizer of parameter groups, the loss of a batch, the
batches. A newcomer's trap is `batches`: it must be a function of (seed, step) alone, so that all sizes see the same
data and differences between them are the sizes' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.recipe import Parametrization, Site
from windtunnel.scaling.adopt import Adopted, adopt, declared_geometry
from windtunnel.scaling.checks.words import listed
from windtunnel.scaling.rules.reach import GEOMETRIES
from windtunnel.scaling.sites import Roles
from windtunnel.scaling.sizes import Size, make


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A training loop of your own, as the checks run it.

    `build` makes the model of a size: build(width), build(width, depth) or build(rung). `optimizer(groups)` makes the
    optimizer of parameter groups: a torch class, or a lambda with further values. `geometry` is what `wt.adopt` takes
    as optimizer; None where `optimizer` is a class that it knows. `loss(model, batch)` is a scalar, `batches(seed,
    step)` a batch, the same at every size. `lr`, `eps` and `weight_decay` (PyTorch's, times lr) are the values at size
    `base`; `eps` None leaves the optimizer's own, unscaled. `rule`, `roles`, `branches` and `example` as in
    `wt.adopt`; sizes that grow in depth need one of the last two.
    """

    build: Callable[..., nn.Module]
    base: Size
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    loss: Callable[[nn.Module, Any], Tensor]
    batches: Callable[[int, int], Any]
    lr: float
    geometry: Any = None
    rule: Parametrization | None = None
    roles: Roles | None = None
    branches: Sequence[str] | None = None
    example: Any = None
    eps: float | None = None
    weight_decay: float = 0.0

    def model(self, size: Size) -> nn.Module:
        """The model of a size, as built."""
        return make(self.build, size)

    def scales(self, size: Size) -> Adopted:
        """The scale table of a size; raises InputError as `wt.adopt` does."""
        return adopt(
            self.build, base=self.base, target=size, optimizer=self.declared, rule=self.rule, roles=self.roles,
            branches=self.branches, example=self.example,
        )  # fmt: skip

    def geometry_of(self, site: Site) -> str:
        """The geometry that is declared for a tensor; raises InputError for a word without a rule."""
        word = declared_geometry(self.declared)(site)
        if word not in GEOMETRIES:
            known = ", ".join(map(repr, GEOMETRIES))
            raise InputError(f"The geometry of {site.role} tensors says {word!r}, which is none of {known}.")
        return word

    @property
    def declared(self) -> Any:
        """What says how far a step reaches: `geometry`, or the optimizer's class."""
        if self.geometry is None and not isinstance(self.optimizer, type):
            raise InputError(
                "Setup(optimizer=...) is a function, so how its steps grow is not known; say it: geometry=torch.optim."
                'AdamW, or a word, as in geometry="entrywise".'
            )
        return self.optimizer if self.geometry is None else self.geometry


@dataclass(frozen=True)
class Started:
    """A run before its first step: the initialised model with its multipliers, its scales and its optimizer."""

    model: nn.Module
    scales: Adopted
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class Lost:
    """A run whose loss was not finite at a step: an outcome, not an error."""

    size: Size
    seed: int
    step: int

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"size {self.size}, seed {self.seed}: loss not finite at step {self.step}"


@dataclass(frozen=True)
class Progress:
    """How far a check is: `done` of `runs` runs, and the one that is now trained (None: all are done)."""

    check: str
    done: int
    runs: int
    size: Size | None = None
    seed: int | None = None


Report = Callable[[Progress], None]


def start(setup: Setup, size: Size, seed: int, scales: Adopted | None = None) -> Started:
    """Build, initialise and scale the model of a size; vectors stay as built under the seed.

    `scales` are the size's, where they are known already; a learning rate does not change them.
    """
    scales = scales or setup.scales(size)
    torch.manual_seed(seed)
    model = setup.model(size)
    scales.initialize(model, seed=seed)
    groups = scales.groups(model, setup.lr, weight_decay=setup.weight_decay, eps=setup.eps)
    optimizer = setup.optimizer(groups)
    return Started(scales.attach(model), scales, optimizer)


def backward(setup: Setup, run: Started, seed: int, step: int) -> float:
    """Gradients of one batch, and its loss."""
    run.optimizer.zero_grad()
    loss = setup.loss(run.model, setup.batches(seed, step))
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise InputError(
            f"Setup.loss returned {_described(loss)}; it must return one number as a tensor, as cross_entropy does."
        )
    if isfinite(value := float(loss.detach())):
        loss.backward()
    return value


def train(setup: Setup, run: Started, seed: int, steps: int) -> Iterator[float]:
    """Losses of `steps` steps, each given before its step is taken; ends early with the first that is not finite."""
    for step in range(steps):
        value = backward(setup, run, seed, step)
        yield value
        if not isfinite(value):
            return
        run.optimizer.step()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's own generators set to a seed, and put back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def runs(check: str, sizes: Sequence[Size], seeds: Sequence[int], report: Report | None) -> Iterator[tuple[Size, int]]:
    """Every size and seed in turn, each under its seed, with progress reported before each and at the end."""
    if not seeds:
        raise InputError(f"{check}: no seeds were given; give at least two, as in seeds=(0, 1, 2).")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{check}: seeds={list(seeds)} holds one twice, which would count as more evidence.")
    total = len(sizes) * len(seeds)
    for done, (size, seed) in enumerate(product(sizes, seeds)):
        if report is not None:
            report(Progress(check, done, total, size, seed))
        with seeded(seed):
            yield size, seed
    if report is not None:
        report(Progress(check, total, total))


def axis_of(sizes: Sequence[Size]) -> tuple[str, list[int]]:
    """What grows over the sizes ("width" or "depth") and its values; InputError unless one of them grows alone."""
    if len(sizes) < 2:
        raise InputError(f"sizes are {listed(sizes)}; a check compares at least two, as in sizes=(64, 128, 256).")
    pairs = [_numbers(size) for size in sizes]
    if len({len(pair) for pair in pairs}) > 1 or not all(len(pair) in (1, 2) for pair in pairs):
        raise InputError(f"sizes are {listed(sizes)}; give widths, or (width, depth) pairs, not both.")
    moving = [axis for axis, values in enumerate(zip(*pairs, strict=True)) if len(set(values)) > 1]
    if len(moving) > 1:
        raise InputError(f"sizes {listed(sizes)} differ in width and in depth; let one grow at a time.")
    values = [pair[moving[0]] for pair in pairs] if moving else []
    if not values or sorted(set(values)) != values:
        raise InputError(f"sizes {listed(sizes)} do not grow; order them from small to large, each once.")
    return ("width", "depth")[moving[0]], values


def _numbers(size: Size) -> tuple[int, ...]:
    if isinstance(size, int):
        return (size,)
    return size if isinstance(size, tuple) else (size.width, size.depth)


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
