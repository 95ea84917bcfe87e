"""The stretches of a pack whose recipe has phases, each as a pack of its own; what they cost together.

Trains nothing. A newcomer would let the last network differ from the rung that was asked: the laws read the rung, so it
must have just that size, and all stretches together no more than its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from windtunnel.errors import InputError
from windtunnel.recipe import Judge, Stretch

if TYPE_CHECKING:
    from windtunnel.train.pack import Pack


def by_horizon(pack: Pack) -> list[list[int]]:
    """Members of equal horizons, in order of their first ones."""
    found: dict[int, list[int]] = {}
    for member, spec in enumerate(pack.specs):
        found.setdefault(spec.rung.tokens, []).append(member)
    return list(found.values())


def stretches_of(pack: Pack) -> list[tuple[Stretch, Pack]]:
    """The stretches of members of one horizon, in order, with the packs that they are; of a search, as foretold.

    Raises InputError for phases that do not end at the rung asked for, or use more tokens.
    """
    phases, rung, who = pack.recipe.phases, pack.rung, type(pack.recipe.phases).__name__
    stretches = list(phases.stretches(replace(pack.recipe, phases=None), rung))
    names = [stretch.name for stretch in stretches]
    if not stretches or len(set(names)) < len(names):
        raise InputError(f"{who}.stretches gave {names}; it needs at least one stretch, each with a name of its own.")
    check_end(stretches[-1], pack)
    check_tokens(stretches, pack)
    for stretch in stretches:
        check_stretch(stretch, pack)
    last = len(stretches) - 1
    return [(stretch, _planned(pack, stretch, i == last)) for i, stretch in enumerate(stretches)]


def trained_tokens_of(pack: Pack) -> int:
    """Tokens that all stretches of all members train on."""
    return sum(sub.trained_tokens for part in by_horizon(pack) for _, sub in stretches_of(pack.part(part)))


def training_flops_of(pack: Pack) -> float:
    """FLOPs that all stretches of all members take."""
    return sum(sub.training_flops() for part in by_horizon(pack) for _, sub in stretches_of(pack.part(part)))


def _planned(pack: Pack, stretch: Stretch, last: bool) -> Pack:
    judge = pack.judge if last else replace(pack.judge, probes=())
    return pack_of(pack, [(member, stretch) for member in range(len(pack.specs))], judge)


def pack_of(pack: Pack, items: Sequence[tuple[int, Stretch]], judge: Judge) -> Pack:
    """The pack of members' stretches that differ in numbers alone."""
    recipe = items[0][1].recipe
    rung, described, open_ = recipe.settled(items[0][1].rung), recipe.describe(), recipe.tuned_fields()
    specs = []
    for member, stretch in items:
        spec = pack.specs[member]
        own = dict(stretch.values or {})
        values = {name: own.get(name, spec.hyperparameters.get(name)) for name in open_}
        specs.append(replace(spec, recipe=described, rung=rung, hyperparameters=values))
    labels = tuple(pack.labels[member] for member, _ in items) if pack.labels else ()
    return replace(pack, recipe=recipe, specs=tuple(specs), judge=judge, labels=labels)


def check_end(stretch: Stretch, pack: Pack) -> None:
    """Raise InputError where the last network is not of the size that was asked for."""
    end, rung = stretch.rung, pack.rung
    if (end.width, end.depth, end.heads) != (rung.width, rung.depth, rung.heads):
        who = type(pack.recipe.phases).__name__
        raise InputError(f"{who} ends with a network of {end}; it must end at the rung asked for, {rung}.")


def check_tokens(stretches: Sequence[Stretch], pack: Pack) -> None:
    """Raise InputError where stretches together use more tokens than the rung and the part's cost allow."""
    phases, used = pack.recipe.phases, sum(stretch.rung.tokens for stretch in stretches)
    allowed = round(pack.rung.tokens * float(getattr(phases, "cost", 1.0)))
    if used > allowed + pack.tokens_per_step() * len(stretches):
        raise InputError(
            f"{type(phases).__name__} trains on {used:,} tokens in {len(stretches)} stretches; the rung asked for "
            f"allows {allowed:,}. What takes more has a number `cost`, times which it may."
        )


def check_stretch(stretch: Stretch, pack: Pack) -> None:
    """Raise InputError for a stretch that cannot be trained as a run of its own."""
    who = type(pack.recipe.phases).__name__
    if stretch.recipe.phases is not None:
        raise InputError(f"The stretch {stretch.name!r} of {who} has phases itself; leave that slot empty.")
    if stretch.fork is not None and stretch.start is not None:
        raise InputError(f"The stretch {stretch.name!r} of {who} has both fork and start; its weights come from one.")
    open_ = set(stretch.recipe.tuned_fields())
    if left := sorted(open_ - set(pack.recipe.tuned_fields()) - set(stretch.values or {})):
        raise InputError(
            f"The stretch {stretch.name!r} of {who} leaves {', '.join(left)} open for tuning, which the whole "
            f"recipe does not; fill a field of {who} into it, leave it as the recipe has it, or give it in `values`."
        )
    if wrong := sorted(set(stretch.values or {}) - open_):
        raise InputError(
            f"The stretch {stretch.name!r} of {who} sets {', '.join(wrong)}, which its recipe does not leave open; it "
            f"leaves {', '.join(sorted(open_)) or 'nothing'} open."
        )
