"""Odd rungs: those out of line with the law that all the others follow, above all a smallest one that is too small.

Each rung is left out, foretold from the others, and compared, with Bonferroni's care for having looked at all of them.
In power-law worlds (2026-11) none of 81 sound ladders was accused; a rung 5 % off was named in 73 % of 120, a smallest
one 10 % off in 82 % of 40 (worlds with 0.05 to 1 % of noise).
What a newcomer would get wrong: a bad rung pulls the law towards itself, so its residual in the whole fit looks small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from windtunnel.forecasts.design import by_law, law_error
from windtunnel.forecasts.interval import Mixture
from windtunnel.forecasts.place import located, runs_of
from windtunnel.ladder import Size, Target, compact
from windtunnel.laws.fitting import Selected, gradient
from windtunnel.laws.law import Sizes
from windtunnel.laws.noise import TYPICAL_DF, rungs
from windtunnel.laws.observations import Observations
from windtunnel.laws.together import fit_selections
from windtunnel.notebook import printed

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

FALSE_ALARMS = 0.05  # share of sound ladders in which some rung may be called odd
FEWEST = 5  # with fewer rungs the others do not settle a law that could accuse one


@dataclass(frozen=True, kw_only=True)
class OddRung:
    """A rung out of line: number `rung` of `count` (0 the smallest), at `size` (of the ladder's `axis`).

    `excess` is its mean loss over what the others foretell, minus 1; `probability` that a sound rung is so far off.
    `change` is by what share the target's loss changes without it, `matters` whether that is beyond its 90 % interval.
    """

    rung: int
    count: int
    size: float
    axis: str
    runs: int
    excess: float
    probability: float
    change: float | None = None
    matters: bool = False

    _repr_pretty_ = printed

    def __str__(self) -> str:
        names = {0: "The smallest rung", self.count - 1: "The top rung"}
        which = names.get(self.rung, f"Rung {self.rung + 1} of {self.count}")
        unless = {0: "It may be too small to be in the law; leave it out.", self.count - 1: "Check how it was trained."}
        remedy = unless.get(self.rung, "Check how it was trained, or train it again.")
        change = "" if self.change is None else f" Without it the forecast changes by {100 * self.change:+.1f} %"
        change += "" if self.change is None else (", which its interval does not allow." if self.matters else ".")
        return (
            f"{which} ({compact(self.size)} {self.axis}) is out of line with the law of the others by "
            f"{100 * self.excess:+.1f} % (p = {self.probability:.1g}).{change} {remedy}"
        )


def odd_rungs(fit: Fit, target: Target | None = None, *, size: Size | None = None) -> tuple[OddRung, ...]:
    """The rungs that are out of line with the others, oddest first; none with fewer than 5 rungs.

    With a `target`, each also says what the forecast becomes without it.
    """
    o = runs_of(fit)
    label = rungs(o)
    count = int(label.max()) + 1
    if count < FEWEST:
        return ()
    tested = _tested(fit, o, label, count)
    odd = [found for found in tested if found.probability < FALSE_ALARMS / count]
    odd = [found if target is None else _weighed(fit, found, label, target, size) for found in odd]
    return tuple(sorted(odd, key=lambda found: found.probability))


def _tested(fit: Fit, o: Observations, label: np.ndarray, count: int) -> list[OddRung]:
    """Every rung against the laws of the others, all fitted as one batch."""
    others = (label != np.arange(count)[:, None]).astype(float)
    weights = np.array([weight for _, weight in by_law(fit)])
    fits = [fit_selections(law, o, others) for law, _ in by_law(fit)]
    covariances = [found.covariance for found in fits]
    tested = []
    for rung in range(count):
        inside, outside = o.where(label == rung), o.where(label != rung)
        said = [_said(found, cov, label, rung) for found, cov in zip(fits, covariances, strict=True)]
        noise, df = min((_scatter(found, label, rung) for found in fits), key=lambda pair: pair[0])
        known = noise**2 / len(inside) + _error(fit, outside, inside)
        centres, doubts = np.array(said).T
        mixture = Mixture(centres, weights / weights.sum(), np.sqrt(doubts + known), df)
        tested.append(_compared(mixture, inside, rung, count))
    return tested


def _compared(mixture: Mixture, inside: Observations, rung: int, count: int) -> OddRung:
    """A rung's mean log loss beside what the others foretell."""
    away = float(np.mean(np.log(inside.loss)))
    below = float(mixture.cdf(away))
    return OddRung(
        rung=rung,
        count=count,
        size=float(np.exp(np.mean(np.log(inside.size)))),
        axis=inside.axis,
        runs=len(inside),
        excess=float(np.expm1(away - mixture.quantile(0.5))),
        probability=2 * min(below, 1 - below),
    )


def _said(found: Selected, covariance: np.ndarray, label: np.ndarray, rung: int) -> tuple[float, float]:
    """Mean log loss of a rung by a law fitted to the others, and its variance from the parameters."""
    at = label == rung
    slope = gradient(found.law, found.theta[[rung]], found.sizes)[0][at].mean(axis=0)
    return float(np.mean(np.log(found.predicted[rung, at]))), float(slope @ covariance[rung] @ slope)


def _scatter(found: Selected, label: np.ndarray, rung: int) -> tuple[float, float]:
    """Standard deviation of one run about a law, and its degrees of freedom, the typical noise counting as one more."""
    df = max(int(np.sum(label != rung)) - found.theta.shape[1], 0)
    return float(found.spread[rung]), TYPICAL_DF + df


def _error(fit: Fit, outside: Observations, inside: Observations) -> float:
    """Variance of the law's own error at a rung, seen from the nearest of the others."""
    middle = int(np.argsort(inside.size)[len(inside) // 2])
    near = int(np.argmin(np.abs(np.log(outside.size / inside.size[middle]))))
    here, there = Sizes.of(inside, slice(middle, middle + 1)), Sizes.of(outside, slice(near, near + 1))
    return law_error(fit, there, here)


def _weighed(fit: Fit, odd: OddRung, label: np.ndarray, target: Target, size: Size | None) -> OddRung:
    """The odd rung with what the target's forecast becomes without it."""
    from windtunnel.forecasts.fit import fit as fitted

    goal = located(fit.observations, target, size).sizes
    without = fitted(fit.observations.where(label != odd.rung), [law for law, _ in by_law(fit)]).predict(goal)
    whole = fit.predict(goal).interval(0.9)
    median = float(without.quantile(0.5))
    change = float(np.expm1(median - whole.median))
    return replace(odd, change=change, matters=not whole.holds(median))
