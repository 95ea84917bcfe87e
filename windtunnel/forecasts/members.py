"""Members of a forecast: every law, fitted to all runs and to the better parts of them, at every cut of the ladder.

A law that bends wrongly over a long ladder is often right about its upper half, so each is offered both ways. "Better"
means a lower fitted loss: on one axis that is the upper part of the ladder; in parameters and tokens it also drops the
far ends of isoFLOP curves. The loss of a run itself would be the obvious criterion and would choose lucky runs. Where
data repeat, high losses are overfitting, which larger models only do more of: all runs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.forecasts.constants import KEEPS
from windtunnel.laws.fitting import LawFit, Selected, fit_selections, gradient, law_fit
from windtunnel.laws.law import Law
from windtunnel.laws.noise import repeats, shrinkage, shrunk
from windtunnel.laws.observations import Observations
from windtunnel.laws.repeated import repeating


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


def fit_cuts(laws: Sequence[Law], o: Observations, label: np.ndarray, kept: Sequence[int]) -> Cuts:
    """Fit every law to every share of the runs below every cut; a share too small for a law is left out.

    `kept` counts the rungs (`label`) kept at each cut. Runs that differ only in their seed stay together.
    """
    below, cell, keeps = np.stack([label < k for k in kept]), repeats(o), KEEPS[:1] if repeating(o) else KEEPS
    centre, doubt, prior, fits, spreads = [], [], [], [], []
    for law in laws:
        whole = fit_selections(law, o, below.astype(float))
        spreads.append(whole.spread)
        whole_doubt = _doubt(whole, o)
        parts = [(1.0, whole, np.arange(len(kept)))]
        parts += [(keep, *part) for keep in keeps[1:] if (part := _part(law, o, below, cell, whole, keep))]
        for keep, part, index in parts:
            own, at = index >= 0, np.maximum(index, 0)
            centre.append(np.log(np.where(own[:, None], part.predicted[at], whole.predicted)))
            part_doubt = whole_doubt if part is whole else _doubt(part, o)
            doubt.append(np.where(own[:, None], part_doubt[at], whole_doubt))
            prior.append(law.belief / len(parts))
            fits.append((part, int(index[-1]), keep))
    return Cuts(
        kept=tuple(kept),
        label=label,
        centre=np.stack(centre, axis=1),
        doubt=np.stack(doubt, axis=1),
        spread=_scatter(np.min(spreads, axis=0), o, below),
        prior=np.array(prior) / np.sum(prior),
        fits=tuple(fits),
    )


def _scatter(spread: np.ndarray, o: Observations, below: np.ndarray) -> np.ndarray:
    """Scatter of runs of every size, from that of the runs below each cut: (cuts, runs)."""
    size = np.log(o.size)
    return np.stack(
        [shrunk(s, size, size[runs].mean(), shrinkage(o.where(runs))) for s, runs in zip(spread, below, strict=True)]
    )


def _part(
    law: Law, o: Observations, below: np.ndarray, cell: np.ndarray, whole: Selected, keep: float
) -> tuple[Selected, np.ndarray] | None:
    """The fit to a share of the sizes at each cut that has enough, and where each cut's fit is (-1: nowhere).

    None where even the last cut, which keeps all, has too few.
    """
    chosen, index = [], []
    for c, runs in enumerate(below):
        sizes = np.unique(cell[runs])
        count = round(keep * len(sizes))
        enough = count > len(law.names)
        index.append(len(chosen) if enough else -1)
        if enough:
            fitted = np.bincount(cell[runs], whole.predicted[c, runs]) / np.maximum(np.bincount(cell[runs]), 1)
            best = sizes[np.argsort(fitted[sizes], kind="stable")[:count]]
            chosen.append((runs & np.isin(cell, best)).astype(float))
    return (fit_selections(law, o, np.array(chosen)), np.array(index)) if index[-1] >= 0 else None


def _doubt(fitted: Selected, o: Observations) -> np.ndarray:
    slopes = gradient(fitted.law, fitted.theta, o)
    return np.sqrt(np.einsum("mnp,mpq,mnq->mn", slopes, fitted.covariance(), slopes))
