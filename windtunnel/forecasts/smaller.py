"""How small a ladder would have sufficed: the forecast again from parts of the runs, with the interval each gives.

What a newcomer would get wrong: a smaller ladder that happens to give the same number is not as good. It suffices when
its interval is not much wider than the whole ladder's and holds what the whole ladder says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts.design import by_law, priced
from windtunnel.forecasts.interval import Interval
from windtunnel.forecasts.place import located, runs_of
from windtunnel.ladder import Size, Target
from windtunnel.laws.noise import repeats, rungs
from windtunnel.laws.observations import Observations
from windtunnel.notebook import printed

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

FEWEST = 4  # rungs: with three no rung can be hidden, so the interval would rest on belief alone
WIDER = 1.5  # a ladder suffices whose interval is at most this many times the whole ladder's (a matter of taste)


@dataclass(frozen=True, kw_only=True)
class SmallerLadder:
    """The forecast without some runs. `share` is of the whole ladder's price, `widening` of its interval's width.

    `agrees` says whether the interval holds the whole ladder's median, `reliable` whether it passes its own backtest.
    """

    without: str
    runs: int
    rungs: int
    flops: float
    share: float
    loss: Interval
    widening: float
    agrees: bool
    reliable: bool

    _repr_pretty_ = printed

    def __str__(self) -> str:
        held = "" if self.agrees else ", DISAGREES with the whole ladder"
        held += "" if self.reliable else ", not reliable by its own backtest"
        return (
            f"{'without ' + self.without if self.without else 'the whole ladder'}: {self.runs} runs at {self.rungs} "
            f"rungs, {100 * self.share:.3g} % of the price, loss {self.loss}, {self.widening:.2f}x as wide{held}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        names = ("without", "runs", "rungs", "flops", "share", "widening", "agrees", "reliable")
        return {name: getattr(self, name) for name in names} | {"loss": self.loss.to_json()}


def smaller_ladders(
    fit: Fit, target: Target, *, level: float = 0.9, size: Size | None = None
) -> tuple[SmallerLadder, ...]:
    """The whole ladder's forecast, then those of smaller ones from its own runs, dearest first."""
    from windtunnel.forecasts.fit import fit as fitted

    o = priced(runs_of(fit), "How small a ladder suffices")
    goal = located(o, target, size).sizes
    whole = fit.predict(goal).interval(level, exponential=True)
    rows = [_row("", o, o, whole, whole, fit.reliable)]
    for without, kept in _parts(o):
        try:
            part = fitted(kept, [law for law, _ in by_law(fit)])
        except InputError:  # fewer than three distinct sizes are left: no ladder at all
            continue
        loss = part.predict(goal).interval(level, exponential=True)
        rows.append(_row(without, kept, o, loss, whole, part.reliable))
    return tuple(sorted(rows, key=lambda row: -row.flops))


def smallest_ladder(ladders: Sequence[SmallerLadder], wider: float = WIDER) -> SmallerLadder:
    """The cheapest of `smaller_ladders` that agrees with the whole, is reliable and at most `wider` times as wide.

    The whole ladder where no smaller one does.
    """
    good = [row for row in ladders if not row.without or (row.agrees and row.reliable and row.widening <= wider)]
    return min(good, key=lambda row: row.flops)


def _row(
    without: str, kept: Observations, whole: Observations, loss: Interval, wanted: Interval, reliable: bool
) -> SmallerLadder:
    assert kept.flops is not None and whole.flops is not None
    spent = float(kept.flops.sum())
    return SmallerLadder(
        without=without,
        runs=len(kept),
        rungs=len(np.unique(rungs(kept))),
        flops=spent,
        share=spent / float(whole.flops.sum()),
        loss=loss,
        widening=float(np.log(loss.high / loss.low) / np.log(wanted.high / wanted.low)),
        agrees=loss.holds(wanted.median),
        reliable=reliable,
    )


def _parts(o: Observations) -> Iterator[tuple[str, Observations]]:
    """Ladders within the ladder: fewer top rungs, fewer small ones, every second, one seed."""
    label = rungs(o)
    count = int(label.max()) + 1
    for dropped in range(1, count - FEWEST + 1):
        yield _rungs_named("top", dropped), o.where(label < count - dropped)
    for dropped in range(1, min(2, count - FEWEST) + 1):
        yield _rungs_named("smallest", dropped), o.where(label >= dropped)
    if count >= 2 * FEWEST - 1:  # keeps the top rung
        yield "every second rung", o.where((count - 1 - label) % 2 == 0)
    place = repeats(o)
    first = np.unique(place, return_index=True)[1]
    if len(first) < len(o):
        yield "all seeds but one", o.where(np.sort(first))


def _rungs_named(which: str, count: int) -> str:
    return f"the {which} rung" if count == 1 else f"the {count} {which} rungs"
