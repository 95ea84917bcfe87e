"""One law fitted to observations, on many selections of runs at once.

Robust least squares on relative errors (Huber), with shape parameters drawn weakly to published values. The selections
(the runs below a cut, the better half of them) are what backtests are made of; they differ only in weights, so they are
solved as one batch. A newcomer would expect draws by resampling runs: ladders are too short for that. Draws refit
losses made anew from the law's own curve with noise of the size the residuals show and with beliefs redrawn, so where
data cannot tell a floor the draws spread over what is believable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.laws.law import Law
from windtunnel.laws.noise import TYPICAL_NOISE
from windtunnel.laws.observations import Observations
from windtunnel.laws.solve import solve

HUBER = 2.0  # residuals beyond this many standard deviations count linearly (guess; 1.345 is usual, ladders are short)
_ROUNDS = 4  # reweightings; the weights settle in two or three
_STEP = 1e-4  # of the logarithm of a shape parameter, for derivatives
_RIDGE = 1e-9  # keeps directions invertible that neither runs nor beliefs settle


@dataclass(frozen=True, eq=False)
class LawFit:
    """A law's `theta` (named by `law.names`), `draws` (draws, parameters), log residuals of all runs and their spread.

    `keep` is the share of the runs, those with the lowest loss, that it was fitted to; `covariance` is that of the
    logarithms of the parameters; `unfinished` counts searches that ended still falling.
    """

    law: Law
    theta: np.ndarray
    draws: np.ndarray
    residuals: np.ndarray
    spread: float
    df: int
    at_bound: tuple[str, ...] = ()
    keep: float = 1.0
    covariance: np.ndarray | None = None
    unfinished: int = 0

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
class Selected:
    """A law fitted to M selections of the same n runs: parameters (M, P), predicted losses (M, n), spread (M,)."""

    law: Law
    sizes: Any
    selection: np.ndarray
    theta: np.ndarray
    predicted: np.ndarray
    robust: np.ndarray
    spread: np.ndarray
    unfinished: int

    def covariance(self) -> np.ndarray:
        """Of the logarithms of the parameters, to first order: (M, P, P)."""
        law = self.law
        slopes = gradient(law, self.theta, self.sizes)
        weights = self.selection * self.robust / self.spread[:, None] ** 2
        precision = np.swapaxes(slopes * weights[..., None], 1, 2) @ slopes
        believed = [0.0] * law.linear + [0.0 if typical is None else typical[1] ** -2 for typical in law.typical]
        return np.linalg.pinv(precision + np.diag(believed) + _RIDGE * np.eye(len(believed)), hermitian=True)


def fit_selections(law: Law, o: Observations, selection: np.ndarray) -> Selected:
    """Fit a law to every selection: (M, n) weights, 0 for a run left out and 1 (or a count of runs) otherwise."""
    m, n = selection.shape
    beliefs = np.tile([1.0 if typical is None else typical[0] for typical in law.typical], (m, 1))
    loss = np.broadcast_to(o.loss, (m, n))
    df = np.maximum((selection > 0).sum(axis=1, keepdims=True) - len(law.names), 0)
    predicted, robust, spread = loss, np.ones((m, n)), np.full((m, 1), TYPICAL_NOISE)
    theta, unfinished = np.zeros((m, len(law.names))), 0
    for turn in range(_ROUNDS):
        weights = selection * robust / (spread * predicted) ** 2
        found = solve(law, o, loss, weights, beliefs, theta[:, law.linear :] if turn else None)
        theta, unfinished = found.theta, found.unfinished
        predicted = np.maximum(law(theta, o), 1e-12 * o.loss)
        residual = np.log(loss / predicted)
        squares = TYPICAL_NOISE**2 + np.sum(np.minimum(selection, 1) * robust * residual**2, axis=1, keepdims=True)
        spread = np.sqrt(squares / (1 + df))
        robust = np.minimum(1.0, HUBER / np.maximum(np.abs(residual) / spread, 1e-12))
    return Selected(law, o, selection, theta, predicted, robust, spread[:, 0], unfinished)


def fit_law(law: Law, observations: Observations, *, draws: int, seed: int) -> LawFit:
    """Fit one law to all runs; the same observations and seed give the same digits."""
    found = fit_selections(law, observations, np.ones((1, len(observations))))
    return law_fit(found, observations, 0, 1.0, draws, seed)


def law_fit(found: Selected, o: Observations, index: int, keep: float, draws: int, seed: int) -> LawFit:
    """One selection's fit with its draws."""
    law, theta = found.law, found.theta[index]
    chosen = found.selection[index] > 0
    return LawFit(
        law=law,
        theta=theta,
        draws=draw(found, o, index, draws, seed),
        residuals=np.log(o.loss / found.predicted[index]),
        spread=float(found.spread[index]),
        df=max(int(chosen.sum()) - len(law.names), 0),
        at_bound=_at_bound(law, theta),
        keep=keep,
        covariance=found.covariance()[index],
        unfinished=found.unfinished,
    )


def draw(found: Selected, o: Observations, index: int, draws: int, seed: int) -> np.ndarray:
    """Parameters of refitted replicates of one selection: (draws, P)."""
    law, chosen = found.law, np.flatnonzero(found.selection[index])
    generator = np.random.default_rng(seed)
    spread, df = found.spread[index], 1 + max(len(chosen) - len(law.names), 0)
    scales = spread * np.sqrt(df / generator.chisquare(df, draws)).clip(0.4, 4.0)  # noise is itself only estimated
    curve, counts = found.predicted[index, chosen], found.selection[index, chosen]
    losses = curve * np.exp(scales[:, None] * generator.standard_normal((draws, len(chosen))) / np.sqrt(counts))
    beliefs = np.ones((draws, len(law.typical)))
    for i, typical in enumerate(law.typical):
        if typical is not None:
            beliefs[:, i] = typical[0] * np.exp(typical[1] * generator.standard_normal(draws))
    weights = counts * found.robust[index, chosen] / (spread * curve) ** 2
    begin = np.tile(found.theta[index, law.linear :], (draws, 1))
    return solve(law, o.where(chosen), losses, weights, beliefs, begin).theta


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
