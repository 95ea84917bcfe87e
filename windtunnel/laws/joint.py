"""Least squares for many cells that share parameters: each cell's own unknowns are eliminated, the shared ones solved.

The normal matrix is an arrow: `shared` parameters touch all runs, `own` parameters (columns of a cell) its own runs
only. Eliminating the own block of every cell (Schur complement) keeps the cost linear in runs and cells. What a
newcomer would get wrong is the doubt: a shared parameter's variance is that of the complement, not of its own block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_STEPS = 25  # Levenberg-Marquardt steps at most; warm starts need three or four
_CLOSE = 1e-6  # relative fall of the objective that ends a descent


@dataclass(frozen=True, eq=False)
class Linear:
    """The problem about one point: residual (rows,), weights (rows,), and derivatives of the prediction.

    `by_shared` is (rows, shared), `by_own` (rows, own); rows are sorted by cell and `starts` are where cells begin.
    Beliefs about the shared are Gaussian: `precision` is one over variance, `pull` that times the distance.
    """

    residual: np.ndarray
    weights: np.ndarray
    by_shared: np.ndarray
    by_own: np.ndarray
    starts: np.ndarray
    pull: np.ndarray
    precision: np.ndarray


@dataclass(frozen=True, eq=False)
class Solution:
    """Parameters, the covariance of the shared and the variances of each cell's own."""

    shared: np.ndarray
    own: np.ndarray
    covariance: np.ndarray
    own_variance: np.ndarray  # (cells, own)
    converged: bool


def descend(
    linear: Callable[[np.ndarray, np.ndarray], Linear],
    objective: Callable[[np.ndarray, np.ndarray], float],
    shared: np.ndarray,
    own: np.ndarray,
) -> Solution:
    """Levenberg-Marquardt from a start; deterministic."""
    value, damping, converged = objective(shared, own), 1e-3, False
    for _ in range(_STEPS):
        at = linear(shared, own)
        moved, fell = False, 0.0
        for _ in range(8):
            step_shared, step_own = _step(at, damping)
            tried = objective(shared + step_shared, own + step_own)
            if tried < value:
                shared, own, fell, value, moved = shared + step_shared, own + step_own, value - tried, tried, True
                damping = max(damping / 5, 1e-9)
                break
            damping *= 6
        if not moved or fell < _CLOSE * value:
            converged = True
            break
    covariance, own_variance = _covariances(linear(shared, own))
    return Solution(shared, own, covariance, own_variance, converged)


def _blocks(at: Linear) -> tuple[np.ndarray, ...]:
    """Normal matrix and right-hand side in blocks: shared, own, own by shared."""
    weighted_own = at.by_own * at.weights[:, None]
    weighted_shared = at.by_shared * at.weights[:, None]
    shared = at.by_shared.T @ weighted_shared + np.diag(at.precision)
    own = np.add.reduceat(weighted_own[:, :, None] * at.by_own[:, None, :], at.starts)
    cross = np.add.reduceat(weighted_own[:, :, None] * at.by_shared[:, None, :], at.starts)
    right_shared = weighted_shared.T @ at.residual - at.pull
    right_own = np.add.reduceat(weighted_own * at.residual[:, None], at.starts)
    return shared, own, cross, right_shared, right_own


def _step(at: Linear, damping: float) -> tuple[np.ndarray, np.ndarray]:
    shared, own, cross, right_shared, right_own = _blocks(at)
    shared = shared + damping * np.diag(np.diag(shared))
    own = own + damping * np.einsum("cii,ij->cij", own, np.eye(own.shape[1]))
    solved = np.linalg.solve(own, np.concatenate([cross, right_own[..., None]], axis=-1))
    complement = shared - np.einsum("cos,cot->st", cross, solved[..., :-1])
    step = np.linalg.solve(complement, right_shared - np.einsum("cos,co->s", cross, solved[..., -1]))
    return step, solved[..., -1] - solved[..., :-1] @ step


def _covariances(at: Linear) -> tuple[np.ndarray, np.ndarray]:
    shared, own, cross, _, _ = _blocks(at)
    inverse = np.linalg.inv(own)
    solved = inverse @ cross
    covariance = np.linalg.inv(shared - np.einsum("cos,cot->st", cross, solved))
    covariance = 0.5 * (covariance + covariance.T)
    through = np.einsum("cos,st,cot->co", solved, covariance, solved)
    return covariance, np.einsum("cii->ci", inverse) + through
