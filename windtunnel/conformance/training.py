"""Checks that train: the idea learns at all, and its activations keep their size when the model grows."""

from __future__ import annotations

import math
import warnings

import numpy as np

from windtunnel.conformance.finding import Finding, failed, noted, passed
from windtunnel.conformance.places import place_of
from windtunnel.conformance.subject import Subject, rung_of, swept
from windtunnel.recipe import Recipe
from windtunnel.runs import Run
from windtunnel.train.coordinates import Module, coordinate_check

LAST = 10  # steps whose mean is called the end
# Between the start (about 5.9 nats) and counting tokens (about 3.3) lie 2.6 nats. The mean of 2 seeds over the last 10
# steps has a standard error near 0.1 (measured: seeds 0.1 to 0.2 apart, batches 0.1), so halfway is ten of those from
# either side: noise passes nothing that stands still and fails nothing that learns. The stock optimizers reach 2.8 to
# 3.2 at their best value.
HALFWAY = 0.5
# Slope of log activation in log width, 16 to 64, at the largest value that learns: the stock optimizers stay within
# 0.2; with a wrong geometry each shows 0.5 or more (measured, three seeds; the engine's own bar of 0.18 is for its
# larger widths).
SLOPE = 0.35


def learns(subject: Subject) -> Finding:
    """Over the values that a study tries first, the best one learns."""
    ends = [_end(runs) for runs in subject.sweep]
    best = int(np.argmin(ends))
    start, counting = _start(subject.sweep[best]), _counting(subject.sweep[best][0], subject.recipe)
    bar = start - HALFWAY * (start - min(counting, start))
    values = swept(subject.recipe)[best]
    at_best = ", ".join(f"{name}={value:g}" for name, value in values.items())
    went = f"training loss {start:.2f} to {ends[best]:.2f} in {len(subject.sweep[best][0].curve['step'])} steps"
    told = f"{went} (mean of 2 seeds{', at ' + at_best if at_best else ''}; counting tokens gives {counting:.2f})"
    if not ends[best] < min(bar, start):
        return failed(
            f"it does not learn at any of {len(ends)} value(s) over its range: {told}",
            place_of(subject.suspect),
            'The step is added to the parameter, so it points against the gradient: -hp["lr"] * direction. If the sign '
            "is right, move the tuned range of lr.",
        )
    return noted(f"learns, but slowly: {told}") if ends[best] > counting else passed(told)


def width_stable(subject: Subject) -> Finding:
    """The coordinate check: activations of every module but the readout stay flat in width."""
    recipe = subject.recipe.fill(_largest_that_learns(subject))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a module that outputs zeros has no logarithm; see below
        found = coordinate_check(recipe, base=rung_of(recipe, 1), widths=(1, 4), seeds=3)
    hidden = [m for m in found.modules if not m.readout]
    judged = [m for m in hidden if math.isfinite(m.slope)]
    if not judged:
        return noted("no module has an activation to measure")
    worst = max(judged, key=lambda m: abs(m.slope))
    told = f"steepest module {worst.name}, slope {worst.slope:+.2f} in width {found.widths[0]} to {found.widths[-1]}"
    return passed(f"{told} (bar {SLOPE})") if abs(worst.slope) <= SLOPE else _unstable(subject, worst, told)


def _unstable(subject: Subject, worst: Module, told: str) -> Finding:
    grows = "grow" if worst.slope > 0 else "shrink"
    what = f"activations {grows} with width, so hyperparameters will not transfer: {told} (bar {SLOPE})"
    optimizer = subject.recipe.optimizer
    if optimizer == subject.base.optimizer:
        return failed(what, place_of(subject.idea), "Look at the parametrization, the model and the transforms.")
    declared = getattr(type(optimizer), "geometry", None)
    says = f'geometry = "{declared}"' if isinstance(declared, str) else "the method geometry"
    return failed(
        what,
        place_of(declared if callable(declared) else optimizer),
        f'Look at {says} of {type(optimizer).__name__}: "entrywise" if every entry of a step is about lr in size '
        f'(Adam, sign), "gradient" if the step is proportional to the gradient (SGD), "spectral" if its singular '
        f"values are about lr x sqrt(fan_out / fan_in) (Muon); windtunnel.scaling.rules.reach lists all.",
    )


def _largest_that_learns(subject: Subject) -> dict[str, float]:
    """The largest swept value that still goes half of the best one's way down: there updates weigh most."""
    ends = [_end(runs) for runs in subject.sweep]
    start, best = _start(subject.sweep[int(np.argmin(ends))]), min(ends)
    learned = [i for i, end in enumerate(ends) if end <= (start + best) / 2]
    return swept(subject.recipe)[learned[-1] if learned else int(np.argmin(ends))]


def _end(runs: list[Run]) -> float:
    """Mean training loss of the last steps; infinite if a run did not finish."""
    return float(np.mean([run.curve["train_loss"][-LAST:].mean() if run.finished else math.inf for run in runs]))


def _start(runs: list[Run]) -> float:
    return float(np.mean([run.curve["train_loss"][0] for run in runs]))


def _counting(run: Run, recipe: Recipe) -> float:
    """Nats per token of predicting by frequency alone: what a model reaches that never looks at its input."""
    steps, size = len(run.curve["step"]), run.spec.rung.batch or 1
    batches = [recipe.data.batch(seed=run.spec.seed, step=step, size=size)[1].ravel() for step in range(steps)]
    counts = np.bincount(np.concatenate(batches), minlength=recipe.data.shape().classes)
    return float(-np.mean(np.log(counts[np.concatenate(batches[-LAST:])] / counts.sum())))
