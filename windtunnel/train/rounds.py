"""What the members of a pack train next, round by round, and where: plain phases foretold, a search asked.

Plain phases have one stretch a round, the same for all members; a search asks each member's next ones, told how its
earlier ones went. Trains nothing. A newcomer would ask a search about the losses of others: a run is what its spec
says, so it knows of itself alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from windtunnel.errors import InputError
from windtunnel.recipe import Stretch, Weights
from windtunnel.runs import Run
from windtunnel.train.pack import Pack
from windtunnel.train.pieces import Ended, Piece, joined
from windtunnel.train.stretches import check_end, check_stretch, check_tokens

Item = tuple[int, Stretch]  # a member and what it is to train next


@dataclass
class Trail:
    """What one member has trained so far, and how many examples of each data plan it took."""

    ended: list[Ended] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # data -> examples

    def of(self, name: str) -> Ended | None:
        """The ended stretch of this name."""
        return next((ended for ended in self.ended if ended.stretch.name == name), None)

    def weights(self) -> dict[str, Weights]:
        """The last weights of every stretch."""
        return {ended.stretch.name: ended.piece.weights for ended in self.ended}

    def line(self, name: str) -> list[Ended]:
        """A stretch and those that it was forked from, the first of them first."""
        found = [self.of(name)]
        while found[0] is not None and found[0].stretch.fork is not None:
            found.insert(0, self.of(found[0].stretch.fork))
        return [ended for ended in found if ended is not None]


def searches(pack: Pack) -> bool:
    """Whether its phases decide by what was measured."""
    return hasattr(pack.recipe.phases, "ask")


def asked(pack: Pack, planned: Sequence[Stretch], trails: Sequence[Trail], number: int) -> list[Item]:
    """What each member trains in the next round; nothing when it is over."""
    if searches(pack):
        return [(member, stretch) for member in range(len(trails)) for stretch in _next(pack, member, trails[member])]
    if number == len(planned):
        return []
    alive = [m for m, trail in enumerate(trails) if not (trail.ended and trail.ended[-1].piece.why)]
    return [(member, planned[number]) for member in alive]


def _next(pack: Pack, member: int, trail: Trail) -> Sequence[Stretch]:
    phases, done = pack.recipe.phases, [ended.stretch for ended in trail.ended]
    told, bare = [ended.told() for ended in trail.ended], replace(pack.recipe, phases=None)
    asked = list(phases.ask(bare, pack.rung, told, pack.specs[member].seed))
    check_tokens([*done, *asked], pack)
    names = [stretch.name for stretch in [*done, *asked]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{type(phases).__name__}.ask gave two stretches the name {twice!r}; each needs its own.")
    for stretch in asked:
        check_stretch(stretch, pack)
        if stretch.fork is not None and ((parent := trail.of(stretch.fork)) is None or parent.piece.why):
            raise InputError(
                f"The stretch {stretch.name!r} of {type(phases).__name__} forks {stretch.fork!r}, which has "
                f"{'diverged' if parent else 'not ended'}; fork one of those that ended well."
            )
    return asked


def groups(pack: Pack, items: Sequence[Item], trails: Sequence[Trail], packed: bool) -> list[tuple[int, list[Item]]]:
    """Stretches that can be one pack, with the step of their data at which they begin: of one recipe but for its
    numbers, one size, one place in the data."""
    found: dict[tuple[Any, ...], list[Item]] = {}
    for number, item in enumerate(items):
        stretch, alone = item[1], -1 if packed else number
        goes_on = (stretch.fork is None, stretch.start is None)
        same = (_first_step(item, trails), alone, stretch.rung, goes_on)
        found.setdefault((*same, json.dumps(stretch.recipe.describe(), sort_keys=True)), []).append(item)
    return [(same[0], group) for same, group in found.items()]


def _first_step(item: Item, trails: Sequence[Trail]) -> int:
    """The step of its data at which a stretch begins: where its fork ended, else where the member's last one did."""
    member, stretch = item
    trail, data = trails[member], stretch.recipe.data_at(stretch.rung).fingerprint()
    parent = trail.of(stretch.fork) if stretch.fork is not None else None
    examples = parent.next_example if parent is not None and parent.data == data else trail.seen.get(data, 0)
    return -(-examples // (stretch.recipe.settled(stretch.rung).batch or 1))


def end(group: Sequence[Item], pieces: Sequence[Piece], sub: Pack, first: int, trails: Sequence[Trail]) -> None:
    """Note what came of a group of stretches."""
    data, size = sub.recipe.data_at(sub.rung).fingerprint(), sub.rung.batch or 1
    after = (first + -(-sub.rung.tokens // sub.tokens_per_step())) * size
    for (member, stretch), piece in zip(group, pieces, strict=True):
        trails[member].ended.append(Ended(
            stretch=stretch, piece=piece, tokens_per_step=sub.tokens_per_step(), data=data, next_example=after,
        ))  # fmt: skip
        trails[member].seen[data] = max(trails[member].seen.get(data, 0), after)


def record(pack: Pack, member: int, trail: Trail) -> Run:
    """The Run of a member whose training is over."""
    if not searches(pack):
        return joined(pack, member, trail.ended, trail.ended)
    phases = pack.recipe.phases
    if not trail.ended:
        raise InputError(f"{type(phases).__name__}.ask gave nothing to train; it needs at least one stretch.")
    name = phases.chosen([ended.told() for ended in trail.ended])
    line = trail.line(name)
    if not line:
        known = ", ".join(ended.stretch.name for ended in trail.ended[:4])
        raise InputError(f"{type(phases).__name__} chose {name!r}, which it never asked for; it asked for {known}.")
    check_end(line[-1].stretch, pack)
    return joined(pack, member, line, trail.ended)
