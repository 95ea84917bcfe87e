"""Linearisation distance: as depth grows, do blocks still learn more than their linearisation at the initial weights?

A block F with fixed input x moves by training from F(w0) to F(w1). Its linear part is the derivative along w1 - w0; the
distance is |F(w1) - F(w0) - linear| / |linear|. Where residual branches are multiplied by depth^-a and rates by
depth^(a - 1) it goes as depth^(a - 1): flat at a = 1 alone (CompleteP), falling as depth^-1/2 at a = 1/2, where deep
blocks become linear models of themselves. A newcomer would watch activations; both cases are flat there.

Read of 2505.01618: its authors' notebook for figure 6 (nanoGPT-mup, relative_distance_from_linearization.ipynb) and a
derivation of its equation 6 by others (boris-hanin/ai-theorist); not the paper itself. The notebook measures one entry
of one branch with one trained tensor, over |F(w0) + linear|. Here it is the norm over all entries of a block and all
its tensors, over |linear|: the ratio of equation 6, in which a skip connection inside the block cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.scaling.branches import stacks
from windtunnel.scaling.checks import listen
from windtunnel.scaling.checks.coordinates import BAR
from windtunnel.scaling.checks.setup import Lost, Report, Setup, Size, axis_of, runs, seeded, start, train
from windtunnel.scaling.checks.words import SHOWN, listed, loss_of, record, table, told
from windtunnel.scaling.sizes import built
from windtunnel.scaling.slopes import Line, line_of, overall, worst_first
from windtunnel.scaling.wrapped import unwrapped

STEPS = 4
# The derivative is a central difference over this share of the way: any module has one, also those with fused attention
# or a backward pass of their own. Its error is about 1/1000 of the third-order part, and rounding 1e-5 in float32.
SHARE = 1 / 32
SOURCE = "2505.01618 (CompleteP), figure 6 and equation 6; read in its authors' notebook"
LIMITS = (
    "It sees a few steps at one lr, and one block at a time with its input held; that deep blocks still learn features "
    "does not prove that the learning rate transfers over depth."
)


@dataclass(frozen=True, kw_only=True)
class Linearisation:
    """The distance of the first, middle and last block of each stack over depth (or width).

    `ok` is True where no distance shrinks or grows, False where one does or a run was lost, None where intervals
    cannot tell.
    """

    axis: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    steps: int
    lines: tuple[Line, ...]
    lost: tuple[Lost, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether blocks stay as far from linear at every size."""
        return False if self.lost else overall(self.lines)

    @property
    def verdict(self) -> str:
        """The same as words."""
        if self.ok is not False:
            return {True: "as far from linear at every size", None: "cannot tell"}[self.ok]
        wrong = {line.verdict for line in self.lines if line.right is False}
        if "shrinks" in wrong:
            return f"blocks become linear with {self.axis}"
        return f"blocks leave the linear ever faster with {self.axis}" if wrong else "runs were lost"

    _repr_pretty_ = printed

    def __str__(self) -> str:
        advice = (
            "Residual branches times 1/depth, with blocks' rates kept (CompleteP), hold it; 1/sqrt(depth) does not."
        )
        return told(
            f"linearisation distance over {self.axis} {listed(self.sizes)}, after {self.steps} steps, "
            f"{len(self.seeds)} seeds: {self.verdict}",
            table([(line.name, *(f"{value:.3g}" for value in line.values), str(line.slope), line.verdict)
                   for line in worst_first(self.lines)[:SHOWN]]),
            advice if self.axis == "depth" and self.verdict.startswith("blocks become") else "",
            loss_of(self.lost),
            LIMITS,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        lines = [line.to_json() for line in self.lines]
        return record("linearisation_distance", self, SOURCE, LIMITS, steps=self.steps, lines=lines)


def linearisation_distance(
    setup: Setup,
    sizes: Sequence[Size],
    *,
    steps: int = STEPS,
    seeds: Sequence[int] = (0, 1, 2),
    bar: float = BAR,
    blocks: Sequence[str] | None = None,
    report: Report | None = None,
) -> Linearisation:
    """Train every size for a few steps and measure how far the blocks' outputs are from their linearisation.

    `blocks` are patterns of modules; they should be whole residual branches, as in ("*.attention", "*.mlp"). None
    takes the parts of blocks that hold two layers or more, else the blocks: members of the module lists that get longer
    with depth, of every list where the sizes are widths. In a block of two branches what one does to the other counts
    too, which dies out as 1/depth and makes shallow ladders fall. Raises InputError for models without blocks, for
    weights below float32, whose rounding would drown the distance, and for sizes that do not grow one at a time.
    """
    axis, values = axis_of(sizes)
    lost: list[Lost] = []
    found = {each: _distances(setup, *each, sizes, blocks, steps, lost)
             for each in runs("linearisation", sizes, seeds, report)}  # fmt: skip
    lines = []
    for name in found[sizes[0], seeds[0]]:
        rows = [[found[size, seed].get(name, nan) for seed in seeds] for size in sizes]
        lines.append(line_of(name, "distance", steps, values, rows, bar=bar))
    return Linearisation(
        axis=axis, sizes=tuple(sizes), seeds=tuple(seeds), steps=steps, lines=tuple(lines), lost=tuple(lost)
    )


@dataclass(frozen=True)
class Call:
    """One call of a block: its arguments, and copies of its tensors before training."""

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: dict[str, Tensor]


def _distances(
    setup: Setup,
    size: Size,
    seed: int,
    sizes: Sequence[Size],
    blocks: Sequence[str] | None,
    steps: int,
    lost: list[Lost],
) -> dict[str, float]:
    run = start(setup, size, seed)
    calls = _calls(setup, run.model, _blocks(setup, run.model, sizes, blocks), setup.batches(seed, steps), seed)
    for step, loss in enumerate(train(setup, run, seed, steps)):
        if not isfinite(loss):
            lost.append(Lost(size, seed, step))
            return dict.fromkeys(calls, nan)
    return {name: distance(call, seed) for name, call in calls.items()}


def _blocks(
    setup: Setup, model: nn.Module, sizes: Sequence[Size], patterns: Sequence[str] | None
) -> dict[str, nn.Module]:
    """Blocks by a name that is the same at every size."""
    bare = unwrapped(model)
    here, modules = stacks(bare), dict(bare.named_modules())
    growing = listen.growing_stacks([stacks(built(setup.build, size)) for size in (sizes[0], sizes[-1])])
    lists = growing or {name for name in here if isinstance(modules[name], nn.ModuleList)}
    if patterns is None:
        blocks = [f"{stack}.{index}".removeprefix(".") for stack in sorted(lists) for index in range(here[stack])]
        names = [part for name in blocks for part in _parts(name, modules[name])]
    else:
        names = [name for name in modules if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        raise InputError(
            "The model has no list of blocks that gets longer over the sizes, or no module matches; say which modules "
            "to linearise: blocks=('*.attention', '*.mlp')."
        )
    return {place: modules[name] for place, name in listen.by_place(dict.fromkeys(names), here, lists).items()}


def _parts(name: str, block: nn.Module) -> list[str]:
    """The children of a block that hold two layers or more, or the block itself where none does."""
    found = [child for child, module in block.named_children() if sum(p.ndim > 1 for p in module.parameters()) > 1]
    return [f"{name}.{child}" for child in found] or [name]


def _calls(setup: Setup, model: nn.Module, blocks: dict[str, nn.Module], batch: Any, seed: int) -> dict[str, Call]:
    """What each block is called with on a batch, and copies of its tensors."""
    calls: dict[str, Call] = {}

    def listener(name: str) -> Any:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            before = {n: p.detach().clone() for n, p in block.named_parameters()}
            if any(p.is_floating_point() and p.dtype.itemsize < 4 for p in before.values()):
                raise InputError(f"{name} has weights of {next(iter(before.values())).dtype}; build it in float32.")
            calls.setdefault(name, Call(block, args, kwargs, before))

        return hook

    handles = [block.register_forward_pre_hook(listener(n), with_kwargs=True) for n, block in blocks.items()]
    with seeded(seed), torch.no_grad():
        setup.loss(model, batch)
    for handle in handles:
        handle.remove()
    return calls


def distance(call: Call, seed: int = 0) -> float:
    """|F(w1) - F(w0) - linear| / |linear| of a block whose tensors have moved since `before`; NaN where none has.

    The derivative along w1 - w0 is a central difference. Raises InputError for a block that returns no tensor.
    """
    move = {n: p.detach() - call.before[n] for n, p in call.block.named_parameters()}

    def output(share: float) -> Tensor:
        weights = {n: call.before[n] + share * move[n] for n in move}
        with seeded(seed), torch.no_grad():
            found = listen.first_tensor(functional_call(call.block, weights, call.args, call.kwargs))
        if found is None:
            raise InputError(f"{type(call.block).__name__} returns no floating tensor, so it has no linearisation.")
        return found.double()

    linear = (output(SHARE) - output(-SHARE)) / (2 * SHARE)
    beyond = output(1.0) - output(0.0) - linear
    scale = float(linear.norm())
    return float(beyond.norm()) / scale if scale > 0 else nan
