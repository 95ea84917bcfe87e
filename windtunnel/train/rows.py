"""Trunk and branch: which members of a pack are trained as one row of the stack.

Members with the same seed and the same numbers are the same run for as long as their learning rates agree, whatever
their horizons. They share a row until the first step at which the rates part; then the row is copied, weights and
optimizer state, so that a decay branches off its trunk bit for bit. A newcomer would look for a declaration that a
schedule can branch: none is needed, the multipliers themselves tell.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.train.pack import Pack

Row = tuple[int, ...]  # members, in order


def first_rows(same: Sequence[Hashable]) -> list[Row]:
    """Members whose entries of `same` are equal, together; rows in the order of their first members."""
    found: dict[Hashable, list[int]] = {}
    for member, what in enumerate(same):
        found.setdefault(what, []).append(member)
    return [tuple(members) for members in found.values()]


def parted(rows: Sequence[Row], factors: Mapping[int, float]) -> tuple[list[Row], list[int]]:
    """The rows after members with unequal factors have parted, and the row that each is copied from."""
    after: list[Row] = []
    source: list[int] = []
    for index, row in enumerate(rows):
        apart = first_rows([factors[member] for member in row])
        after += [tuple(row[i] for i in part) for part in apart]
        source += [index] * len(apart)
    return after, source


def without(rows: Sequence[Row], gone: set[int]) -> tuple[list[Row], list[int]]:
    """The rows that still have members once `gone` have left, and the row that each is."""
    left = [tuple(member for member in row if member not in gone) for row in rows]
    stays = [index for index, row in enumerate(left) if row]
    return [left[index] for index in stays], stays


def multiplier(pack: Pack, member: int, step: int, tokens_per_step: int) -> float:
    """What the schedule of a member's recipe multiplies its learning rates by at a step.

    The schedule is read in the middle of the step, which is cut at the horizon. One that depends on the batch has a
    method `at_batch(tokens a step)`, which is asked for the schedule at this one, wherever another schedule holds it.
    """
    horizon = pack.specs[member].rung.tokens
    end = min(horizon, (step + 1) * tokens_per_step)
    schedule = pack.recipe_of(member).schedule
    return at_batch(schedule, tokens_per_step)(end - tokens_per_step / 2, horizon)


def at_batch(schedule: Any, tokens_per_step: float) -> Any:
    """A schedule as it is at a batch of so many tokens a step; one made of another follows through the one it holds."""
    own = getattr(schedule, "at_batch", None)
    if own is not None:
        return own(tokens_per_step)
    if not is_dataclass(schedule) or isinstance(schedule, type):
        return schedule
    held = {field.name: getattr(schedule, field.name) for field in fields(schedule) if field.init}
    moved = {name: at_batch(part, tokens_per_step) for name, part in held.items() if is_dataclass(part)}
    moved = {name: part for name, part in moved.items() if part is not held[name]}
    return replace(schedule, **moved) if moved else schedule


def steps_of(pack: Pack, tokens_per_step: int) -> list[int]:
    """Steps to each member's horizon; where a batch does not divide it, the last one goes beyond."""
    return [math.ceil(spec.rung.tokens / tokens_per_step) for spec in pack.specs]


def beyond(tokens: int, tokens_per_step: int) -> float:
    """The share of a horizon that its last step goes beyond it, being a whole batch."""
    return math.ceil(tokens / tokens_per_step) * tokens_per_step / tokens - 1


def trained_tokens(pack: Pack) -> int:
    """Tokens that a pack trains on, a shared row counted once; the sum of all horizons if no member shares.

    Steps through the schedules of members that could share and trains nothing.
    """
    tokens_per_step = pack.tokens_per_step()
    steps = steps_of(pack, tokens_per_step)
    return tokens_per_step * sum(_distinct(pack, row, steps, tokens_per_step) for row in first_rows(pack.alike()))


def apart_tokens(pack: Pack) -> int:
    """Tokens that the members of a pack would train on if none shared a row."""
    tokens_per_step = pack.tokens_per_step()
    return tokens_per_step * sum(steps_of(pack, tokens_per_step))


def _distinct(pack: Pack, row: Row, steps: Sequence[int], tokens_per_step: int) -> int:
    """Steps of all rows that come of one, from its first step to the longest horizon."""
    if len(row) == 1:
        return steps[row[0]]
    return sum(len(rows) for rows in _history(pack, row, steps, tokens_per_step))


def _history(pack: Pack, row: Row, steps: Sequence[int], tokens_per_step: int) -> Iterator[list[Row]]:
    rows = [row]
    for step in range(max(steps[member] for member in row)):
        if any(len(r) > 1 for r in rows):
            factors = {m: multiplier(pack, m, step, tokens_per_step) for r in rows for m in r}
            rows, _ = parted(rows, factors)
        yield rows
        rows, _ = without(rows, {m for m in row if steps[m] == step + 1})
