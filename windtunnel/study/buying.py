"""Which rungs of its ladder a study buys: all of them, or as many as make every forecast narrow enough.

The smallest sizes at once, then every other one up to the top, then those between, dearest first: beside two neighbours
a size narrows an interval least. A newcomer would climb size by size, which costs more, and would take the first
narrow interval at its word: it is the one that looked narrow first, so it is widened before it may end the ladder
(benchmarks/stopping.py). What is bought follows from the store alone, so that a study that was killed buys what it
would have bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.ladder import Ladder, Rung

if TYPE_CHECKING:
    from windtunnel.study.stages import Stages

T = TypeVar("T")
FIRST = 4  # sizes bought at once: with three no backtest can hide one, and an interval would rest on belief


@dataclass(frozen=True)
class Bought:
    """Rungs that are wanted by now, in the ladder's order, and the widest half-width that their forecasts leave.

    `half_width` is a share of the loss; None while runs are missing, where a recipe has no forecast or an unreliable
    one, and where no half-width was asked for. `left` are the rungs that need not be trained, or not yet.
    """

    rungs: tuple[Rung, ...]
    left: tuple[Rung, ...] = ()
    half_width: float | None = None
    trained: bool = False  # every run of the rungs is there


def purchases(ladder: Ladder) -> list[tuple[Rung, ...]]:
    """A ladder's rungs in the order in which they are bought, all horizons of a size together."""
    sizes: dict[Rung, list[Rung]] = {}
    for rung in ladder.rungs:
        sizes.setdefault(rung.but(tokens=1), []).append(rung)
    ordered = sorted(sizes.values(), key=lambda rungs: ladder.rungs.index(rungs[-1]))
    return [tuple(rung for rungs in some for rung in rungs) for some in in_order(ordered)]


def in_order(sizes: Sequence[T]) -> list[list[T]]:
    """Sizes, smallest first, in the order in which they are bought: each purchase by itself."""
    rest = sizes[FIRST:]
    return [list(sizes[:FIRST]), *([each] for each in (*rest[1::2], *reversed(rest[::2])))]


def bought(stages: Stages) -> Bought:
    """What a study has come to buy: purchase after purchase until every recipe is foretold well enough."""
    ladder, wanted = stages.study.ladder, stages.study.half_width
    if wanted is None:
        return Bought(ladder.rungs)
    kept: set[Rung] = set()
    found = Bought(ladder.rungs)
    for rungs in purchases(ladder):
        kept |= {*rungs}
        found = _found(stages, [rung for rung in ladder.rungs if rung in kept])
        if not found.trained or (found.half_width is not None and found.half_width <= wanted):
            break
    return found


def at_most(stages: Stages) -> tuple[Rung, ...]:
    """Rungs that a study trains or may yet have to train."""
    found = bought(stages)
    return found.rungs if found.trained else stages.study.ladder.rungs


def _found(stages: Stages, rungs: Sequence[Rung]) -> Bought:
    """What is known of some rungs; once they are trained that never changes."""
    key = tuple(rungs)
    if key not in stages.bought:
        found = _asked(stages, key)
        if not found.trained:
            return found
        stages.bought[key] = found
    return stages.bought[key]


def _asked(stages: Stages, rungs: tuple[Rung, ...]) -> Bought:
    left = tuple(rung for rung in stages.study.ladder.rungs if rung not in rungs)
    asked = {name: stages.ladder(name, stages.tuning(name).values, rungs) for name in stages.recipes}
    if any(not stages.tuning(name).done or stages.missing(asks) for name, asks in asked.items()):
        return Bought(rungs, left)
    widths = [_half_width(stages, name, rungs) for name in stages.recipes]
    known = [width for width in widths if width is not None]
    return Bought(rungs, left, max(known) if len(known) == len(widths) else None, trained=True)


def _half_width(stages: Stages, name: str, rungs: Sequence[Rung]) -> float | None:
    """Half of the interval of a recipe's loss at the target over its median; None without a reliable forecast."""
    from windtunnel.study.answer import fitted, foretold

    fit = fitted(stages, name, stages.tuning(name), rungs=rungs)
    if fit is None or not fit.reliable:
        return None
    loss = foretold(stages, name, fit).loss
    return (loss.high - loss.low) / 2 / loss.median


def told(stages: Stages) -> str:
    """How far the buying is, in a sentence; empty where the whole ladder is asked for, or nothing is trained yet."""
    found, wanted = bought(stages), stages.study.half_width
    if wanted is None or not found.trained:
        return ""
    reached = "no reliable interval" if found.half_width is None else f"± {100 * found.half_width:.2g} %"
    if found.half_width is None or found.half_width > wanted:
        return f"the whole ladder leaves {reached}, where ± {100 * wanted:.2g} % was asked for"
    if not found.left:
        return f"{reached}, where ± {100 * wanted:.2g} % was asked for; all rungs were needed"
    return (
        f"{reached}, where ± {100 * wanted:.2g} % was asked for, so {len(found.left)} of its "
        f"{len(stages.study.ladder.rungs)} rungs were not trained; for having decided that, the interval is "
        f"{ENDS_LADDER:g} times as wide as the runs alone say"
    )
