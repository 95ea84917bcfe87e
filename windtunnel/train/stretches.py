"""The stretches of a pack whose recipe has phases, each as a pack of its own; what they cost together.

Trains nothing. A newcomer would let the last network differ from the rung that was asked: the laws read the rung, so it
must have just that size, and all stretches together no more than its tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from windtunnel.errors import InputError
from windtunnel.recipe import Stretch

if TYPE_CHECKING:
    from windtunnel.train.pack import Pack


def by_horizon(pack: Pack) -> list[list[int]]:
    """Members of equal horizons, in order of their first ones."""
    found: dict[int, list[int]] = {}
    for member, spec in enumerate(pack.specs):
        found.setdefault(spec.rung.tokens, []).append(member)
    return list(found.values())


def stretches_of(pack: Pack) -> list[tuple[Stretch, Pack]]:
    """The stretches of members of one horizon, in order, with the packs that they are.

    Raises InputError for phases that do not end at the rung asked for, or use more tokens.
    """
    phases, rung = pack.recipe.phases, pack.rung
    stretches = list(phases.stretches(replace(pack.recipe, phases=None), rung))
    _check(type(phases).__name__, stretches, pack)
    last = len(stretches) - 1
    return [(stretch, _pack_of(pack, stretch, i == last)) for i, stretch in enumerate(stretches)]


def trained_tokens_of(pack: Pack) -> int:
    """Tokens that all stretches of all members train on."""
    return sum(sub.trained_tokens for part in by_horizon(pack) for _, sub in stretches_of(pack.part(part)))


def training_flops_of(pack: Pack) -> float:
    """FLOPs that all stretches of all members take."""
    return sum(sub.training_flops() for part in by_horizon(pack) for _, sub in stretches_of(pack.part(part)))


def _pack_of(pack: Pack, stretch: Stretch, last: bool) -> Pack:
    recipe, rung = stretch.recipe, stretch.recipe.settled(stretch.rung)
    described, open_ = recipe.describe(), recipe.tuned_fields()
    specs = tuple(
        replace(spec, recipe=described, rung=rung, hyperparameters={name: spec.hyperparameters[name] for name in open_})
        for spec in pack.specs
    )
    judge = pack.judge if last else replace(pack.judge, probes=())
    return replace(pack, recipe=recipe, specs=specs, judge=judge)


def _check(who: str, stretches: list[Stretch], pack: Pack) -> None:
    rung, names = pack.rung, [stretch.name for stretch in stretches]
    if not stretches or len(set(names)) < len(names):
        raise InputError(f"{who}.stretches gave {names}; it needs at least one stretch, each with a name of its own.")
    end, used = stretches[-1].rung, sum(stretch.rung.tokens for stretch in stretches)
    if (end.width, end.depth, end.heads) != (rung.width, rung.depth, rung.heads):
        raise InputError(f"{who} ends with a network of {end}; it must end at the rung asked for, {rung}.")
    if used > rung.tokens + pack.tokens_per_step() * len(stretches):
        raise InputError(
            f"{who} trains on {used:,} tokens in {len(stretches)} stretches; the rung asked for allows {rung.tokens:,}."
        )
    for stretch in stretches:
        if stretch.recipe.phases is not None:
            raise InputError(f"The stretch {stretch.name!r} of {who} has phases itself; leave that slot empty.")
        left = sorted(set(stretch.recipe.tuned_fields()) - set(pack.recipe.tuned_fields()))
        if left:
            raise InputError(
                f"The stretch {stretch.name!r} of {who} leaves {', '.join(left)} open for tuning, which the whole "
                f"recipe does not; fill a field of {who} into it, or leave it as the recipe has it."
            )
