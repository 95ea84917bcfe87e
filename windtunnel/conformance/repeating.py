"""Checks of bookkeeping: the same spec gives the same bits, a checkpoint goes on with them, the judge is untouched."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from windtunnel.conformance.finding import Finding, Place, failed, noted, passed
from windtunnel.conformance.places import first_call, place_of
from windtunnel.conformance.subject import BATCH, CPU, STEPS, Subject, pack_of, trained
from windtunnel.parts.data import digits
from windtunnel.parts.recipes import mlp_mup_sgd
from windtunnel.recipe import Judge
from windtunnel.runs import Run
from windtunnel.train.loop import Progress, train
from windtunnel.train.overlap import Known, drawn

CHANCE = ("random.", "np.random.", "numpy.random.", "torch.rand", "torch.normal", "time.", "secrets.", "uuid.")


def repeatable(subject: Subject) -> Finding:
    """The same spec gives the same bits; another seed gives others."""
    middle, seed = subject.members[0]
    *again, other = trained(subject.pack([*subject.members, (middle, seed + 1)]), subject.packs)
    if not all(map(_same, subject.runs, again)):
        return failed(
            "the same spec, trained twice, gives two different runs",
            _chance(subject),
            "Take the randomness or the clock out: a run must be a function of its spec and seed. What is remembered "
            "between calls belongs into the state.",
        )
    if (anew := subject.anew()) is not None:
        pack = pack_of(anew, subject.judge, subject.members, STEPS)
        if not all(map(_same, subject.runs, trained(pack, subject.packs))):
            return failed(
                "the same spec gives another run once the file has been run anew, as every process does",
                _chance(subject),
                "Draw no numbers and keep none at the top level of a file or in a cache: a study resumed, or spread "
                "over processes, would train something else. Compute them from a fixed seed.",
            )
    if _same(again[0], other):
        return failed(
            "two seeds give the same losses, so the spread of seeds would look like certainty",
            place_of(subject.recipe.data.batch),
            "Let the data plan's batch(seed=..., step=..., size=...) depend on its seed.",
        )
    anew_too = " and with the file run anew" if anew is not None else ", though the file could not be run anew"
    told = f"the same spec gives the same bits, twice{anew_too}; two seeds differ"
    if _first(subject, 0) == _first(subject, 1):
        return noted(f"{told}, but by their first weights alone: the data plan gives both the same examples")
    return passed(told)


def _first(subject: Subject, seed: int) -> list[bytes]:
    """The examples of some steps of a seed."""
    batches = (subject.recipe.data.batch(seed=seed, step=step, size=BATCH) for step in (0, 1, STEPS))
    return [each.tobytes() for batch in batches for each in batch]


def saves(subject: Subject) -> Finding:
    """A run that is stopped half-way and resumed from its checkpoint ends with the same bits."""
    members = subject.members if subject.packs else subject.members[:1]
    pack = subject.pack(members)
    with tempfile.TemporaryDirectory() as folder:
        with suppress(_Stopped):
            train(pack, device=CPU, folder=Path(folder), checkpoint_seconds=0.0, report=_stop, packed=subject.packs)
        resumed = train(pack, device=CPU, folder=Path(folder), packed=subject.packs)
    if all(map(_same, subject.runs, resumed)):
        return passed(f"stopped after {STEPS // 2} of {STEPS} steps and resumed: the same bits")
    return failed(
        "a run resumed from its checkpoint is not the run that went through",
        _chance(subject),
        "What changes from step to step must lie in the state that update returns; fields and globals are not saved.",
    )


def judge_untouched(subject: Subject) -> Finding:
    """The data order is a function of seed and step, and the judge's examples are never trained on."""
    data, judge = subject.recipe.data, subject.judge
    size = subject.runs[0].spec.rung.batch or BATCH
    first = [data.batch(seed=0, step=step, size=size) for step in range(4)]
    again = [data.batch(seed=0, step=step, size=size) for step in (3, 2, 1, 0)][::-1]
    if not all(np.array_equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)):
        return failed(
            "the data plan gives other examples when the same step is asked for again",
            _chance(subject) or place_of(data.batch),
            "batch(seed=..., step=..., size=...) must be a function of its arguments: runs are paired by it.",
        )
    found = Known(judge).overlap(drawn(data))
    if found.leaked:
        return failed(
            f"{found.share:.0%} of training examples are among those by which every run is judged (by chance "
            f"{found.chance:.1%})",
            place_of(data.batch),
            "Train on the training side only; the judge belongs to the study and an idea may not see it.",
        )
    own = "the base's data" if data == judge.data else "data of its own"
    return passed(f"{own}, in an order of seed and step; {found.share:.1%} of its examples recur in what is held out")


def elsewhere(subject: Subject) -> Finding:
    """Whether the idea also works on images; an idea may be for text only, or for images only."""
    if subject.not_on_text:
        return noted(f"not on text: {subject.not_on_text[:120]}")
    try:
        base = mlp_mup_sgd(data=digits())
        other = Subject(subject.idea, subject.file, base)
        other.judge = Judge(data=base.data, tokens=64, evaluations=1)
        run = trained(other.pack(other.members[:1], 5), False)[0]
    except Exception as error:
        return noted(
            f"not on images (digits, a perceptron): {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        )
    went = (
        f"loss {run.curve['train_loss'][0]:.2f} to {run.curve['train_loss'][-1]:.2f} in {len(run.curve['step'])} steps"
    )
    return noted(f"also runs on images (digits, a perceptron): {went}")


class _Stopped(Exception):
    """The interruption."""


def _stop(progress: Progress) -> None:
    if progress.step > progress.steps // 2:
        raise _Stopped  # the checkpoint of the step before is on disk


def _same(a: Run, b: Run) -> bool:
    losses = np.array_equal(a.curve["train_loss"], b.curve["train_loss"], equal_nan=True)
    return losses and np.array_equal(a.curve["judged_loss"], b.curve["judged_loss"], equal_nan=True)


def _chance(subject: Subject) -> Place | None:
    """The first call of a random generator or clock in the idea's parts, else in its file, else the update."""
    return first_call(subject.file, CHANCE, subject.recipe.pieces()) or place_of(subject.suspect)
