"""Fit one law of curves to the curves of one model: variable projection inside a robust search from several starts.

L0, A and B are solved exactly, not negative, for every trial of the shape; the shape is searched in logarithms with
weak beliefs. A newcomer would trust the residual: it is a tenth of the error on another schedule, so errors along a
curve count as far fewer points than there are rows (`EVIDENCE`), and intervals come from replays, not from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

from windtunnel.laws.curves import Curve, Rows, rows, thinned, unshared

HUBER = 1e-3  # log loss beyond which a row counts linearly (2503.12811 uses the same)
# Worth of a row against the beliefs, in units of HUBER^-2: neighbours err together over 5 to 35 rows (24 curves of the
# MultiPowerLaw fit split and the OLMo ladder, 2026-11: median 0.12, quarter to three quarters 0.05 to 0.19).
EVIDENCE = 0.1
# B in units of loss: all rate lost brings 3.9 to 6.5 % (three models of the MultiPowerLaw table, two of the OLMo
# ladder, fitted here 2026-11). It decides only where the fitted curves' own rate never falls.
GAIN, GAIN_SPREAD = 0.05, 0.02
STARTS = (1.0, 0.1, 10.0)  # times the believed pace of annealing (tau or C); all are run


@dataclass(frozen=True, eq=False)
class CurveLawFit:
    """A law of curves given curves: `theta` in `law.names`, and how every start ended.

    `covariance` is that of the linear parameters at the fitted shape: large where the curves never anneal.
    """

    law: Any
    theta: np.ndarray
    reference: float
    start: float
    residuals: np.ndarray
    covariance: np.ndarray
    starts: tuple[float, ...]

    def __call__(self, curve: Curve, at: np.ndarray) -> np.ndarray:
        """Loss under the curve's schedule at the steps `at`: (n,)."""
        return self.with_variance(curve, at)[0]

    def with_variance(self, curve: Curve, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the variance of its logarithm that the linear parameters leave: (n,) each."""
        terms = self.law.terms(self.theta[self.law.linear :], rows(curve, at, self.reference, self.start))
        loss = np.maximum(terms @ self.theta[: self.law.linear], 1e-6)
        return loss, np.einsum("np,pq,nq->n", terms, self.covariance, terms) / loss**2

    @property
    def agreed(self) -> int:
        """How many starts ended within 1 % of the best."""
        return int(np.sum(np.array(self.starts) <= 1.01 * min(self.starts) + 1e-9))


def fit_curve_law(law: Any, curves: Sequence[Curve], starts: Sequence[float] = STARTS) -> CurveLawFit:
    """Fit `law` to all measured rows of `curves` together, a trunk that several share counted once."""
    reference = max(curve.peak for curve in curves)
    curves = [curve for curve in unshared(curves) if curve.measured.any()]
    seen = [thinned(curve) for curve in curves]
    at = [rows(curve, steps, reference) for curve, (steps, _) in zip(curves, seen, strict=True)]
    start = min(float(part.progress[0]) for part in at)
    at = [Rows(**{**vars(part), "start": start}) for part in at]
    loss = np.concatenate([losses for _, losses in seen])
    found = [_search(law, at, loss, pace) for pace in starts]
    shape = np.exp(min(found, key=lambda one: one.cost).x)
    linear, residuals, scaled = _solve(_terms(law, shape, at), loss)
    covariance = np.linalg.pinv(scaled.T @ scaled, hermitian=True)
    costs = tuple(float(one.cost) for one in found)
    return CurveLawFit(law, np.concatenate([linear, shape]), reference, start, residuals, covariance, costs)


def _search(law: Any, at: Sequence[Rows], loss: np.ndarray, pace: float) -> Any:
    low, high = np.log(np.array(law.bounds[law.linear :])).T
    median, spread = np.array(law.typical).T
    middle = np.log(median)
    begin = middle.copy()
    begin[2] += np.log(pace)

    def errors(logs: np.ndarray) -> np.ndarray:
        _, residuals, _ = _solve(_terms(law, np.exp(logs), at), loss)
        away = np.abs(residuals) / HUBER
        robust = np.sign(residuals) * np.sqrt(np.where(away < 1, away**2, 2 * away - 1))
        return np.concatenate([np.sqrt(EVIDENCE) * robust, (logs - middle) / spread])

    return least_squares(errors, np.clip(begin, low, high), bounds=(low, high), diff_step=1e-4, ftol=1e-5, xtol=1e-4)


def _terms(law: Any, shape: np.ndarray, at: Sequence[Rows]) -> np.ndarray:
    return np.concatenate([law.terms(shape, part) for part in at])


def _solve(terms: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear parameters >= 0, relative residuals (n,) and the rows in standard deviations: reweighted least squares."""
    relative = terms / loss[:, None]
    typical = float(np.median(loss))
    belief = HUBER / np.sqrt(EVIDENCE) / GAIN_SPREAD  # one row worth one squared spread in the objective
    matrix = np.concatenate([relative, [[0.0, 0.0, belief / typical]]])
    right = np.append(np.ones(len(loss)), belief * GAIN)
    weight = np.ones(len(right))
    for _ in range(6):
        linear = _not_negative(matrix * weight[:, None], right * weight)
        residuals = relative @ linear - 1
        weight[:-1] = np.sqrt(np.minimum(1.0, HUBER / np.maximum(np.abs(residuals), 1e-12)))
    return linear, residuals, matrix * weight[:, None] * (np.sqrt(EVIDENCE) / HUBER)


def _not_negative(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.einsum("np,np->p", matrix, matrix)) + 1e-300
    free = np.linalg.lstsq(matrix / scale, right, rcond=None)[0]
    return (free if np.all(free >= 0) else nnls(matrix / scale, right)[0]) / scale
