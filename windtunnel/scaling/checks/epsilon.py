"""Epsilon floor: which tensors' gradients are so small that Adam's epsilon, not the gradient, sets the step?

Gradients of hidden tensors shrink as one over the width, so an epsilon that was nothing at the base eats the steps of a
large model (2203.03466, appendix B.3; 2407.05872 removes it). A newcomer would look at the base, where all is well:
what matters is the size at which it will not be, which follows from how gradients fall over the ladder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, isnan, log, nan
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.scaling.branches import stacks
from windtunnel.scaling.checks import listen
from windtunnel.scaling.checks.setup import Lost, Report, Setup, Size, Started, axis_of, runs, start, train
from windtunnel.scaling.checks.updates import ROUNDING
from windtunnel.scaling.checks.words import SHOWN, listed, loss_of, record, table, told
from windtunnel.scaling.slopes import Slope, plain, slope_of
from windtunnel.scaling.wrapped import unwrapped

STEPS = 8
SHARE = 0.1  # guess: a tenth of a tensor's entries may be damped before the step is another one
FAR = 1e9  # a size beyond which an extrapolation is called infinite
SOURCE = "2203.03466, appendix B.3; 2407.05872; measured fall of |g|: 4x per 4x width in hidden tensors"
LIMITS = (
    "Gradients shrink in training too: a floor that is far away after a few steps may be near after a thousand; give "
    "`steps` of the run that you mean. The size is an extrapolation."
)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """One tensor: by size, the share of entries below epsilon, epsilon, and median |gradient|; how the latter falls.

    `limit` is the largest size at which the share stays below the bar, with `low` and `high` from the interval of the
    slope; infinite where gradients do not fall against epsilon, None where there is no slope.
    """

    name: str
    shares: tuple[float, ...]
    eps: tuple[float, ...]
    medians: tuple[float, ...]
    slope: Slope
    limit: tuple[float, float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain data; a limit of infinity is None."""
        return {"name": self.name, "shares": [plain(v) for v in self.shares], "eps": [plain(v) for v in self.eps],
                "medians": [plain(v) for v in self.medians], "slope": self.slope.to_json(),
                "limit": None if self.limit is None else [plain(v) for v in self.limit]}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EpsilonFloor:
    """Tensors by nearness to the floor. `ok` is False where one is on it at a size that was run, or a run was lost."""

    axis: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    steps: int
    share: float
    measure: str
    tensors: tuple[Floor, ...]
    lost: tuple[Lost, ...] = ()

    @property
    def below(self) -> list[Floor]:
        """Tensors of which more than `share` is below epsilon at some size."""
        return [each for each in self.tensors if any(s > self.share for s in each.shares)]

    @property
    def ok(self) -> bool | None:
        """Whether no tensor is on the floor; None where nothing could be measured."""
        return False if self.lost or self.below else (True if self.tensors else None)

    @property
    def verdict(self) -> str:
        """The same as words."""
        if self.ok is False:
            return "epsilon sets steps" if self.below else "runs were lost"
        return "epsilon plays no part" if self.ok else "cannot tell"

    @property
    def limit(self) -> float:
        """The first size at which epsilon is expected to set the steps of a tensor: the lowest of all limits."""
        found = [each.limit[1] for each in self.tensors if each.limit is not None]
        return min(found, default=nan)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        rows = [
            (each.name, " ".join(f"{s:.1%}" for s in each.shares), f"eps {each.eps[-1]:.1g}", f"|g| {each.slope}",
             _limited(each, self.axis))
            for each in self.tensors[:SHOWN]
        ]  # fmt: skip
        return told(
            f"epsilon floor over {self.axis} {listed(self.sizes)}, after {self.steps} steps, {len(self.seeds)} seeds: "
            f"{self.verdict}; {len(self.below)} of {len(self.tensors)} tensors have more than {self.share:.0%} of "
            f"their entries below it ({self.measure})",
            table(rows),
            "Lower eps, or let it follow the gradients: Setup(eps=...) and wt.adopt(...).groups(..., eps=...) scale it."
            if self.below else "",
            loss_of(self.lost),
            LIMITS,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        tensors = [each.to_json() for each in self.tensors]
        more = {"steps": self.steps, "share": self.share, "measure": self.measure, "limit": plain(self.limit)}
        return record("epsilon_floor", self, SOURCE, LIMITS, **more, tensors=tensors)


def epsilon_floor(
    setup: Setup,
    sizes: Sequence[Size],
    *,
    steps: int = STEPS,
    seeds: Sequence[int] = (0, 1),
    share: float = SHARE,
    report: Report | None = None,
) -> EpsilonFloor:
    """The share of every tensor's entries whose root second moment is below epsilon, and the size where it gets large.

    The root second moment is Adam's, bias-corrected; where the optimizer's state has none, |gradient| is taken. Entries
    without a gradient, or with one that is rounding (rows that no batch looked up, the bias of attention's keys), are
    left out. Raises InputError where the optimizer's groups hold no epsilon.
    """
    axis, values = axis_of(sizes)
    lost: list[Lost] = []
    seen = {each: _seen(setup, *each, steps, share, lost) for each in runs("epsilon floor", sizes, seeds, report)}
    _, named, common = listen.aligned(
        {each: run.tensors for each, run in seen.items() if run.tensors},
        {each: run.stacks for each, run in seen.items()},
    )
    floors = []
    for name in common:
        rows = [[seen[s, seed].tensors[named[s, seed][name]] for seed in seeds if (s, seed) in named] for s in sizes]
        if all(rows) and all(each.real for row in rows for each in row):
            floors.append(_floor(name, values, rows))
    return EpsilonFloor(
        axis=axis,
        sizes=tuple(sizes),
        seeds=tuple(seeds),
        steps=steps,
        share=share,
        measure=next((run.measure for run in seen.values()), ""),
        tensors=tuple(sorted(floors, key=lambda each: _nearness(each, share))),
        lost=tuple(lost),
    )


def _nearness(floor: Floor, share: float) -> tuple[float, float]:
    worst = max(floor.shares)
    return -worst if worst > share else 0.0, floor.limit[1] if floor.limit and not isnan(floor.limit[1]) else inf


@dataclass(frozen=True)
class _Entries:
    """One tensor of one run: share below epsilon, epsilon, median |gradient|, and the entry at rank `share`."""

    below: float
    eps: float
    median: float
    ranked: float
    real: bool


@dataclass(frozen=True)
class _Seen:
    stacks: dict[str, int]
    tensors: dict[str, _Entries]
    measure: str


def _seen(setup: Setup, size: Size, seed: int, steps: int, share: float, lost: list[Lost]) -> _Seen:
    run = start(setup, size, seed)
    counts = stacks(unwrapped(run.model))
    for step, loss in enumerate(train(setup, run, seed, steps)):
        if not isfinite(loss):
            lost.append(Lost(size, seed, step))
            return _Seen(counts, {}, "")
    moments = all("exp_avg_sq" in run.optimizer.state[p] for group in run.optimizer.param_groups
                  for p in group["params"] if p.grad is not None)  # fmt: skip
    tensors = _entries(run, moments, share)
    return _Seen(counts, tensors, "root second moments" if moments else "|gradient| of one batch")


def _entries(run: Started, moments: bool, share: float) -> dict[str, _Entries]:
    names = {id(param): name for name, param in unwrapped(run.model).named_parameters()}
    found: dict[str, tuple[Tensor, Tensor, float]] = {}
    for group in run.optimizer.param_groups:
        if not isinstance(group.get("eps"), float | int | Tensor):
            raise InputError(
                f"{type(run.optimizer).__name__} holds eps={group.get('eps')} in its parameter groups: no number that "
                f"is added to a root second moment, so there is no floor to look for."
            )
        for param in group["params"]:
            if param.grad is not None:
                values = _root(run, param, group) if moments else param.grad.abs()
                found[names[id(param)]] = values, param.grad.abs(), float(group["eps"])
    largest = max((float(grad.float().square().mean().sqrt()) for _, grad, _ in found.values()), default=nan)
    return {name: _entry(*each, share, ROUNDING * largest) for name, each in found.items()}


def _entry(values: Tensor, grad: Tensor, eps: float, share: float, least: float) -> _Entries:
    values, sized = values.float().flatten(), grad.float().flatten()
    touched = values[values > ROUNDING * values.max()]
    if touched.numel() == 0:
        return _Entries(nan, eps, nan, nan, False)
    rank = max(1, round(share * touched.numel()))
    some = sized[sized > 0]
    return _Entries(
        below=float((touched < eps).float().mean()),
        eps=eps,
        median=float(some.median()) if some.numel() else nan,
        ranked=float(torch.kthvalue(touched, rank).values),
        real=float(sized.square().mean().sqrt()) > least,
    )


def _root(run: Started, param: Tensor, group: dict[str, Any]) -> Tensor:
    """Adam's denominator before epsilon: the root of the second moment, corrected for its start at zero."""
    state = run.optimizer.state[param]
    beta, count = group.get("betas", (0.9, 0.999))[1], float(state.get("step", 0))
    return (state["exp_avg_sq"] / (1 - beta**count if count else 1)).sqrt()


def _floor(name: str, values: list[int], rows: list[list[_Entries]]) -> Floor:
    """Means over seeds, the fall of the median, and where the entry at rank `share` meets epsilon."""
    eps = tuple(row[0].eps for row in rows)
    return Floor(
        name=name,
        shares=tuple(sum(each.below for each in row) / len(row) for row in rows),
        eps=eps,
        medians=tuple(sum(each.median for each in row) / len(row) for row in rows),
        slope=_padded(values, [[each.median for each in row] for row in rows]),
        limit=_limit(values, [[each.ranked / each.eps if each.eps else inf for each in row] for row in rows]),
    )


def _padded(values: list[int], rows: list[list[float]]) -> Slope:
    most = max(map(len, rows))
    return slope_of(values, [row + [nan] * (most - len(row)) for row in rows])


def _limit(values: list[int], rows: list[list[float]]) -> tuple[float, float, float] | None:
    """Where the ratio to epsilon reaches one, going on from the largest size at the slope and at its two ends."""
    slope = _padded(values, rows)
    if isnan(slope.value):
        return None
    last = [log(each) for each in rows[-1] if each > 0]
    height, place = sum(last) / len(last), log(values[-1])
    if isnan(height):
        return None
    found = [place - height / s if s < 0 else inf for s in (slope.low, slope.value, slope.high)]
    ends = [exp(each) if each < log(FAR) else inf for each in found]
    return min(ends), ends[1], max(ends)


def _limited(floor: Floor, axis: str) -> str:
    if floor.limit is None or isnan(floor.limit[1]):
        return ""
    if floor.limit[1] == inf:
        return f"no {axis} in reach"
    low, middle, high = (f"{each:.3g}" if each < inf else "beyond reach" for each in floor.limit)
    return f"until {axis} {middle} [{low}, {high}]"
