"""The best hyperparameters at a target, and what using them is expected to cost: the answer of a fitted surface.

Basins are flat, so the regret of using the medians is small even where the values are known to a factor of two only;
both are reported, and which sweep would narrow them. A newcomer would read the interval of lr as a risk: the risk is
the regret. Regret counts what these hyperparameters cost, not how well the loss itself is forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.files import shape_of
from windtunnel.forecasts.interval import Interval, digits
from windtunnel.ladder import compact
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations
from windtunnel.laws.prepare import VARIES
from windtunnel.laws.surface import UNSETTLED, Exponent, Surface
from windtunnel.laws.surface_fit import fit_surface
from windtunnel.notebook import marked, printed

_DRAWS = 1000
LOST = 1.0  # a run whose loss is twice the best has learned nothing: worse is not counted, no basin reaches that far
COSTLY = 0.01  # a regret that may pass 1 % of the loss is worth a caveat (guess)


@dataclass(frozen=True, kw_only=True)
class BestHyperparameters:
    """`values` by name, in the runs' own units; `regret` is the relative loss above the best from using the medians.

    `regret` is an interval of the draws and `expected_regret` their mean; `exponents` say how each best value moves
    with each size, keyed "lr in params". `caveats` say what is not known and which sweep would tell.
    """

    values: Mapping[str, Interval]
    regret: Interval
    expected_regret: float
    exponents: Mapping[str, Interval]
    caveats: tuple[str, ...]
    runs: int
    cells: int

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return "\n".join([*marked(self.caveats), self.summary])

    @property
    def summary(self) -> str:
        """The values and what using them costs, in one line."""
        stated = ", ".join(f"{name} {interval}" for name, interval in self.values.items())
        return f"{stated}; using the medians costs {100 * self.expected_regret:.2g} % of the loss (expected)"

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {
            "values": {name: interval.to_json() for name, interval in self.values.items()},
            "regret": self.regret.to_json(),
            "expected_regret": self.expected_regret,
            "exponents": {name: interval.to_json() for name, interval in self.exponents.items()},
            "caveats": list(self.caveats),
            "runs": self.runs,
            "cells": self.cells,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BestHyperparameters:
        """The answer that `to_json` wrote."""
        with shape_of("These best hyperparameters", "give what to_json returned."):
            read: dict[str, Any] = {**data, "caveats": tuple(data["caveats"])}
            read["regret"] = Interval.from_json(data["regret"])
            for name in ("values", "exponents"):
                read[name] = {key: Interval.from_json(value) for key, value in data[name].items()}
            return cls(**read)


def best_hyperparameters(
    evidence: Observations | Surface, sizes: Sizes, level: float = 0.9, *, seed: int = 0
) -> BestHyperparameters:
    """The best hyperparameters at one target, from runs or from a surface already fitted to them.

    Raises InputError where no hyperparameter was searched at one size, or where the target lacks a size they move with.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; it is the probability that the interval holds the truth, as in 0.9.")
    if not isinstance(evidence, Observations | Surface):
        raise InputError(
            f"Observations are needed, or a Surface; a {type(evidence).__name__} was given. `wt.read_runs` reads a "
            f"table or DataFrame."
        )
    surface = evidence if isinstance(evidence, Surface) else fit_surface(evidence)
    place = surface.place(sizes)
    if len(place) != 1:
        raise InputError(f"The target has {len(place)} sizes; ask for one target at a time.")
    best = surface.best(sizes)
    reach = special.ndtri(0.5 + level / 2)
    errors = np.sqrt(np.diag(surface.doubt(place)[0]))
    values = {n: _times(float(best[n][0]), float(reach * e), level) for n, e in zip(surface.names, errors, strict=True)}
    regret, expected = _regret(surface, sizes, level, seed)
    exponents = surface.exponents()
    return BestHyperparameters(
        values=values,
        regret=regret,
        expected_regret=expected,
        exponents={f"{e.hyperparameter} in {e.size}": _around(e, float(reach), level) for e in exponents},
        caveats=_caveats(surface, exponents, place, regret),
        runs=int(surface.cells.runs.sum()),
        cells=len(surface.cells.runs),
    )


def _times(median: float, reach: float, level: float) -> Interval:
    return Interval(median, median * float(np.exp(-reach)), median * float(np.exp(reach)), level)


def _around(exponent: Exponent, reach: float, level: float) -> Interval:
    away = reach * exponent.error
    return Interval(exponent.value, exponent.value - away, exponent.value + away, level)


