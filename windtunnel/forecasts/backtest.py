"""The forecast's own past: hide the upper rungs, forecast them from the lower ones, compare.

Everything is replayed as it would have been: at each cut the laws' weights and the stretch of the interval come from
the earlier cuts only (the run-to-run noise alone is taken from all runs). A newcomer would average errors over all
hidden rungs; they share one fit and one sign, so every cut counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.forecasts.combine import PRIOR_DF, combined, law_mixture, size_at
from windtunnel.forecasts.interval import Interval, Mixture
from windtunnel.laws.fitting import fit_law
from windtunnel.laws.law import Law
from windtunnel.laws.noise import Noise, rungs
from windtunnel.laws.observations import Observations

NARROWEST = 0.9  # a good backtest may narrow the interval, but a few good rungs prove little (guess)
SHARED = 0.5  # what one cut's score counts: neighbouring cuts share most of their runs (guess, checked on worlds)
FEWEST_RUNGS = 3  # below this no law with a floor can be fitted
FAILS = 2.2  # root mean square of standardised errors from which a backtest has failed
FAILS_LAST = 3.2  # the same for the last hidden rung alone
ONE_SD = (0.1587, 0.5, 0.8413)  # the quantiles that are one standard deviation apart for a normal
_DRAWS = 48  # parameter draws at each cut; the final fit uses more


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
        """Share of hidden rungs inside their interval."""
        return float(np.mean([h.held for h in self.hidden]))

    def __str__(self) -> str:
        if not self.hidden:
            return "no backtest: too few rungs to hide one"
        worst = max(abs(h.error) for h in self.hidden)
        held = sum(h.held for h in self.hidden)
        level = 100 * self.hidden[0].predicted.level
        return (
            f"backtest: {held} of {len(self.hidden)} hidden rungs inside their {level:g}% interval, "
            f"largest error {100 * worst:.2f} %{', FAILED' if self.failed else ''}"
        )


@dataclass(frozen=True, eq=False)
class _Cut:
    """What each law said about one hidden rung, kept to score laws and stretch intervals later."""

    kept: int
    rung: int
    mixtures: tuple[Mixture, ...]
    truth: float

    def scores(self) -> np.ndarray:
        return np.array([mixture.log_density(self.truth) for mixture in self.mixtures])


@dataclass(frozen=True, eq=False)
class Record:
    """A backtest with what later forecasts learn from it: law weights and stretch."""

    backtest: Backtest
    weights: np.ndarray
    stretch: float
    df: float


def replay(laws: Sequence[Law], o: Observations, noise: Noise, *, seed: int, level: float = 0.9) -> Record:
    """Hide 1, 2, ... upper rungs, refit the laws, and forecast each hidden rung."""
    label = rungs(o)
    top = int(label.max())
    fewest = max(FEWEST_RUNGS, (top + 2) // 2)  # from less than half a ladder nobody would forecast its top
    enough = max(len(law.names) for law in laws)
    keeps = [kept for kept in range(fewest, top + 1) if np.sum(label < kept) >= enough]
    cuts = [cut for kept in keeps for cut in _cuts(laws, o, label, kept, noise, seed)]
    hidden: list[Hidden] = []
    for kept in sorted({cut.kept for cut in cuts}):
        known = [cut for cut in cuts if cut.kept < kept and cut.rung < kept]
        weights, stretch, _ = _learned(laws, known, [h for h in hidden if h.rung < kept])
        hidden += [_hidden(cut, weights, stretch, o, label, level) for cut in cuts if cut.kept == kept]
    return Record(Backtest(tuple(hidden)), *_learned(laws, cuts, hidden))


def _learned(laws: Sequence[Law], cuts: Sequence[_Cut], hidden: Sequence[Hidden]) -> tuple[np.ndarray, float, float]:
    """Law weights, stretch and degrees of freedom from what the past has shown; every cut counts once."""
    total = np.log([law.belief for law in laws])
    kept = {cut.kept for cut in cuts}
    for number in kept:
        total = total + SHARED * np.mean([cut.scores() for cut in cuts if cut.kept == number], axis=0)
    weights = np.exp(total - total.max())
    count = len({h.kept for h in hidden})
    square = (PRIOR_DF + count * _mean_square(hidden)) / (PRIOR_DF + count)
    return weights / weights.sum(), float(np.sqrt(square).clip(NARROWEST, 6.0)), PRIOR_DF + len(kept)


def _mean_square(hidden: Sequence[Hidden]) -> float:
    """Mean over cuts of the mean squared standardised error (each as if before any stretch)."""
    if not hidden:
        return 1.0
    kept = {h.kept for h in hidden}
    return float(np.mean([np.mean([h.z**2 for h in hidden if h.kept == number]) for number in kept]))


def _cuts(laws: Sequence[Law], o: Observations, label: Any, kept: int, noise: Noise, seed: int) -> list[_Cut]:
    below = o.where(label < kept)
    fits = [fit_law(law, below, draws=_DRAWS, seed=seed) for law in laws]
    top = size_at(o, np.flatnonzero(label == kept - 1))
    found = []
    for rung in range(kept, int(label.max()) + 1):
        runs = np.flatnonzero(label == rung)
        mean_noise = noise.relative / np.sqrt(len(runs))
        at = size_at(o, runs)
        mixtures = tuple(law_mixture(fit, at, top, mean_noise, PRIOR_DF) for fit in fits)
        found.append(_Cut(kept, rung, mixtures, float(np.mean(np.log(o.loss[runs])))))
    return found


def _hidden(cut: _Cut, weights: Any, stretch: float, o: Observations, label: Any, level: float) -> Hidden:
    mixture = combined(cut.mixtures, weights)
    low, below, median, above, high = mixture.quantile(np.array([0.5 - level / 2, *ONE_SD, 0.5 + level / 2]))
    low, high = median + stretch * (low - median), median + stretch * (high - median)
    return Hidden(
        kept=cut.kept,
        rung=cut.rung,
        size=float(np.exp(np.mean(np.log(o.size[label == cut.rung])))),
        predicted=Interval(float(np.exp(median)), float(np.exp(low)), float(np.exp(high)), level),
        truth=float(np.exp(cut.truth)),
        error=float(np.expm1(median - cut.truth)),
        z=float((cut.truth - median) / (0.5 * (above - below))),
    )
