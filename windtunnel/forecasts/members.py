"""Members of a forecast: every law, fitted to all runs and to the better parts of them, at every cut of the ladder.

A law that bends wrongly over a long ladder is often right about its upper half, so each is offered both ways. "Better"
means a lower fitted loss: on one axis that is the upper part of the ladder; in parameters and tokens it also drops the
far ends of isoFLOP curves. The loss of a run itself would be the obvious criterion and would choose lucky runs. Where
data repeat, high losses are overfitting, which larger models only do more of: all runs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np

from windtunnel.forecasts.constants import KEEPS
from windtunnel.laws.fitting import LawFit, Selected, law_fit
from windtunnel.laws.law import Law
from windtunnel.laws.noise import repeats, shrinkage, shrunk
from windtunnel.laws.observations import Observations
from windtunnel.laws.repeated import repeating
from windtunnel.laws.together import Wanted, fit_together


@dataclass(frozen=True, eq=False)
class Cuts:
    """What members say of every run, fitted to the `kept[c]` lowest rungs; the last cut keeps all.

    `centre` and `doubt` are log loss and its standard deviation from parameters: (cuts, members, runs).
    `spread` (cuts, runs) is the scatter about the closest law of runs as large as each. `prior` (members,) sums to 1.
    """

    kept: tuple[int, ...]
    label: np.ndarray
    centre: np.ndarray
    doubt: np.ndarray
    spread: np.ndarray
    prior: np.ndarray
    fits: tuple[tuple[Selected, int, float], ...]

    def law_fits(self, o: Observations, draws: Sequence[int], seed: int) -> tuple[LawFit, ...]:
        """The members fitted to all runs, each with its number of draws."""
        return tuple(law_fit(s, o, i, keep, count, seed) for (s, i, keep), count in zip(self.fits, draws, strict=True))


@dataclass(frozen=True, eq=False)
class Ladder:
    """What members are fitted to: `laws`, runs with their rungs (`label`), and how many rungs each cut keeps."""

    laws: Sequence[Law]
    observations: Observations
    label: np.ndarray
    kept: Sequence[int]

    @cached_property
    def below(self) -> np.ndarray:
        """Whether a run lies below each cut: (cuts, runs)."""
        return np.stack([self.label < k for k in self.kept])

    def wanted(self, law: Law) -> Wanted:
        """A law's fits to all runs below each cut."""
        return Wanted(law, self.observations, self.below.astype(float))


def fit_cuts(laws: Sequence[Law], o: Observations, label: np.ndarray, kept: Sequence[int]) -> Cuts:
    """Fit every law to every share of the runs below every cut; a share too small for a law is left out.

    `kept` counts the rungs (`label`) kept at each cut. Runs that differ only in their seed stay together.
    """
    return fit_all_cuts([Ladder(laws, o, label, kept)])[0]


def fit_all_cuts(ladders: Sequence[Ladder]) -> list[Cuts]:
    """`fit_cuts` of many ladders, whose fits are made together: to all runs below the cuts, then to the better."""
    wholes = _made([[each.wanted(law) for law in each.laws] for each in ladders])
    shares = [_shares(ladder, whole) for ladder, whole in zip(ladders, wholes, strict=True)]
    parts = _made([[each.wanted for each in some] for some in shares])
    return [_cuts(*each) for each in zip(ladders, wholes, shares, parts, strict=True)]


def _made(wanted: Sequence[Sequence[Wanted]]) -> list[list[Selected]]:
    """The fits of every ladder."""
    made = iter(fit_together(list(chain.from_iterable(wanted))))
    return [list(islice(made, len(each))) for each in wanted]


@dataclass(frozen=True, eq=False)
class _Share:
    """A fit to a share of the runs, and which of its selections is each cut's (-1: none)."""

    law: int
    keep: float
    wanted: Wanted
    index: np.ndarray


def _shares(ladder: Ladder, wholes: Sequence[Selected]) -> list[_Share]:
    if repeating(ladder.observations):
        return []
    cell = repeats(ladder.observations)
    cells = [np.unique(cell[runs]) for runs in ladder.below]
    found = [
        _share(ladder, number, whole, keep, cell, cells) for number, whole in enumerate(wholes) for keep in KEEPS[1:]
    ]
    return [share for share in found if share is not None]


def _share(ladder: Ladder, number: int, whole: Selected, keep: float, cell: np.ndarray, cells: Any) -> _Share | None:
    """The share of the sizes with the lowest fitted loss at each cut that has enough.

    None where even the last cut, which keeps all, has too few.
    """
    chosen, index = [], []
    for runs, sizes, predicted in zip(ladder.below, cells, whole.predicted, strict=True):
        count = round(keep * len(sizes))
        enough = count > len(whole.law.names)
        index.append(len(chosen) if enough else -1)
        if enough:
            fitted = np.bincount(cell[runs], predicted[runs]) / np.maximum(np.bincount(cell[runs]), 1)
            fitted = np.round(np.log(fitted[sizes]), 9)  # so that the last bit never decides between equals
            best = sizes[np.argsort(fitted, kind="stable")[:count]]
            chosen.append((runs & np.isin(cell, best)).astype(float))
    if index[-1] < 0:
        return None
    return _Share(number, keep, Wanted(whole.law, ladder.observations, np.array(chosen)), np.array(index))


def _cuts(ladder: Ladder, wholes: list[Selected], shares: list[_Share], parts: list[Selected]) -> Cuts:
    o, everywhere = ladder.observations, np.arange(len(ladder.kept))
    centre, doubt, prior, fits = [], [], [], []
    for number, (law, whole) in enumerate(zip(ladder.laws, wholes, strict=True)):
        members = [(1.0, whole, everywhere)]
        members += [(s.keep, part, s.index) for s, part in zip(shares, parts, strict=True) if s.law == number]
        for keep, part, index in members:
            own, at = index[:, None] >= 0, np.maximum(index, 0)
            centre.append(np.log(np.where(own, part.predicted[at], whole.predicted)))
            doubt.append(np.where(own, part.doubt[at], whole.doubt))
            prior.append(law.belief / len(members))
            fits.append((part, int(index[-1]), keep))
    return Cuts(
        kept=tuple(ladder.kept),
        label=ladder.label,
        centre=np.stack(centre, axis=1),
        doubt=np.stack(doubt, axis=1),
        spread=_scatter(np.min([whole.spread for whole in wholes], axis=0), o, ladder.below),
        prior=np.array(prior) / np.sum(prior),
        fits=tuple(fits),
    )


def _scatter(spread: np.ndarray, o: Observations, below: np.ndarray) -> np.ndarray:
    """Scatter of runs of every size, from that of the runs below each cut: (cuts, runs)."""
    size = np.log(o.size)
    return np.stack(
        [shrunk(s, size, size[runs].mean(), shrinkage(o.where(runs))) for s, runs in zip(spread, below, strict=True)]
    )