def _regret(surface: Surface, sizes: Sizes, level: float, seed: int) -> tuple[Interval, float]:
    """Excess of the medians in worlds drawn from the fit: basin, optimum and its stray are all drawn."""
    drawn, truth = surface.draws(sizes, _DRAWS, seed)
    used = np.log([surface.best(sizes)[name][0] for name in surface.names])
    rises = surface.rise(drawn, (used - truth)[:, None, :], surface.place(sizes))[:, 0]
    costs = np.expm1(np.minimum(rises, np.log1p(LOST)))
    low, median, high = np.quantile(costs, [0.5 - level / 2, 0.5, 0.5 + level / 2])
    return Interval(float(median), float(low), float(high), level), float(np.mean(costs))


def _caveats(surface: Surface, exponents: tuple[Exponent, ...], place: np.ndarray, regret: Interval) -> tuple[str, ...]:
    found = [*surface.caveats, *(f"{note}." for note in surface.dropped)]
    if not surface.converged:
        found.append("The fit of the surface did not settle; treat its answer as rough.")
    found += [note for k, name in enumerate(surface.names) for note in _edges(surface, k, name)]
    weak = [e for e in exponents if e.settled < UNSETTLED and _beyond(surface, e.size, place)]
    found += [
        f"How the best {e.hyperparameter} moves with {e.size} rests mostly on published exponents "
        f"({e.believed[0]:g} +- {e.believed[1]:g}), little on these runs."
        for e in weak
    ]
    if len(surface.cells.runs) == 1:
        found.append("All runs are of one size: nothing in them says how the best values move with size.")
    if surface.sizes and (weak or regret.high > COSTLY):
        found += _advice(surface, place)
    if regret.high > COSTLY:
        most = "all of the loss or more" if regret.high >= LOST else f"up to {100 * regret.high:.2g} % of the loss"
        found.append(f"Using these values may cost {most} (at {regret.level:.0%}).")
    return tuple(found)


def _beyond(surface: Surface, size: str, place: np.ndarray) -> bool:
    """Whether the target lies beyond the runs in a size, so that its exponent counts."""
    s = surface.sizes.index(size)
    seen = surface.cells.place[:, s]
    return bool(place[0, s] < seen.min() - VARIES or place[0, s] > seen.max() + VARIES)


def _edges(surface: Surface, k: int, name: str) -> list[str]:
    """The optimum lay beyond what was tried at most sizes that tried several: its basin was seen from one side only."""
    cells, found = surface.cells, []
    searched = cells.high[:, k] > cells.low[:, k]
    best, low, high = (column[searched, k] for column in (cells.best, cells.low, cells.high))
    for side, further, beyond, last in (
        ("above", "higher", best > high, np.exp(high.max(initial=-np.inf))),
        ("below", "lower", best < low, np.exp(low.min(initial=np.inf))),
    ):
        if np.sum(beyond) >= 0.5 * len(beyond) > 0:
            found.append(
                f"The best {name} seems to lie {side} all values tried at {int(np.sum(beyond))} of {len(beyond)} sizes "
                f"with a search ({side} {digits(float(last))}); try {further} {name} there."
            )
    return found


def _advice(surface: Surface, place: np.ndarray) -> list[str]:
    """The affordable size at which a sweep would narrow the best values at the target most."""
    cells = surface.cells
    budget = float(np.max(cells.place.sum(axis=1))) + np.log(1.05)  # no dearer than the dearest size tried
    axes = [np.unique([c.min() - np.log(4), c.min(), c.mean(), c.max(), c.max() + np.log(4)]) for c in cells.place.T]
    options = np.array([option for option in product(*axes) if sum(option) <= budget])
    gains = [_gain(surface, option[None], place) for option in options]
    sizes = np.exp(options[int(np.argmax(gains))] + surface.middle)
    where = ", ".join(f"{name}={compact(float(size))}" for name, size in zip(surface.sizes, sizes, strict=True))
    return [
        f"A sweep of {' and '.join(surface.names)} at {where} would narrow this most (no dearer than the runs given)."
    ]


def _gain(surface: Surface, option: np.ndarray, place: np.ndarray) -> float:
    """How much of the expected regret at the target a well-swept cell would remove: trace of curvature x variance."""
    here, there = surface.layout.rows(option)[0], surface.layout.rows(place)[0]
    heights, slopes, _ = surface.layout.basin(surface.parameters)
    curvature = np.einsum("t,ti,tj->ij", np.exp(heights), slopes, slopes)
    cross = there @ surface.covariance @ here.T
    removed = cross @ np.linalg.solve(surface.doubt(option)[0], cross.T)
    return float(np.trace(curvature @ removed))
