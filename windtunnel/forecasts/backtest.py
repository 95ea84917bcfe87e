"""The forecast's own past: hide the upper rungs, forecast them from the lower ones, compare.

Everything is replayed as it would have been: at each cut the members' weights and the stretch of the interval come from
the earlier cuts only. A newcomer would average errors over all hidden rungs; they share one fit and one sign, so every
cut counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.forecasts.combine import mixed, pieces, variance
from windtunnel.forecasts.constants import LEARNED, Constants
from windtunnel.forecasts.interval import Interval, Mixture
from windtunnel.forecasts.members import Cuts, Ladder, fit_all_cuts
from windtunnel.forecasts.stack import fall, weights_at
from windtunnel.laws.law import Law
from windtunnel.laws.noise import rungs
from windtunnel.laws.observations import Observations
from windtunnel.notebook import printed

FEWEST_RUNGS = 3  # below this no law with a floor can be fitted
# Root mean square of standardised errors from which a backtest has failed, and the same for the last hidden rung alone:
# 45 and 10 of 543 public ladders reach them, 0 of 105 exact power laws. They go with the widths in constants.py: where
# those are learned anew, keep these shares.
FAILS, FAILS_LAST = 3.1, 4.3
LARGEST = 25.0  # a squared standardised error counts no more: one wild rung must not speak for all


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """One hidden rung: foretold from the `kept` lower rungs. `error` is relative; `z` is error in its own spread."""

    kept: int
    rung: int
    size: float
    predicted: Interval
    truth: float
    error: float
    z: float

    @property
    def held(self) -> bool:
        """Whether the interval held the truth."""
        return self.predicted.holds(self.truth)

    def to_json(self) -> dict[str, Any]:
        """Plain data, as a forecast stores it."""
        stated = {name: getattr(self, name) for name in ("kept", "rung", "size", "truth", "error", "z", "held")}
        return stated | {"predicted": self.predicted.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hidden:
        """The record that `to_json` wrote."""
        stated: dict[str, Any] = {name: value for name, value in data.items() if name != "held"}
        stated["predicted"] = Interval.from_json(data["predicted"])
        return cls(**stated)


@dataclass(frozen=True)
class Backtest:
    """All hidden rungs of all cuts. No rung was hidden when the ladder is too short."""

    hidden: tuple[Hidden, ...] = ()

    @property
    def cuts(self) -> int:
        """How many fits were made on shortened ladders."""
        return len({h.kept for h in self.hidden})

    @property
    def rms_z(self) -> float:
        """Root mean square standardised error, every cut counting once."""
        return float(np.sqrt(_mean_square(self.hidden))) if self.hidden else 0.0

    @property
    def failed(self) -> bool:
        """Whether the errors are larger than the intervals allow, over all cuts or at the last one."""
        if not self.hidden:
            return False
        last = max(self.hidden, key=lambda h: h.kept)
        return self.rms_z > FAILS or abs(last.z) > FAILS_LAST

    @property
    def coverage(self) -> float:
        """Share of the forecasts of hidden rungs that held the truth."""
        return float(np.mean([h.held for h in self.hidden]))

    _repr_pretty_ = printed

    def __str__(self) -> str:
        if not self.hidden:
            return "no backtest: too few rungs or runs to hide one"
        worst = max(abs(h.error) for h in self.hidden)
        held = sum(h.held for h in self.hidden)
        level = 100 * self.hidden[0].predicted.level
        return (
            f"backtest: {held} of {len(self.hidden)} forecasts of hidden rungs inside their {level:g}% interval, "
            f"largest error {100 * worst:.2f} %{', FAILED' if self.failed else ''}"
        )


@dataclass(frozen=True, eq=False)
class Record:
    """A backtest with what later forecasts learn from it: members at every cut, their weights, the stretch."""

    backtest: Backtest
    cuts: Cuts
    weights: np.ndarray
    stretch: float


def replay(laws: Sequence[Law], o: Observations, *, level: float = 0.9) -> Record:
    """Hide 1, 2, ... upper rungs, refit the laws, and forecast each hidden rung."""
    return replay_all([(laws, o)], level=level)[0]


def replay_all(ladders: Sequence[tuple[Sequence[Law], Observations]], *, level: float = 0.9) -> list[Record]:
    """`replay` of many ladders, whose fits are made together."""
    labels = [rungs(o) for _, o in ladders]
    cut = [(laws, o, label, cuts_of(laws, label)) for (laws, o), label in zip(ladders, labels, strict=True)]
    made = fit_all_cuts([Ladder(laws, o, label, [*kept, int(label.max()) + 1]) for laws, o, label, kept in cut])
    return [_record(cuts, o, level) for cuts, (_, o, _, _) in zip(made, cut, strict=True)]


def _record(cuts: Cuts, o: Observations, level: float) -> Record:
    """Every hidden rung, foretold by the members of each cut with what the cuts before it had shown."""
    *kept, top = cuts.kept
    label, truth = cuts.label, np.log(o.loss)
    hidden: list[Hidden] = []
    squares: dict[int, dict[int, float]] = {}
    for now in range(len(kept)):
        known = {k: {rung: z for rung, z in each.items() if rung < kept[now]} for k, each in squares.items()}
        stretch = learned(known, kept[now])
        mean, spread = _foretold(cuts, truth, now, np.log(o.size))
        squares[kept[now]] = {}
        for rung in range(kept[now], top):
            runs = np.flatnonzero(label == rung)
            errors = ((truth - mean)[runs] / spread[runs]) ** 2
            squares[kept[now]][rung] = float(np.mean(errors))
            hidden.append(_hidden(kept[now], rung, o, runs, mean[runs], spread[runs], (stretch, level)))
    return Record(Backtest(tuple(hidden)), cuts, weights_at(cuts, truth, len(kept)), learned(squares, top))


def cuts_of(laws: Sequence[Law], label: np.ndarray) -> list[int]:
    """How many lower rungs are kept at each cut: from half a ladder on, where the ordinary laws have runs enough."""
    top = int(label.max())
    fewest = max(FEWEST_RUNGS, (top + 2) // 2)  # from less than half a ladder nobody would forecast its top
    enough = max(4, *(len(law.names) + 1 for law in (*laws, *laws)[:2]))  # the first two are the ordinary ones
    return [k for k in range(fewest, top + 1) if np.sum(label < k) >= enough]


def _foretold(cuts: Cuts, truth: np.ndarray, now: int, log_size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log loss of every run as foretold at a cut, and its standard deviation before any stretch."""
    mean, doubt, apart = mixed(cuts.centre[now], cuts.doubt[now], weights_at(cuts, truth, now))
    distance = log_size - log_size[cuts.label < cuts.kept[now]].max()
    return mean, np.sqrt(variance(pieces(cuts.spread[now], fall(cuts, now), distance, doubt, apart)))


