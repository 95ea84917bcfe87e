"""In what the recipes of two runs differ, and a mark by which a table tells recipes apart.

Left out are learning rates, fields that were open to be tuned, and how often was judged. A newcomer would go by the
name of the idea, which says who asked for a run first; its code may have changed since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from windtunnel.errors import InputError
from windtunnel.files import sha256
from windtunnel.recipe import is_rate
from windtunnel.runs import RunSpec, is_range

MARKS = ("recipe", "data", "judge")
KINDS = 50  # recipes that are compared with one another: of more, these tell in what they differ
_ABSENT: Any = object()


def differing(one: RunSpec, other: RunSpec) -> list[str]:
    """The slots in which two recipes differ, and "judge" where they were judged otherwise."""
    slots = [slot for slot in (*one.recipe, *other.recipe) if not _alike(one.recipe.get(slot), other.recipe.get(slot))]
    return list(dict.fromkeys(slots)) + ["judge"] * (_judging(one.judge) != _judging(other.judge))


def marks(recipe: Mapping[str, Any], judge: Mapping[str, Any]) -> dict[str, str]:
    """A letter and eight digits each for a described recipe without its data, for its data, and for its judge.

    Raises InputError for what is nested too deep.
    """
    alone = {slot: part for slot, part in recipe.items() if slot != "data"}
    held = {"recipe": alone, "data": recipe.get("data"), "judge": _judging(judge)}
    try:
        return {name: name[0] + _mark(_untuned(each)) for name, each in held.items()}
    except RecursionError:  # a stranger's record
        raise InputError("A recipe is nested too deep to be read; no part of windtunnel's is.") from None


def is_mark(name: str, cell: Any) -> bool:
    """Whether a table's cell is one of `marks`, of this name."""
    return re.fullmatch(f"{name[0]}[0-9a-f]{{8}}", str(cell)) is not None


def pooled(specs: Sequence[RunSpec]) -> list[str]:
    """In what recipes differ among runs that are taken together; empty where they are one recipe's."""
    kinds = {tuple(marks(spec.recipe, spec.judge).values()): spec for spec in specs}
    some = list(kinds.values())[:KINDS]
    return list(dict.fromkeys(slot for one, other in combinations(some, 2) for slot in differing(one, other)))


def _judging(judge: Mapping[str, Any]) -> dict[str, Any]:
    """A described judge but for how often it judges: the last judgement is the loss."""
    return {name: value for name, value in judge.items() if name != "evaluations"}


def _alike(one: Any, other: Any) -> bool:
    if is_range(one) or is_range(other):
        return one is not _ABSENT and other is not _ABSENT
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_alike(one.get(k, _ABSENT), other.get(k, _ABSENT)) for k in {*one, *other} if _counts(k, one))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other


def _untuned(described: Any) -> Any:
    if isinstance(described, Mapping):
        return {k: _untuned(v) for k, v in described.items() if _counts(k, described) and not is_range(v)}
    return [_untuned(item) for item in described] if isinstance(described, list | tuple) else described


def _counts(name: str, described: Mapping[str, Any]) -> bool:
    """Whether an entry tells recipes apart: no learning rate does, nor what a part is called beside what it means."""
    return not is_rate(name) and not (name == "is" and len(described) > 1)


def _mark(held: Any) -> str:
    return sha256(json.dumps(held, sort_keys=True).encode())[:8]  # a stranger's record may say NaN
