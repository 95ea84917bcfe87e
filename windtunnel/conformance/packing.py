"""Checks of packing: it trains at all, runs can be trained together, and each is then the run trained alone."""

from __future__ import annotations

import math
import time

import numpy as np

from windtunnel.conformance.finding import Finding, failed, noted, passed
from windtunnel.conformance.places import place_of, place_of_error
from windtunnel.conformance.remedies import explain
from windtunnel.conformance.subject import CONTEXT, STEPS, Subject, at, bench, pack_of, trained
from windtunnel.errors import InputError
from windtunnel.recipe import Judge
from windtunnel.runs import Outcome, Run
from windtunnel.train.pack import Pack

# A pack's losses were equal to the last bit for every stock optimizer (measured, torch 2.13 on a CPU). Other batched
# kernels may round otherwise: float32 carries 6e-8, and 20 steps leave room for a few such roundings.
EQUAL = 1e-6
# Near float32's largest number, 3.4e38: what it multiplies is infinite within a step or two.
ABSURD = 1e38


def trains(subject: Subject) -> Finding:
    """Three runs can be trained, one after the other."""
    first = subject.alone[0]
    return passed(f"{len(subject.alone)} runs of {len(first.curve['step'])} steps, each alone")


def packs(subject: Subject) -> Finding:
    """Runs can be trained together; a failure costs time, not truth."""
    _, error, warned = subject.attempt
    if error is not None:
        what, remedy = explain(error)
        return failed(what, place_of_error(error, subject.file), f"{remedy}\n{_cost()}")
    looped = [text for text in warned if "performance drop" in text]
    if looped:
        return noted(f"packs, but slowly: {looped[0].splitlines()[0]}")
    return passed(f"{len(subject.members)} runs with different hyperparameters and seeds in one pack")


def equals_alone(subject: Subject) -> Finding:
    """Every run of a pack has the losses it has alone, at every step."""
    worst = max(map(_difference, subject.attempt[0], subject.alone))
    if worst <= EQUAL:
        return passed(
            f"at every one of {STEPS} steps the loss is that of the run alone (largest difference {worst:.0e})"
        )
    return failed(
        f"packed and alone differ by {worst:.1e} of the loss (bar {EQUAL:g})",
        place_of(subject.suspect),
        "Something counts calls, keeps a Python value between them or looks at how it is batched: a pack calls update "
        "once for all runs. Keep such values as tensors in the state.",
    )


def finite(subject: Subject) -> Finding:
    """The middle of every tuned range trains to the end, and an absurd value retires its own run alone."""
    middle = subject.runs[0]
    if middle.outcome is not Outcome.FINISHED:
        values = ", ".join(f"{n}={v:g}" for n, v in subject.members[0][0].items()) or "its fixed values"
        return failed(
            f"with {values} (the middle of what is tuned) the run ended early: {middle.message}",
            place_of(subject.suspect),
            "Look for a division by zero at the first step (add eps), a root of a negative number, or a tuned range "
            "that lies too high.",
        )
    absurd = _absurd(subject)
    if not absurd or not subject.packs:
        return passed("finite in the middle of what is tuned")
    return _neighbours(subject, middle, absurd)


def _neighbours(subject: Subject, middle: Run, absurd: list[dict[str, float]]) -> Finding:
    members = [*((values, 0) for values in absurd), subject.members[0]]
    try:
        *extreme, beside = trained(subject.pack(members), True)
    except Exception as error:
        return failed(
            f"beside a run with {', '.join(absurd[0])} = {ABSURD:g} the whole pack stops: it {explain(error)[0]}",
            place_of_error(error, subject.file),
            "Let numbers that are not finite pass, so that only their own run is retired: guard what raises with "
            "torch.nan_to_num.",
        )
    if not _difference(middle, beside) <= EQUAL:
        return failed(
            f"beside a run with {', '.join(absurd[0])} = {ABSURD:g} its neighbour trains to other losses",
            place_of(subject.suspect),
            "No operation may mix the runs of a pack; keep every value of a run in its own tensors.",
        )
    ended = sum(run.outcome is Outcome.DIVERGED for run in extreme)
    return passed(
        f"finite in the middle; of {len(extreme)} run(s) at {ABSURD:g}, {ended} retired, their neighbour unmoved"
    )


def _absurd(subject: Subject) -> list[dict[str, float]]:
    """The middle with one tuned field of the optimizer at an absurd value, each in turn; not those that refuse it."""
    own = [name for name in subject.recipe.tuned_fields() if hasattr(subject.recipe.optimizer, name)]
    found = [at(subject.recipe, 0.5) | {name: ABSURD} for name in own]
    return [values for values in found if _accepts(subject, values)]


def _accepts(subject: Subject, values: dict[str, float]) -> bool:
    try:
        subject.recipe.fill(values)
    except InputError:
        return False
    return True


def _difference(a: Run, b: Run) -> float:
    """The largest relative difference of two runs' losses; infinite if they did not go equally far."""
    x, y = a.curve["train_loss"], b.curve["train_loss"]
    if x.shape != y.shape or not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return math.inf
    both = np.isfinite(x)
    return float(np.max(np.abs(x[both] - y[both]) / np.abs(y[both]), initial=0.0))


def _cost() -> str:
    """What it costs not to pack: time, for launch/one.py then trains the members one by one."""
    return (
        f"Until then a study trains its runs one by one, in about {_gain():.1f} times the time of packs of 8 "
        f"(measured now, once, on the base recipe)."
    )


def _gain() -> float:
    """How many times faster 8 runs are packed than one by one, on the base recipe, now."""
    recipe = bench()
    judge = Judge(data=recipe.data, tokens=CONTEXT, evaluations=1)
    members = [(at(recipe, 0.5), seed) for seed in range(8)]
    together, single = (_seconds(pack_of(recipe, judge, some, 10), len(some) > 1) for some in (members, members[:1]))
    return 8 * single / together


def _seconds(pack: Pack, packed: bool) -> float:
    begin = time.perf_counter()
    trained(pack, packed)
    return time.perf_counter() - begin