def learned(squares: Mapping[int, Mapping[int, float]], now: int, c: Constants = LEARNED) -> float:
    """Stretch of the interval from squared standardised errors by cut and rung; every cut counts once."""
    known = [k for k in sorted(squares) if squares[k] and k < now]
    count = c.forget ** np.arange(len(known))[::-1]
    means = np.array([np.mean(np.minimum(list(squares[k].values()), LARGEST)) for k in known])
    square = (c.prior_cuts + float(count @ means)) / (c.prior_cuts + float(count.sum())) if known else 1.0
    return float(np.sqrt(square).clip(c.narrowest, c.widest))


def _mean_square(hidden: Sequence[Hidden]) -> float:
    """Mean over cuts of the mean squared standardised error (each as if before any stretch)."""
    if not hidden:
        return 1.0
    kept = {h.kept for h in hidden}
    return float(np.mean([np.mean([h.z**2 for h in hidden if h.kept == number]) for number in kept]))


def _hidden(kept: int, rung: int, o: Observations, runs: Any, mean: Any, spread: Any, learned: Any) -> Hidden:
    """One hidden rung: the mean of its runs, foretold and true."""
    stretch, level = learned
    centre, truth = float(mean.mean()), float(np.mean(np.log(o.loss[runs])))
    deviation = float(np.sqrt(np.mean(spread**2)))
    mixture = Mixture(np.array([centre]), np.ones(1), np.array([stretch * deviation]), LEARNED.df)
    return Hidden(
        kept=kept,
        rung=rung,
        size=float(np.exp(np.mean(np.log(o.size[runs])))),
        predicted=mixture.interval(level, exponential=True),
        truth=float(np.exp(truth)),
        error=float(np.expm1(centre - truth)),
        z=float((truth - centre) / deviation),
    )
