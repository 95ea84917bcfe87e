"""The hyperparameter surface: one basin in the logarithms of the hyperparameters, its bottom moving as a power of size.

All runs of all sizes are fitted jointly: every cell (one size) has its own floor and its bottom may stray from the
power law by an amount that the cells themselves tell; basin and exponents are shared. So no run is wasted, and a cell
of three runs still says something. A newcomer would regress the best run of each cell: seeds choose that run (22-64 %
of a published grid lies within 1 % of its best). `envelope()` gives the floors, which are what a loss law should see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws import basin
from windtunnel.laws.observations import Observations
from windtunnel.notebook import marked, printed

UNSETTLED = 0.5  # an exponent of which the runs removed less than half of the doubt rests on belief (guess)


@dataclass(frozen=True, eq=False)
class Cells:
    """One entry a size: `place` (cells, sizes) in logs about the middle; estimates of the log `best` (cells, k) and of
    the `floor` of log loss, with standard errors; the number of `runs`; the log range that was tried (cells, k)."""

    place: np.ndarray
    best: np.ndarray
    best_error: np.ndarray
    floor: np.ndarray
    floor_error: np.ndarray
    runs: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Exponent:
    """How the best value of a hyperparameter moves with a size, with its standard error and the belief at the start."""

    hyperparameter: str
    size: str
    value: float
    error: float
    believed: tuple[float, float]

    @property
    def settled(self) -> float:
        """Share of the doubt that the runs removed: 0 rests on belief alone, 1 on the runs alone."""
        return float(max(1 - (self.error / self.believed[1]) ** 2, 0.0))


@dataclass(frozen=True, eq=False)
class Surface:
    """The fitted surface: `names` are the hyperparameters, `sizes` the size columns, in the order of the arrays."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    cells: Cells
    noise: float
    stray: np.ndarray
    converged: bool
    dropped: tuple[str, ...]
    caveats: tuple[str, ...]
    parameters: np.ndarray
    covariance: np.ndarray
    middle: np.ndarray
    runs: Observations

    _repr_pretty_ = printed

    def __str__(self) -> str:
        powers = [
            f"the best {e.hyperparameter} {'is believed to go' if e.settled < UNSETTLED else 'goes'} as {e.size} ** "
            f"{e.value:.2f} +- {e.error:.2f}"
            for e in self.exponents()
        ]
        return "\n".join([
            *marked(self.caveats),
            *(powers or [f"one size: the best {' and '.join(self.names)} there, and no exponent"]),
            f"swept at {len(self.runs)} size(s); one run scatters by {100 * self.noise:.2f} %",
        ])  # fmt: skip

    @property
    def layout(self) -> basin.Layout:
        """Where each group lies among the parameters."""
        return basin.Layout(len(self.names), len(self.sizes))

    def best(self, sizes: Any) -> dict[str, np.ndarray]:
        """The best value of each hyperparameter at sizes. Raises InputError where a needed size is missing."""
        found = np.exp(self._best(self.parameters, self.place(sizes)))
        return {name: found[..., i] for i, name in enumerate(self.names)}

    def excess(self, values: Mapping[str, Any], sizes: Any) -> np.ndarray:
        """Relative loss above the best at sizes, for values such as {"lr": 1e-3, "batch_tokens": 5e5}."""
        missing = [name for name in self.names if name not in values]
        if missing:
            raise InputError(f"The surface is in {', '.join(self.names)}; also state {', '.join(missing)}.")
        logs = np.stack(np.broadcast_arrays(*[np.log(np.asarray(values[n], float)) for n in self.names]), axis=-1)
        place = self.place(sizes)
        return np.expm1(self.rise(self.parameters, logs - self._best(self.parameters, place), place))

    def exponents(self) -> tuple[Exponent, ...]:
        """The exponent of every hyperparameter in every size."""
        found: list[Exponent] = []
        errors = np.sqrt(np.diag(self.covariance))
        for s, size in enumerate(self.sizes):
            for k, name in enumerate(self.names):
                at = self.layout.exponents.start + s * len(self.names) + k
                believed = basin.exponent_belief(name, size, self.names)
                found.append(Exponent(name, size, float(self.parameters[at]), float(errors[at]), believed))
        return tuple(found)

    def envelope(self) -> tuple[Observations, np.ndarray]:
        """The estimated least loss of every cell as observations (hyperparameters at their estimated best), and the
        relative standard error of each. What a loss law in the sizes should be fitted to."""
        logs = np.exp(self.cells.best)
        columns = {name: logs[:, i] for i, name in enumerate(self.names) if hasattr(self.runs, name)}
        return replace(self.runs, loss=np.exp(self.cells.floor), **columns), self.cells.floor_error

    def doubt(self, place: np.ndarray) -> np.ndarray:
        """Covariance of the true log best at places, what a single size strays included: (places, k, k)."""
        rows = self.layout.rows(place)
        return np.einsum("cip,pq,cjq->cij", rows, self.covariance, rows) + np.diag(self.stray**2)

    def draws(self, sizes: Any, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Parameter draws (count, parameters), and with them the true log best at one place: (count, k)."""
        generator = np.random.default_rng(seed)
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn = self.parameters + generator.standard_normal((count, len(self.parameters))) @ root.T
        strays = self.stray * generator.standard_normal((count, len(self.names)))
        return drawn, self._best(drawn, self.place(sizes)[0]) + strays

    def place(self, sizes: Any) -> np.ndarray:
        """Log sizes about the middle of the runs: (places, sizes)."""
        stated = {name: value for name in self.sizes if (value := getattr(sizes, name, None)) is not None}
        varies = dict(zip(self.sizes, np.ptp(self.cells.place, axis=0) > 0.05, strict=True))
        missing = [name for name in self.sizes if name not in stated and varies[name]]
        if missing:
            raise InputError(
                f"The best {' and '.join(self.names)} move with {', '.join(self.sizes)} here, but the target does not "
                f"state {', '.join(missing)}. Add {' and '.join(f'{name}=' for name in missing)}."
            )
        same = dict(zip(self.sizes, np.exp(self.middle), strict=True))  # what never varied is taken as the runs' own
        logs = [np.log(np.atleast_1d(np.asarray(stated.get(n, same[n]), float))) for n in self.sizes]
        return np.stack(np.broadcast_arrays(*logs), axis=-1) - self.middle if logs else np.zeros((1, 0))

    def rise(self, parameters: np.ndarray, away: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Log loss above the best, for parameters (..., parameters), away (..., runs, k), place (runs or 1, sizes)."""
        heights, slopes, trend = self.layout.basin(parameters)
        return np.exp(trend @ place.T) * basin.rise(heights, slopes, away)

    def _best(self, parameters: np.ndarray, place: np.ndarray) -> np.ndarray:
        centre, exponents = self.layout.bottom(parameters)
        return centre + np.einsum("...s,...sk->...k", place, exponents)
