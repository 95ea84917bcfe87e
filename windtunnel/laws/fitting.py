"""Laws fitted to observations, on many selections of runs at once.

Robust least squares on relative errors (Huber), with shape parameters drawn weakly to published values. The selections
(the runs below a cut, the better half of them) are what backtests are made of; they differ only in weights, so they are
solved as one batch (together.py makes batches of many). A newcomer would expect draws by resampling runs: ladders are
too short for that. Draws refit losses made anew from the law's own curve with noise of the size the residuals show and
with beliefs redrawn, so where data cannot tell a floor the draws spread over what is believable.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from windtunnel.laws.law import Law
from windtunnel.laws.noise import TYPICAL_NOISE
from windtunnel.laws.observations import Observations
from windtunnel.laws.solve import scan, solve

HUBER = 2.0  # residuals beyond this many standard deviations count linearly (guess; 1.345 is usual, ladders are short)
_ROUNDS = 4  # reweightings; the weights settle in two or three
_STEP = 1e-4  # of the logarithm of a shape parameter, for derivatives
_RIDGE = 1e-9  # keeps directions invertible that neither runs nor beliefs settle


@dataclass(frozen=True, eq=False)
class LawFit:
    """A law's `theta` (named by `law.names`), `draws` (draws, parameters), log residuals of all runs and their spread.

    `keep` is the share of the runs, those with the lowest loss, that it was fitted to; `covariance` is that of the
    logarithms of the parameters; `unfinished` counts searches that ended still falling. Draws are refitted when they
    are first asked for (an interval needs none): `drawn` is what they are made of, or the draws themselves.
    """

    law: Law
    theta: np.ndarray
    drawn: Replicates | np.ndarray
    residuals: np.ndarray
    spread: float
    df: int
    at_bound: tuple[str, ...] = ()
    keep: float = 1.0
    covariance: np.ndarray | None = None
    unfinished: int = 0

    @cached_property
    def draws(self) -> np.ndarray:
        """Parameters of refitted replicates: (draws, parameters)."""
        return self.drawn.refitted() if isinstance(self.drawn, Replicates) else self.drawn

    def log_loss(self, sizes: Any) -> np.ndarray:
        """Draws of the logarithm of the expected loss: (draws, runs)."""
        return np.log(np.maximum(self.law(self.draws, sizes), 1e-300))

    def centre(self, sizes: Any) -> np.ndarray:
        """Logarithm of the loss of the best parameters: (runs,)."""
        return np.log(np.maximum(self.law(self.theta, sizes), 1e-300))

    def deviation(self, sizes: Any) -> np.ndarray:
        """Standard deviation of `centre` from the parameters' own doubt, to first order: (runs,)."""
        assert self.covariance is not None
        slopes = gradient(self.law, self.theta[None], sizes)[0]
        return np.sqrt(np.einsum("np,pq,nq->n", slopes, self.covariance, slopes))

    def parameters(self) -> dict[str, float]:
        """Best parameters by name."""
        return {name: float(value) for name, value in zip(self.law.names, self.theta, strict=True)}


@dataclass(frozen=True, eq=False)
class Replicates:
    """`count` sets of losses to be made from a fit to the `chosen` runs, with the weights they were fitted with."""

    law: Law
    theta: np.ndarray
    observations: Observations
    chosen: np.ndarray
    curve: np.ndarray
    robust: np.ndarray
    spread: float
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def refitted(self) -> np.ndarray:
        """Parameters of each: (count, P)."""
        law, curve, n = self.law, self.curve, len(self.curve)
        generator = np.random.default_rng(self.seed)
        df = 1 + max(n - len(law.names), 0)
        noise = np.sqrt(df / generator.chisquare(df, self.count)).clip(0.4, 4.0)  # is itself only estimated
        losses = curve * np.exp(self.spread * noise[:, None] * generator.standard_normal((self.count, n)))
        beliefs = np.ones((self.count, len(law.typical)))
        for i, typical in enumerate(law.typical):
            if typical is not None:
                beliefs[:, i] = typical[0] * np.exp(typical[1] * generator.standard_normal(self.count))
        weights = self.robust / (self.spread * curve) ** 2
        begin = np.tile(self.theta[law.linear :], (self.count, 1))
        return solve(law, self.observations.where(self.chosen), losses, weights, beliefs, begin).theta


@dataclass(frozen=True, eq=False)
class Selected:
    """A law fitted to M selections of the same n runs: parameters (M, P), predicted losses (M, n), spread (M,).

    `covariance` (M, P, P) is that of the logarithms of the parameters, to first order; `doubt` (M, n) the standard
    deviation of every run's log loss that follows from it.
    """

    law: Law
    sizes: Any
    selection: np.ndarray
    theta: np.ndarray
    predicted: np.ndarray
    robust: np.ndarray
    spread: np.ndarray
    unfinished: np.ndarray
    covariance: np.ndarray
    doubt: np.ndarray

    def rows(self, rows: slice, law: Law, sizes: Any) -> Selected:
        """Some of the selections."""
        own = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in ("law", "sizes")}
        return Selected(law, sizes, **own)


