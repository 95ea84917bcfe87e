"""What one optimizer step is, tensor by tensor, beside what was declared and what is needed.

Two questions, and two ways to fail. Is the step as large as the optimizer's geometry says? A wrong word or an epsilon
that is too large fails here. Does it reach as far at every size: does its spectral norm go as sqrt(fan_out / fan_in)
over the multipliers (2310.17813)? A wrong rule fails there. A newcomer would watch the root mean square alone: Muon's
and Adam's go as different powers of the width, and both are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import Any

import torch
from torch import Tensor

from windtunnel.notebook import printed
from windtunnel.recipe import Site
from windtunnel.scaling.branches import layers_of, stacks
from windtunnel.scaling.checks import listen
from windtunnel.scaling.checks.coordinates import BAR
from windtunnel.scaling.checks.setup import Lost, Report, Setup, Size, axis_of, runs, start, train
from windtunnel.scaling.checks.words import counted, lines_table, listed, loss_of, record, told
from windtunnel.scaling.slopes import Line, line_of, overall, slope_of
from windtunnel.scaling.table import Scale
from windtunnel.scaling.wrapped import unwrapped

STEPS = 4
# A gradient this much smaller than the model's largest (root mean squares) is float32's rounding: the bias of
# attention's keys has no other, 2e-8 of the largest at widths 32 to 256 (measured), whatever the optimizer makes of it.
ROUNDING = 1e-6
SOURCE = "spectral condition: 2310.17813; sizes of steps: windtunnel/scaling/rules/reach.py"
LIMITS = (
    "Right steps keep every layer's move alike while steps line up with activations, early in training; they do not "
    "prove that the learning rate transfers."
)


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The steps of an optimizer over sizes, a line for each tensor and quantity.

    "rms" and "norm" are the step's root mean square and spectral norm beside what the declared geometry and the table's
    rates give; the one that the geometry speaks of is judged. "reach" is the spectral norm beside what moves outputs
    alike. `ok` is True where all judged slopes are as expected, False where one is not or a run was lost, None where
    intervals cannot tell.
    """

    axis: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    step: int
    lines: tuple[Line, ...]
    lost: tuple[Lost, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether steps are as predicted."""
        return False if self.lost else overall(self.lines)

    @property
    def verdict(self) -> str:
        """The same as words, saying which of the two questions fails."""
        if self.ok is not False:
            return {True: "as predicted", None: "cannot tell"}[self.ok]
        wrong = {line.quantity for line in self.lines if line.judged and line.right is False}
        if wrong & {"rms", "norm"}:
            return "not what the geometry says"
        return "moves outputs unequally" if wrong else "runs were lost"

    _repr_pretty_ = printed

    def __str__(self) -> str:
        remedy = {
            "not what the geometry says": "The optimizer's steps do not grow as its geometry declares: state another "
            "word (windtunnel.scaling.rules.reach.GEOMETRIES), or look for clipping and a large epsilon.",
            "moves outputs unequally": "The rule's rates make steps reach farther, or less far, at larger sizes: take "
            "another rule.",
        }
        return told(
            f"step {self.step} of the optimizer over {self.axis} {listed(self.sizes)}, {len(self.seeds)} seeds: "
            f"{self.verdict} ({counted(self.lines, 'as expected')})",
            lines_table(self.lines),
            remedy.get(self.verdict),
            loss_of(self.lost),
            LIMITS,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        lines = [line.to_json() for line in self.lines]
        return record("updates", self, SOURCE, LIMITS, step=self.step, lines=lines)


def updates(
    setup: Setup,
    sizes: Sequence[Size],
    *,
    steps: int = STEPS,
    seeds: Sequence[int] = (0, 1, 2),
    bar: float = BAR,
    report: Report | None = None,
) -> Updates:
    """Measure the last of `steps` steps at every size, fit its growth by tensor and hold it against the rule.

    Decoupled decay is part of a step; steps of zero (frozen tensors) and of rounding (the bias of attention's keys) are
    listed, not judged. Raises InputError for an unknown geometry and for sizes that do not grow one at a time.
    """
    axis, values = axis_of(sizes)
    lost: list[Lost] = []
    measured = {each: _measured(setup, *each, steps, lost) for each in runs("updates", sizes, seeds, report)}
    _, named, common = listen.aligned(
        {each: run.tensors for each, run in measured.items()}, {each: run.stacks for each, run in measured.items()}
    )
    lines = []
    for name in common:
        rows = [[measured[s, seed].tensors[named[s, seed][name]] for seed in seeds] for s in sizes]
        for quantity in rows[0][0]:
            lines.append(_line(name, quantity, steps, values, [[each[quantity] for each in row] for row in rows], bar))
    return Updates(axis=axis, sizes=tuple(sizes), seeds=tuple(seeds), step=steps, lines=tuple(lines), lost=tuple(lost))


@dataclass(frozen=True)
class _Found:
    """One quantity of one tensor in one run: its value, what it should be proportional to, and whether it counts."""

    value: float
    expected: float
    judged: bool


@dataclass(frozen=True)
class _Measured:
    """One run, by tensor and quantity."""

    stacks: dict[str, int]
    tensors: dict[str, dict[str, _Found]]


def _measured(setup: Setup, size: Size, seed: int, steps: int, lost: list[Lost]) -> _Measured:
    run = start(setup, size, seed)
    bare, table = unwrapped(run.model), run.scales.table
    counts = stacks(bare)
    params = dict(bare.named_parameters())
    before: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for step, loss in enumerate(train(setup, run, seed, steps + 1)):
        if not isfinite(loss):
            lost.append(Lost(size, seed, step))
            before = {}
        if step == steps:
            break
        if step == steps - 1 and isfinite(loss):
            before = {name: param.detach().clone() for name, param in params.items()}
            gradients = {name: param.grad.clone() for name, param in params.items() if param.grad is not None}
    tensors, least = {}, ROUNDING * max([_rms(gradient) for gradient in gradients.values()], default=nan)
    for name, site in table.sites.items():
        scale, word = table.scales[name], setup.geometry_of(site)
        layers = layers_of(name, {stack: (count, count) for stack, count in counts.items()})[0]
        if name in before and name in gradients:
            moved, real = params[name].detach() - before[name], _rms(gradients[name]) > least
            tensors[name] = _quantities(moved, gradients[name], before[name], site, scale, word, layers, real)
        else:
            nothing = torch.full(site.shape, nan)
            tensors[name] = _quantities(nothing, nothing, nothing, site, scale, word, layers, False)
    return _Measured(counts, tensors)


def _quantities(
    step: Tensor, gradient: Tensor, weights: Tensor, site: Site, scale: Scale, word: str, layers: int, real: bool
) -> dict[str, _Found]:
    """Root mean square, spectral norm and reach of a step, beside what each should be proportional to."""
    out, into = site.fan_out, site.fan_in
    entries = {"gradient": _rms(gradient), "entrywise": 1.0, "relative": _rms(weights)}
    norms = {"spectral": sqrt(out / into), "orthogonal": 1.0, "matched": sqrt(max(out, into))}
    if step.ndim < 2:
        return {"rms": _Found(_rms(step), scale.lr * entries[word], real)} if word in entries else {}
    norm, full_rank = spectral_norm(step, site), sqrt(min(out, into) / (out * into))
    # as a lookup a tied table is not multiplied; what the blocks of a stack do adds up
    multipliers = (1.0 if site.role == "tied" else scale.forward) * scale.residual * layers
    rms = scale.lr * (entries[word] if word in entries else norms[word] * full_rank)
    found = {"rms": _Found(_rms(step), rms, real and word in entries)}
    if word in norms:
        found["norm"] = _Found(norm, scale.lr * norms[word], real)
    return found | {"reach": _Found(norm, sqrt(out / into) / multipliers, real)}


def spectral_norm(matrix: Tensor, site: Site) -> float:
    """The largest singular value of a tensor as a matrix (out, in); of stacked copies, the largest of all."""
    copies = max(1, matrix.numel() // (site.fan_in * site.fan_out))
    flat = matrix.float().reshape(copies, matrix.shape[1 if copies > 1 else 0], -1)
    if not torch.isfinite(flat).all():
        return nan
    return float(torch.linalg.matrix_norm(flat, ord=2).max())


def _rms(tensor: Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())


def _line(name: str, quantity: str, step: int, values: list[int], rows: list[list[_Found]], bar: float) -> Line:
    still = all(each.value == 0 for row in rows for each in row)
    expected = slope_of(values, [[each.expected for each in row] for row in rows]).value
    judged = all(each.judged for row in rows for each in row) and not still
    found = [[each.value for each in row] for row in rows]
    return line_of(name, quantity, step, values, found, bar=bar, expected=expected, judged=judged)
