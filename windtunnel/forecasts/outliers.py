"""Odd runs: a single run far off the law that all the others follow, named so that it can be looked up.

Each run is left out, foretold from the others by the law that then scatters least, and accused where it is further off
than chance and the law's own error allow. What a newcomer would get wrong: on a short ladder a wild run
pulls the law and widens the scatter so far that its residual in the whole fit looks ordinary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from windtunnel.forecasts.constants import LEARNED
from windtunnel.ladder import compact
from windtunnel.laws.fitting import Selected
from windtunnel.laws.law import Law
from windtunnel.laws.noise import TYPICAL_DF
from windtunnel.laws.observations import Observations
from windtunnel.laws.together import fit_selections
from windtunnel.notebook import printed

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

FALSE_ALARMS = 0.02  # share of sound tables in which some run may be called odd
SCATTERS = 5.0  # and it must be this many standard deviations off (a guess that keeps heavy-tailed noise out)
FEWEST = 5  # with fewer runs the others do not settle a law that could accuse one
MOST = 3  # runs that are named: with more the table is not one of odd runs
SUSPECTS = 24  # runs left out one by one: those furthest from the law of all


@dataclass(frozen=True, kw_only=True)
class OddRun:
    """A run out of line: its place in `fit.observations`, `excess` over what the others foretell (a share), and `z`."""

    index: int
    name: str
    excess: float
    z: float

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return (
            f"{self.name} is {100 * self.excess:+.1f} % off the law of all other runs ({abs(self.z):.0f} times their "
            f"scatter): something went wrong in it, or no law here holds at its size. See what changes without it."
        )


def odd_runs(fit: Fit) -> tuple[OddRun, ...]:
    """Runs far off the law of the others, oddest first; none with fewer than 5 runs.

    One at a time: with a wild run among the others its neighbours look odd too.
    """
    o = fit.observations
    laws = [law for law in fit.laws if law.keep == 1.0]
    residuals = np.min([np.abs(law.residuals) / law.spread for law in laws], axis=0)
    suspects, found = np.argsort(-residuals, kind="stable")[:SUSPECTS], []
    while len(found) < MOST and len(o) - len(found) >= FEWEST:
        suspects = np.array([run for run in suspects if run not in [odd.index for odd in found]])
        odd = _oddest([law.law for law in laws], o, suspects, [odd.index for odd in found])
        if odd is None:
            break
        found.append(odd)
    return tuple(found)


def _oddest(laws: list[Law], o: Observations, suspects: np.ndarray, gone: list[int]) -> OddRun | None:
    """The oddest of the suspects, by the law that scatters least without it; None where none is odd."""
    if not len(suspects):
        return None
    spread, excess, z = np.array([_left_out(law, o, suspects, gone) for law in laws]).transpose(1, 0, 2)
    best = np.argmin(spread, axis=0), np.arange(len(suspects))
    first = int(np.argmax(np.abs(z[best])))
    if not z[best][first]:
        return None
    run, share = int(suspects[first]), float(np.expm1(excess[best][first]))
    return OddRun(index=run, name=_name(o, run), excess=share, z=float(z[best][first]))


def _left_out(
    law: Law, o: Observations, suspects: np.ndarray, gone: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The others' scatter, each suspect's log distance from their law, and that as a t (0 where nothing is odd)."""
    others = 1.0 - np.eye(len(o))[suspects]
    others[:, gone] = 0.0
    found = fit_selections(law, o, others)
    rows = np.arange(len(suspects))
    away = np.log(o.loss[suspects] / found.predicted[rows, suspects])
    z = away / np.sqrt(found.spread**2 + found.doubt[rows, suspects] ** 2 + _law_error(found, o, suspects))
    df = TYPICAL_DF + max(len(o) - 1 - len(gone) - len(law.names), 0)
    odd = (np.abs(z) > SCATTERS) & (2 * special.stdtr(df, -np.abs(z)) * len(o) < FALSE_ALARMS)
    return found.spread, away, np.where(odd, z, 0.0)


def _law_error(found: Selected, o: Observations, suspects: np.ndarray) -> np.ndarray:
    """Variance of the law's own error at each suspect, as if the run nearest in size were the ladder's top."""
    apart = np.abs(np.log(o.size / o.size[suspects, None]))
    apart[np.arange(len(suspects)), suspects] = np.inf
    near, rows = np.argmin(apart, axis=1), np.arange(len(suspects))
    fall = np.log(found.predicted[rows, suspects] / found.predicted[rows, near])
    return (LEARNED.law_error**2 + LEARNED.law_error_far**2 * apart[rows, near]) * fall**2


def _name(o: Observations, run: int) -> str:
    sizes = [(name, getattr(o, name)) for name in ("params", "tokens")]
    stated = [f"{compact(float(column[run]))} {name}" for name, column in sizes if column is not None]
    stated = stated or [f"{compact(float(o.size[run]))} {o.axis}"]
    named = "" if o.key is None else f" {o.key[run]}"
    seed = "" if o.seed is None or not o.seed[run] else f", seed {o.seed[run]}"
    return f"The run{named} with {', '.join(stated)}{seed} and loss {o.loss[run]:.5g}"