def fit_rows(law: Law, sizes: Any, loss: np.ndarray, selection: np.ndarray, begin: np.ndarray) -> Selected:
    """Fit a law to every selection, (R, n) weights: 0 for a run left out, else 1; the search starts at `begin` (R, k).

    `loss` is (R, n). Sizes, and numbers that the law holds, may differ by row: (R, n) and (R, 1).
    """
    rows = len(loss)
    beliefs = _medians(law, rows)
    df = np.maximum((selection > 0).sum(axis=1, keepdims=True) - len(law.names), 0)
    predicted, robust, spread = loss, np.ones(loss.shape), np.full((rows, 1), TYPICAL_NOISE)
    theta, unfinished = np.zeros((rows, 0)), np.zeros(rows, bool)
    for _ in range(_ROUNDS):
        found = solve(law, sizes, loss, selection * robust / (spread * predicted) ** 2, beliefs, begin)
        theta, unfinished = found.theta, found.unfinished
        begin = theta[:, law.linear :]
        predicted = np.maximum(law(theta, sizes), 1e-12 * loss)
        residual = np.log(loss / predicted)
        squares = TYPICAL_NOISE**2 + np.sum(np.minimum(selection, 1) * robust * residual**2, axis=1, keepdims=True)
        spread = np.sqrt(squares / (1 + df))
        robust = np.minimum(1.0, HUBER / np.maximum(np.abs(residual) / spread, 1e-12))
    slopes = gradient(law, theta, sizes)
    covariance = _covariance(law, slopes, selection * robust / spread**2)
    doubt = np.sqrt(np.sum((slopes @ covariance) * slopes, axis=-1))
    return Selected(law, sizes, selection, theta, predicted, robust, spread[:, 0], unfinished, covariance, doubt)


def _covariance(law: Law, slopes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    precision = np.swapaxes(slopes * weights[..., None], 1, 2) @ slopes
    believed = [0.0] * law.linear + [0.0 if typical is None else typical[1] ** -2 for typical in law.typical]
    return np.linalg.pinv(precision + np.diag(believed) + _RIDGE * np.eye(len(believed)), hermitian=True)


def starts_of(law: Law, sizes: Any, loss: np.ndarray, selection: np.ndarray) -> np.ndarray:
    """Where the search of each row begins, by a scan: (R, k)."""
    return scan(law, sizes, loss, selection / (TYPICAL_NOISE * loss) ** 2, _medians(law, len(selection)))


def _medians(law: Law, rows: int) -> np.ndarray:
    return np.tile([1.0 if typical is None else typical[0] for typical in law.typical], (rows, 1))


def fit_law(law: Law, observations: Observations, *, draws: int, seed: int) -> LawFit:
    """Fit one law to all runs; the same observations and seed give the same digits."""
    o, all_runs = observations, np.ones((1, len(observations)))
    found = fit_rows(law, o, o.loss[None], all_runs, starts_of(law, o, o.loss[None], all_runs))
    return law_fit(found, o, 0, 1.0, draws, seed)


def law_fit(found: Selected, o: Observations, index: int, keep: float, draws: int, seed: int) -> LawFit:
    """One selection's fit with its draws."""
    law, theta, spread = found.law, found.theta[index], float(found.spread[index])
    chosen = np.flatnonzero(found.selection[index])
    curve, robust = found.predicted[index, chosen], found.robust[index, chosen]
    return LawFit(
        law=law,
        theta=theta,
        drawn=Replicates(law, theta, o, chosen, curve, robust, spread, draws, seed),
        residuals=np.log(o.loss / found.predicted[index]),
        spread=spread,
        df=max(len(chosen) - len(law.names), 0),
        at_bound=_at_bound(law, theta),
        keep=keep,
        covariance=found.covariance[index],
        unfinished=int(found.unfinished.sum()),
    )


def gradient(law: Law, theta: np.ndarray, sizes: Any) -> np.ndarray:
    """Derivative of log loss by the logarithm of every parameter: theta (M, P) to (M, runs, P)."""
    shape = theta[:, law.linear :]
    loss = np.maximum(law(theta, sizes), 1e-300)
    by_linear = law.terms(shape, sizes) * theta[:, None, : law.linear] / loss[..., None]
    by_shape = []
    for i in range(shape.shape[1]):
        up, down = theta.copy(), theta.copy()
        up[:, law.linear + i] *= np.exp(_STEP)
        down[:, law.linear + i] *= np.exp(-_STEP)
        by_shape.append((law(up, sizes) - law(down, sizes)) / (2 * _STEP) / loss)
    return np.concatenate([by_linear, *(column[..., None] for column in by_shape)], axis=-1)


def _at_bound(law: Law, theta: np.ndarray) -> tuple[str, ...]:
    shape = list(zip(law.names, law.bounds, theta, strict=True))[law.linear :]
    return tuple(n for n, (low, high), value in shape if value <= low * 1.02 or value >= high / 1.02)
