"""Checks that train: the idea learns by the judge's measure, its outputs do not see what they foretell, and activations
and their moves keep their size when the model grows.

A newcomer would read the training loss: that is the objective's own number, which a factor or a penalty makes smaller
or larger than any bar.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from windtunnel.conformance.finding import Finding, failed, noted, passed
from windtunnel.conformance.packing import EQUAL
from windtunnel.conformance.places import place_of
from windtunnel.conformance.subject import CPU, Subject, at, leading, rung_of, swept
from windtunnel.recipe import Judge, is_rate
from windtunnel.runs import Run
from windtunnel.train.coordinates import STEPS, Module, coordinate_check
from windtunnel.train.engine import Engine

# Between knowing nothing (5.5 nats) and counting tokens (about 3.3) lie 2.2 nats. Judged on 1024 held-out tokens the
# mean of 2 seeds has a standard error near 0.1 (measured), so halfway is ten of those from either side: noise passes
# nothing that stands still and fails nothing that learns. The stock optimizers reach 2.9 to 3.3 at their best value.
HALFWAY = 0.5
# Slope of log size and log move of activations in log width, 16 to 64, at the best value: right rules stay within 0.3,
# rules wrong by a half or more show 0.46 or more (measured, 8 seeds: stock optimizers with their own and with others'
# geometries; the engine's own bars are for its larger widths). At larger values right rules reach 0.7.
SLOPE = 0.4
SEEDS = 8
SAME = 1e-4  # of an output's size: other kernels may round otherwise


def learns(subject: Subject) -> Finding:
    """Over the values that a study tries first, the best one learns, and it matters which one it is."""
    values, ends = swept(subject.recipe), [_end(runs) for runs in subject.sweep]
    best = int(np.argmin(ends))
    nothing, counting = _nothing(subject.judge), _counting(subject.judge)
    bar = nothing - HALFWAY * (nothing - counting)
    at_best = ", ".join(f"{name}={value:g}" for name, value in values[best].items())
    told = (
        f"judged loss {ends[best]:.2f} after {len(subject.sweep[best][0].curve['step'])} steps (mean of 2 seeds"
        f"{', at ' + at_best if at_best else ''}; knowing nothing gives {nothing:.2f}, counting tokens {counting:.2f})"
    )
    if not ends[best] < bar:
        return failed(
            f"it does not learn at any of {len(ends)} value(s) over its range: {told}",
            place_of(subject.suspect),
            'The step is added to the parameter, so it points against the gradient: -hp["lr"] * direction. If the sign '
            "is right, move the tuned range of lr.",
        )
    if (idle := _idle(subject)) is not None:
        what = f"{idle} changes nothing: {len(values)} values of it give the same losses; {told}"
        if not is_rate(idle):
            return noted(what)
        return failed(
            what, place_of(subject.suspect),
            f'Multiply the step by hp["{idle}"]: the schedule and the width rule act through it.',
        )  # fmt: skip
    return noted(f"learns, but slowly: {told}") if ends[best] > counting else passed(told)


def causal(subject: Subject) -> Finding:
    """No output depends on a token after its own place, where a token is what the output before it foretells."""
    inputs, targets = next(iter(subject.judge.data.held_out(size=2, tokens=1)))
    if targets.shape != inputs.shape or not np.array_equal(inputs[:, 1:], targets[:, :-1]):
        return noted("the judge's examples are no text of which each token is foretold from those before it")
    half = inputs.shape[1] // 2
    other = inputs.copy()
    other[:, half:] = (inputs[:, half:] + 1) % subject.judge.data.shape().classes
    outputs, changed = (_outputs(subject, each) for each in (inputs, other))
    before = (outputs[:, :half], changed[:, :half])
    far = float((before[0] - before[1]).abs().max() / outputs.abs().max().clamp(min=1e-30))
    if far <= SAME:
        return passed(f"outputs at the first {half} places are the same whatever the {half} tokens after them")
    return failed(
        f"outputs see what they are to foretell: with other tokens after place {half} those before it change by "
        f"{far:.1g} of the largest",
        subject.network,
        "Let the output at a place depend on the tokens up to it: a causal mask, or padding on the left; no shift "
        "(roll) from the right, no mean or norm over positions.",
    )


def width_stable(subject: Subject) -> Finding:
    """The coordinate check: activations of every module but the readout, and how far they move, stay flat in width."""
    recipe = subject.recipe.fill(_best(subject))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a module that outputs zeros has no logarithm; see below
        found = coordinate_check(recipe, base=rung_of(recipe, 1), widths=(1, 2, 4), seeds=SEEDS)
    slopes = [(m, what, slope.value) for m in found.modules if not m.readout for what, slope in m.slopes]
    judged = [each for each in slopes if math.isfinite(each[2])]
    if not judged:
        return noted("no module has an activation to measure")
    worst, what, slope = max(judged, key=lambda each: abs(each[2]))
    told = f"steepest {what} that of {worst.name}, slope {slope:+.2f} in width {found.widths[0]} to {found.widths[-1]}"
    told += _where(subject)
    return passed(f"{told} (bar {SLOPE})") if abs(slope) <= SLOPE else _unstable(subject, what, slope, told)


def _unstable(subject: Subject, quantity: str, slope: float, told: str) -> Finding:
    moving = "activations" if quantity == Module.SIZE else "the moves of activations in training"
    grow = "grow" if slope > 0 else "shrink"
    what = f"{moving} {grow} with width, so hyperparameters will not transfer: {told} (bar {SLOPE})"
    optimizer = subject.recipe.optimizer
    if optimizer == subject.base.optimizer:
        return failed(what, subject.network, "Look at the parametrization, the model and the transforms.")
    declared = getattr(type(optimizer), "geometry", None)
    says = f'geometry = "{declared}"' if isinstance(declared, str) else "the method geometry"
    return failed(
        what,
        place_of(declared if callable(declared) else optimizer),
        f'Look at {says} of {type(optimizer).__name__}: "entrywise" if every entry of a step is about lr in size '
        f'(Adam, sign), "gradient" if the step is proportional to the gradient (SGD), "spectral" if its singular '
        f"values are about lr x sqrt(fan_out / fan_in) (Muon); windtunnel.scaling.rules.reach lists all.",
    )


def _where(subject: Subject) -> str:
    """At which of the values swept that is, and whether it is the last one tried."""
    values, best, name = swept(subject.recipe), _best(subject), leading(subject.recipe)
    if name is None:
        return ""
    ends = best in (values[0], values[-1])
    return f", at {name}={best[name]:g}" + (", the end of its range" if ends else "")


def _best(subject: Subject) -> dict[str, float]:
    """The swept value with the lowest loss: what a study would carry to other widths."""
    return swept(subject.recipe)[int(np.argmin([_end(runs) for runs in subject.sweep]))]


def _end(runs: list[Run]) -> float:
    """Mean judged loss at the end; infinite if a run did not finish."""
    return float(np.mean([run.loss if run.finished and run.loss is not None else math.inf for run in runs]))


def _nothing(judge: Judge) -> float:
    """Nats per token of taking all outcomes for equally likely."""
    return math.log(judge.data.shape().classes)


def _counting(judge: Judge) -> float:
    """Nats per token of foretelling by frequency alone: what a model reaches that never looks at its input."""
    held_out = judge.data.held_out(size=64, tokens=judge.tokens)
    counts = np.bincount(np.concatenate([targets.ravel() for _, targets in held_out]))
    shares = counts[counts > 0] / counts.sum()
    return float(-shares @ np.log(shares))


def _idle(subject: Subject) -> str | None:
    """The field that was swept, where its values make no difference."""
    values, first = swept(subject.recipe), [runs[0] for runs in subject.sweep]
    curves = [np.append(run.curve["train_loss"], run.curve["judged_loss"]) for run in first]
    if len(values) < 2 or not all(
        len(curve) == len(curves[0]) and np.allclose(curve, curves[0], rtol=EQUAL, atol=0, equal_nan=True)
        for curve in curves
    ):
        return None
    return leading(subject.recipe)


def _outputs(subject: Subject, inputs: np.ndarray) -> Tensor:
    """Of the network that is judged, after a few steps: one that begins at zero shows nothing."""
    pack = subject.pack([(at(subject.recipe, 0.5), 0)], steps=STEPS + 1)
    engine = Engine(pack, CPU, packed=False, compile=False)
    state = engine.start()
    for _ in range(STEPS):
        engine.advance(state)
    with torch.no_grad():
        return functional_call(engine.model.eval(), engine.judging.weights(state, 0), (torch.from_numpy(inputs),))
