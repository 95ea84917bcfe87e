"""Checks that read an idea without training: it loads, its parts can be keyed and sent to a worker, what it tunes."""

from __future__ import annotations

import importlib.machinery
import inspect
import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel.conformance.finding import Finding, failed, noted, passed
from windtunnel.conformance.places import place_of
from windtunnel.conformance.remedies import FROZEN
from windtunnel.conformance.subject import THREE_LINES, Subject
from windtunnel.errors import InputError
from windtunnel.launch.sent import pickled
from windtunnel.meaning import describe
from windtunnel.recipe import Recipe, Tuned, is_rate
from windtunnel.train.pack import numbers_of
from windtunnel.tune import Tried, Tuning, coarse_values, fine_values

FILLED = re.compile(r"(?!batch\b)\w+(\[\d+\])?\.\w+")  # paths of tuned numbers that a search fills


def loads(subject: Subject) -> Finding:
    """The function states a claim, returns a Recipe and leaves the base as it was."""
    before, here = subject.base.describe(), place_of(subject.idea)
    if not isinstance(subject.recipe, Recipe):
        return failed(
            f"{subject.name} returned a {type(subject.recipe).__name__}; an idea takes a Recipe and returns one",
            here,
            f"Return base.but(...). If {subject.name} is not an idea, begin its name with an underscore.",
        )
    if subject.base.describe() != before:
        return failed(
            f"{subject.name} changed the base recipe itself; the base would no longer be the base", here, FROZEN
        )
    if not subject.claim:
        return failed(
            f"{subject.name} has no docstring; the docstring is the claim that the verdict is about",
            here,
            f"Say in a sentence what should happen, with the source:\n{THREE_LINES}",
        )
    changed = [slot for slot, part in subject.recipe.parts().items() if part != getattr(subject.base, slot)]
    told = f"changes {', '.join(changed)}" if changed else "returns the base as it is"
    if subject.not_on_text:
        return noted(
            f"{told}; it runs on images and not on text ({subject.not_on_text}), so it is checked on digits, with a "
            f"small CNN as the base"
        )
    if subject.also_on_images:
        return noted(f"{told}; one step is possible on images of digits, but it gives text and fails there: see below")
    return passed(told)


def self_contained(subject: Subject) -> Finding:
    """Every part can be keyed, is frozen, and arrives whole in a worker process."""
    for slot, part in subject.recipe.parts().items():
        for path, piece in _pieces(slot, part):
            trouble = _unkeyed(path, piece) or _unfrozen(path, piece)
            if trouble is not None:
                return trouble
    return _sent(subject)


def tunes(subject: Subject) -> Finding:
    """The tuned fields can be filled and searched; what the default tuning spends on them."""
    recipe = subject.asked
    for slot, part in recipe.parts().items():
        for path, piece in _pieces(slot, part):
            trouble = _misplaced(path, piece, part)
            if trouble is not None:
                return trouble
    ranges = recipe.tuned_fields()
    optimizer = recipe.optimizer
    if not any(map(is_rate, [*ranges, *numbers_of(optimizer)])):
        return failed(
            f"{type(optimizer).__name__} has no learning rate; the schedule and the width rule act through a number "
            f"field called lr (or one that ends in _lr)",
            place_of(optimizer),
            "Add lr: float = tuned(1e-4, 1e-1); a rule that sets its own step size takes lr: float = 1.0, and "
            'multiplies its step by hp["lr"].',
        )
    if not ranges:
        return passed("no tuned field, so no run is spent on tuning")
    listed = ", ".join(f"{name} {range_.low:g} to {range_.high:g}" for name, range_ in ranges.items())
    return passed(f"{listed}; the default tuning spends up to {sum(map(runs_spent, ranges.values()))} runs")


def runs_spent(range_: Tuned) -> int:
    """Runs of the default Tuning on one field: a coarse sweep, a fine one around its best, and the re-check."""
    tuning = Tuning()
    coarse = coarse_values(range_, tuning.points)
    tried = [Tried(value, 0, float(value != coarse[len(coarse) // 2])) for value in coarse]
    fine = fine_values(range_, tuning.points, tried)
    asked = {(v, 0) for v in coarse} | {(v, seed) for v in fine for seed in range(tuning.seeds)}
    return len(asked) + 2 * tuning.recheck * tuning.seeds


def _pieces(path: str, part: Any) -> Iterator[tuple[str, Any]]:
    """A part and everything in its fields, with the path to it."""
    yield path, part
    if isinstance(part, tuple | list):
        inner = [(f"{path}[{i}]", item) for i, item in enumerate(part)]
    elif isinstance(part, dict):
        inner = [(f"{path}[{key!r}]", item) for key, item in part.items()]
    elif isinstance(part, partial):
        inner = [(f"{path}.func", part.func), (f"{path}.args", part.args), (f"{path}.keywords", part.keywords)]
    elif is_dataclass(part) and not isinstance(part, type):
        inner = [(f"{path}.{f.name}", getattr(part, f.name)) for f in fields(part)]
    else:
        inner = []
    for name, item in inner:
        yield from _pieces(name, item)


def _unkeyed(path: str, piece: Any) -> Finding | None:
    if isinstance(piece, tuple | list | dict | partial):
        return None  # its contents come next, and are easier to name
    try:
        describe(piece) if not is_dataclass(piece) or isinstance(piece, type) else describe(type(piece))
    except InputError as error:
        return failed(f"{path} cannot be part of a run's key: {error}", place_of(piece), _remedy(piece))
    return None


def _remedy(piece: Any) -> str:
    if inspect.isroutine(piece) or inspect.isclass(piece):
        return "Define it at the top level of the file, with a name; what it needs to know goes into its fields."
    return "Make the part a frozen dataclass at the top level of the file, its fields numbers, text, tuples or parts."


def _unfrozen(path: str, piece: Any) -> Finding | None:
    parameters = getattr(type(piece), "__dataclass_params__", None)
    if parameters is None or parameters.frozen:
        return None
    return failed(
        f"{path} is a {type(piece).__name__}, whose fields can change after its key is computed",
        place_of(piece),
        "Write @dataclass(frozen=True); what changes while training belongs into the state.",
    )


def _misplaced(path: str, piece: Any, part: Any) -> Finding | None:
    if not isinstance(piece, Tuned):
        return None
    if FILLED.fullmatch(path):
        return None
    return failed(
        f"{path} is {piece}, which no search would fill: tuned fields are those of the parts in a recipe's slots "
        f"themselves, and a batch is none",
        place_of(part),
        f"Give {path} a number; or declare the tuned field on the part in the slot and hand it on from there.",
    )


def _sent(subject: Subject) -> Finding:
    arrived = pickle.loads(pickled(subject.recipe))  # as launch/here.py sends a pack
    here = place_of(subject.idea)
    if arrived.describe() != subject.recipe.describe():
        return failed(
            "the recipe that arrives in a worker process is not the one that was sent", here,
            "Keep a part's whole meaning in its fields; leave out __reduce__, __getstate__ and properties that differ.",
        )  # fmt: skip
    module = subject.idea.__module__
    spec = importlib.machinery.PathFinder.find_spec(module.split(".")[0], sys.path)
    if "." not in module and (spec is None or spec.origin is None or Path(spec.origin).resolve() != subject.file):
        return failed(
            f"a worker process that imports {module} would get {spec and spec.origin}, not this file", here,
            "Give the file a name of its own, and call the check from the folder where your study lies.",
        )  # fmt: skip
    return passed(f"{len(subject.recipe.parts())} slots keyed, frozen, and the same after the way to a worker")
