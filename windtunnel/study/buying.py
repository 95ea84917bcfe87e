"""Which rungs of its ladder a study uses: all of them, or as many as make every forecast narrow enough.

The smallest sizes at once, then every other one, then those between, dearest first: beside two neighbours a size
narrows an interval least. A newcomer would climb size by size, which costs more, and would take the first narrow
interval at its word: it is the one that looked narrow first, so it is widened before it may end the ladder
(benchmarks/stopping.py). What is bought follows from the store alone: a study that was killed buys what it would have
bought, and what was paid for is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.forecasts.smaller import FEWEST
from windtunnel.ladder import Ladder, Rung
from windtunnel.study.fits import fitted, foretold, is_part

if TYPE_CHECKING:
    from windtunnel.study.stages import Stages

T = TypeVar("T")
FIRST = FEWEST  # sizes bought at once


@dataclass(frozen=True)
class Bought:
    """Rungs that are wanted by now, in the ladder's order, and the half-width that each recipe has with them.

    A half-width is a share of the loss, None where there is no reliable forecast. They are empty while runs of any
    recipe are missing, and where no half-width was asked for.
    """

    rungs: tuple[Rung, ...]
    half_widths: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether every run of the rungs is there."""
        return bool(self.half_widths)

    def within(self, wanted: float) -> bool:
        """Whether every recipe is foretold so well."""
        return self.trained and all(width is not None and width <= wanted for width in self.half_widths.values())


def purchases(ladder: Ladder) -> list[tuple[Rung, ...]]:
    """A ladder's rungs in the order in which they are bought: all of a size, whatever their tokens, together."""
    sizes: dict[Rung, list[Rung]] = {}
    for rung in ladder.rungs:
        sizes.setdefault(rung.but(tokens=1, batch=None, unique_tokens=None), []).append(rung)
    ordered = sorted(sizes.values(), key=lambda rungs: ladder.rungs.index(rungs[-1]))
    return [tuple(rung for rungs in some for rung in rungs) for some in in_order(ordered)]


def in_order(sizes: Sequence[T]) -> list[list[T]]:
    """Sizes, smallest first, in the order in which they are bought: each purchase by itself."""
    rest = sizes[FIRST:]
    return [list(sizes[:FIRST]), *([each] for each in (*rest[1::2], *reversed(rest[::2])))]


def bought(stages: Stages) -> Bought:
    """What a study has come to buy: purchase after purchase until every recipe is foretold well enough.

    Purchases that some recipe has begun throughout are no longer a question: the others are compared with it there.
    """
    ladder, wanted = stages.study.ladder, stages.study.half_width
    if wanted is None:
        return Bought(ladder.rungs)
    found, kept, asked = Bought(ladder.rungs), set[Rung](), purchases(ladder)
    begun = _begun(stages, asked)
    for count, some in enumerate(asked, 1):
        kept |= {*some}
        if count >= begun:
            found = _found(stages, tuple(rung for rung in ladder.rungs if rung in kept))
            if not found.trained or found.within(wanted):
                break
    return found


def at_most(stages: Stages) -> tuple[Rung, ...]:
    """Rungs that a study trains or may yet have to train."""
    found = bought(stages)
    return found.rungs if found.trained else stages.study.ladder.rungs


def _begun(stages: Stages, asked: Sequence[Sequence[Rung]]) -> int:
    """How many purchases, from the first, are begun: after it, those with a run of one recipe at every rung."""
    return max(_begun_by(stages, name, asked) for name in stages.recipes)


def _begun_by(stages: Stages, name: str, asked: Sequence[Sequence[Rung]]) -> int:
    state = stages.tuning(name)
    again = {a.spec.key for asks in stages.recheck(name, state.values).values() for a in asks}  # these say nothing
    for count, rungs in enumerate(asked[1:], 1):
        at = [[a for a in stages.ladder(name, state.values, [rung]) if a.spec.key not in again] for rung in rungs]
        if not state.done or not all(map(stages.runs, at)):
            return count
    return len(asked)


def _found(stages: Stages, rungs: tuple[Rung, ...]) -> Bought:
    """What is known of some rungs; once they are trained that never changes."""
    if rungs not in stages.bought:
        if not all(_there(stages, name, rungs) for name in stages.recipes):
            return Bought(rungs)
        stages.bought[rungs] = Bought(rungs, {name: _half_width(stages, name, rungs) for name in stages.recipes})
    return stages.bought[rungs]


def _there(stages: Stages, name: str, rungs: Sequence[Rung]) -> bool:
    """Whether a recipe is tuned and every run of it at some rungs is recorded."""
    state = stages.tuning(name)
    return state.done and not stages.missing(stages.ladder(name, state.values, rungs))


def _half_width(stages: Stages, name: str, rungs: Sequence[Rung]) -> float | None:
    """Half of the interval of a recipe's loss at the target over its median; None without a reliable forecast."""
    fit = fitted(stages, name, stages.tuning(name), rungs)
    forecast = None if fit is None else foretold(stages, name, fit)
    return None if forecast is None or not forecast.reliable else forecast.loss.half_width


def told(stages: Stages, name: str, rungs: Sequence[Rung]) -> str:
    """What it means for a recipe's forecast that these rungs are bought, from its own runs alone; empty where the whole
    ladder is as asked."""
    wanted, whole = stages.study.half_width, stages.study.ladder.rungs
    if wanted is None:
        return ""
    there = _there(stages, name, rungs)
    width = _half_width(stages, name, rungs) if there else None
    enough, asked = width is not None and width <= wanted, f"where ± {100 * wanted:.3g} % was asked for"
    if not is_part(stages, rungs):
        if not there or enough:
            return ""
        return f"The whole ladder leaves {_said(width)}, {asked}."
    if not enough:
        return f"Its ladder is still being bought, {asked}."
    return (
        f"{len(whole) - len(rungs)} of the ladder's {len(whole)} rungs were left out, for the others leave "
        f"{_said(width)}, {asked}; for having decided that, the interval is {ENDS_LADDER:g} times as wide as the runs "
        f"alone say."
    )


def _said(width: float | None) -> str:
    return "no reliable interval" if width is None else f"± {100 * width:.3g} %"


def bought_words(stages: Stages) -> str:
    """What was bought, for who follows the job; empty where the whole ladder is asked for or runs are missing."""
    wanted, found, whole = stages.study.half_width, bought(stages), len(stages.study.ladder.rungs)
    if wanted is None or not found.trained:
        return ""
    widths = ", ".join(f"{name} {_said(width)}" for name, width in found.half_widths.items())
    return f"{len(found.rungs)} of {whole} rungs are used; half-widths, ± {100 * wanted:.3g} % asked for: {widths}"
