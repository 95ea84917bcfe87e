"""Coordinate check: do activations, and how far training moves them, stay of one size as the model grows?

Both count. Activations that keep their size may do so because nothing is learnt (the lazy limit); what training adds
must keep its size too (Yang et al. 2203.03466, appendix D.1; 2310.17813). A newcomer would take a flat check as proof
that the learning rate transfers. It is not: the check sees the first steps only, and no decay, horizon or noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any

import torch

from windtunnel.notebook import printed
from windtunnel.scaling.branches import stacks
from windtunnel.scaling.checks import listen
from windtunnel.scaling.checks.setup import Lost, Report, Setup, Size, axis_of, runs, seeded, start, train
from windtunnel.scaling.checks.words import counted, lines_table, listed, loss_of, record, told
from windtunnel.scaling.sites import reading_modules
from windtunnel.scaling.slopes import Line, line_of, overall
from windtunnel.scaling.wrapped import unwrapped

STEPS = 4
# Exponents of width and depth rules come in halves, so a wrong one shows as 0.5 or more; half of that tells it from a
# right one. At widths 32 to 128 moves under muP still shrink by up to 0.24 (measured), so small ladders may not tell.
BAR = 0.25
# The first changes of logits are in part seen through the readout's random values, which fall as width^-1/2; the rest
# keeps its size. Under muP they fall by 0.15 to 0.47 at widths 32 to 256 (measured: AdamW, SGD, tied), T5's by 1.0.
LIMIT = 0.5
WRONG = 0.4  # a little less than the least that a wrong exponent shows
SMALL = "Nothing shrinks by as much as a wrong exponent would (0.5); small sizes do that too: try larger ones."
IDLE = (
    "The readout {} learns less and less as the {} grows: only its first, random logits may shrink. Where the model "
    "scales its input by itself (T5 with a tied table: by width^-1/2), let it use the base's width at every size."
)
SOURCE = "Yang et al. 2203.03466, D.1; moves as well as sizes: 2310.17813"
LIMITS = (
    "A flat check does not prove that the learning rate transfers: it sees a few steps. docs/flat-but-no-transfer.md "
    "says what else to look at."
)


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """A coordinate check: one line for each module, quantity ("size" or "move") and step; `ok` rests on the last step.

    `ok` is True where every judged slope lies within the bar, False where one lies beyond it or a run was lost, None
    where intervals cannot tell.
    """

    axis: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    steps: int
    lines: tuple[Line, ...]
    lost: tuple[Lost, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether activations and their moves are flat."""
        return False if self.lost else overall(self.last)

    @property
    def verdict(self) -> str:
        """The same as words."""
        return {True: "flat", False: "not flat", None: "cannot tell"}[self.ok]

    @property
    def last(self) -> list[Line]:
        """The lines after the last step."""
        return [line for line in self.lines if line.step == self.steps]

    @property
    def _mild(self) -> bool:
        """Whether all that is wrong shrinks, and by less than a wrong exponent would."""
        wrong = [line for line in self.last if line.judged and line.right is False]
        return bool(wrong) and all(-WRONG < line.slope.value < 0 for line in wrong)

    @property
    def _idle(self) -> str:
        """The readout whose moves shrink by more than random values explain; empty where none does."""
        return next((line.name for line in self.last if line.limit == LIMIT and _too_steep(line)), "")

    _repr_pretty_ = printed

    def __str__(self) -> str:
        open_ = sum(line.right is None for line in self.last if line.judged)
        return told(
            f"coordinate check over {self.axis} {listed(self.sizes)}, after {self.steps} steps, {len(self.seeds)} "
            f"seeds: {self.verdict} ({counted(self.last, 'within the bar')})",
            lines_table(self.last),
            f"{open_} slopes cannot be told from the bar: give more seeds, or sizes farther apart." if open_ else "",
            SMALL if self._mild else "",
            IDLE.format(self._idle, self.axis) if self._idle else "",
            loss_of(self.lost),
            LIMITS,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        lines = [line.to_json() for line in self.lines]
        return record("coordinates", self, SOURCE, LIMITS, steps=self.steps, lines=lines)


def coordinates(
    setup: Setup,
    sizes: Sequence[Size],
    *,
    steps: int = STEPS,
    seeds: Sequence[int] = (0, 1, 2),
    bar: float = BAR,
    report: Report | None = None,
) -> Coordinates:
    """Train every size for a few steps and fit, module by module, how sizes and moves of activations grow.

    A module's size is its mean |output|, its move the mean |change of the output since initialisation|, both on one
    batch that is not trained on (that of step `steps`). `bar` is the largest |slope| called flat. Sizes of readouts may
    shrink, for muP's random logits do, and their moves by what these explain (`LIMIT`); in depth so may all that is
    inside a growing stack, for each of more blocks does less: there the last block's output counts. A loss that is not
    finite ends a run and is reported in `lost`. Raises InputError for sizes that do not grow one at a time.
    """
    axis, values = axis_of(sizes)
    lost: list[Lost] = []
    watched = {each: _watched(setup, *each, steps, lost) for each in runs("coordinates", sizes, seeds, report)}
    growing, named, common = listen.aligned(
        {each: run.seen for each, run in watched.items()}, {each: run.stacks for each, run in watched.items()}
    )
    lines = []
    for name in common:
        readout = all(named[each][name] in run.readouts for each, run in watched.items())
        logits = all(named[each][name] in run.logits for each, run in watched.items())
        branch = listen.inside(name, growing)
        for step in range(steps + 1):
            for at, quantity in enumerate(("size", "move") if step else ("size",)):
                found = [[watched[s, seed].at(named[s, seed][name], step, at) for seed in seeds] for s in sizes]
                limit = LIMIT if quantity == "move" and logits and not branch else inf
                lines.append(_line(name, quantity, step, values, found, bar, readout or branch, limit))
    return Coordinates(
        axis=axis, sizes=tuple(sizes), seeds=tuple(seeds), steps=steps, lines=tuple(lines), lost=tuple(lost)
    )


@dataclass
class _Watched:
    """What one run showed: by module, (size, move) at every step that it reached."""

    stacks: dict[str, int]
    readouts: set[str]
    logits: set[str]
    seen: dict[str, list[tuple[float, float]]]

    def at(self, name: str, step: int, quantity: int) -> float:
        values = self.seen[name]
        return values[step][quantity] if step < len(values) else nan


def _watched(setup: Setup, size: Size, seed: int, steps: int, lost: list[Lost]) -> _Watched:
    run = start(setup, size, seed)
    bare, batch = unwrapped(run.model), setup.batches(seed, steps)
    before = _outputs(setup, run.model, batch, seed)
    readouts = listen.like(reading_modules(bare, run.scales.table.sites), before)
    logits = listen.like(reading_modules(bare, run.scales.table.sites, ("readout", "tied")), before)
    seen = {name: [(listen.mean_absolute(outputs), 0.0)] for name, outputs in before.items()}
    for step, loss in enumerate(train(setup, run, seed, steps + 1)):
        if not isfinite(loss):
            lost.append(Lost(size, seed, step))
        if step and isfinite(loss):
            for name, outputs in _outputs(setup, run.model, batch, seed).items():
                pair = listen.mean_absolute(outputs), listen.mean_change(outputs, before[name])
                seen.setdefault(name, []).append(pair)
        if step == steps:
            break
    return _Watched(stacks(bare), readouts, logits, seen)


def _outputs(setup: Setup, model: Any, batch: Any, seed: int) -> listen.Outputs:
    """Outputs of all modules on a batch; dropout draws the same every time."""
    with seeded(seed), torch.no_grad(), listen.outputs_of(unwrapped(model)) as seen:
        setup.loss(model, batch)
    return seen


def _line(
    name: str,
    quantity: str,
    step: int,
    values: list[int],
    found: list[list[float]],
    bar: float,
    may_shrink: bool,
    limit: float,
) -> Line:
    still = all(value == 0 for row in found for value in row)  # an embedding of positions, a module not yet reached
    judged = not still and step > 0
    more = {"may_shrink": may_shrink, "limit": limit, "judged": judged}
    return line_of(name, quantity, step, values, found, bar=bar, **more)


def _too_steep(line: Line) -> bool:
    return line.judged and line.right is False and line.slope.value < 0
