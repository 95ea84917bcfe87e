"""Variable projection: scan the shape parameters, solve the non-negative linear ones exactly, then descend.

A law's linear parameters follow from its shape (exponents, breaks), so only one to five dimensions are searched, and
the condition number falls by ten orders of magnitude. Many replicates (other losses or weights, same sizes) are solved
at once, because that is what parameter draws are: every one is scanned over all starts and then descends by itself.
Shapes: R replicates, G starts, n runs, p linear parameters, k shape parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from windtunnel.laws.law import Law

POINTS = {0: 1, 1: 32, 2: 12}  # starts along each shape parameter; from three on, SPREAD points fill the box evenly
SPREAD = 256
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)  # bases of the spread points: as many shape parameters as a law may have
ROUNDS = 12  # damped Gauss-Newton steps; two thirds of the descents stop earlier
_STEP = 1e-4  # of the logarithm, for derivatives
_CLOSE = 1e-7  # a round that lowers the objective by a smaller share ends the descent
_CHUNK = 3_000_000  # floats held at once


@dataclass(frozen=True, eq=False)
class Solution:
    """Parameters (R, parameters), objectives (R,), and how many of the R descents ended still falling."""

    theta: np.ndarray
    value: np.ndarray
    unfinished: int


def starts(law: Law) -> np.ndarray:
    """Shapes that every search begins with, evenly spaced in the logarithm: (G, k)."""
    low, high = (np.log([bound[side] for bound in law.bounds[law.linear :]]) for side in (0, 1))
    k = len(low)
    if k <= 2:
        axes = [np.linspace(a, b, POINTS[k]) for a, b in zip(low, high, strict=True)]
        return np.exp(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, k)) if k else np.zeros((1, 0))
    numbers = np.arange(1, SPREAD + 1)
    spread = np.stack([_radical_inverse(numbers, prime) for prime in PRIMES[:k]], axis=1)  # Halton's sequence
    return np.exp(low + (high - low) * spread)


def _radical_inverse(numbers: np.ndarray, base: int) -> np.ndarray:
    """The numbers' digits in a base, mirrored at the point. `scipy.stats.qmc` has it too, for 0.5 s of import."""
    found, share = np.zeros(len(numbers)), 1.0
    while numbers.any():
        share /= base
        found += share * (numbers % base)
        numbers = numbers // base
    return found


def solve(
    law: Law,
    sizes: Any,
    loss: np.ndarray,
    weights: np.ndarray,
    beliefs: np.ndarray | None = None,
    begin: np.ndarray | None = None,
) -> Solution:
    """Parameters that minimise sum w (L - f)^2 plus the beliefs' penalty, for each of R replicates.

    `loss` is (R, n), `weights` (n,) or (R, n) one over variance. `beliefs` (R, k) are the medians the shape is drawn
    to, by `law.typical`'s spread; None leaves it free. `begin` (R, k) are shapes known to be near, instead of a scan.
    """
    shape = np.log(_scan(law, sizes, starts(law), loss, weights, beliefs) if begin is None else begin)
    parts = [
        _descend(law, sizes, shape[rows], loss[rows], _rows(weights, rows), _rows(beliefs, rows, 1))
        for rows in _chunks(len(loss), loss.shape[1] * (law.linear + 4))
    ]
    return Solution(
        theta=np.concatenate([part[0] for part in parts]),
        value=np.concatenate([part[1] for part in parts]),
        unfinished=sum(part[2] for part in parts),
    )


def penalty(law: Law, shape: np.ndarray, beliefs: np.ndarray | None) -> np.ndarray:
    """Squared distance of shapes (..., k) from the beliefs, in spreads; 0 where the law has none."""
    total = np.zeros(shape.shape[:-1])
    if beliefs is None:
        return total
    for index, typical in enumerate(law.typical):
        if typical is not None:
            total = total + (np.log(shape[..., index] / beliefs[..., index]) / typical[1]) ** 2
    return total


def _chunks(count: int, floats: int) -> Iterator[slice]:
    rows = max(1, _CHUNK // max(floats, 1))
    for start in range(0, count, rows):
        yield slice(start, start + rows)


def _rows(values: Any, rows: slice, shared: int = 0) -> Any:
    """The replicates' own rows of an array, or the array where all replicates share it."""
    return values if values is None or np.ndim(values) == 1 - shared else values[rows]


def _scan(law: Law, sizes: Any, grid: Any, loss: Any, weights: Any, beliefs: Any) -> np.ndarray:
    """The best start of each replicate: (R, k)."""
    best_value = np.full(len(loss), np.inf)
    best = np.zeros((len(loss), grid.shape[1]))
    believed = None if beliefs is None else beliefs[:, None]
    for some in _chunks(len(grid), loss.shape[1] * law.linear * (len(loss) if np.ndim(weights) > 1 else 1)):
        terms = law.terms(grid[some], sizes)  # (G, n, p)
        value = _objectives(terms, loss, weights) + penalty(law, grid[some][None], believed)
        index = np.argmin(value, axis=1)
        lowest = value[np.arange(len(loss)), index]
        best = np.where((lowest < best_value)[:, None], grid[some][index], best)
        best_value = np.minimum(lowest, best_value)
    return best


def _objectives(terms: np.ndarray, loss: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least sums of squares of all replicates at all shapes: (R, G)."""
    if weights.ndim == 1:
        weighted = terms * weights[:, None]
        gram = np.swapaxes(weighted, -1, -2) @ terms
        right = np.tensordot(loss, weighted, axes=(1, 1))
        return _non_negative(gram[None], right, (loss**2 @ weights)[:, None])[1]
    weighted = terms * weights[:, None, :, None]  # (R, G, n, p)
    gram = np.swapaxes(weighted, -1, -2) @ terms
    right = (np.swapaxes(weighted, -1, -2) @ loss[:, None, :, None])[..., 0]
    return _non_negative(gram, right, np.sum(loss**2 * weights, axis=1)[:, None])[1]


def _residuals(law: Law, sizes: Any, logs: Any, loss: Any, root: Any, beliefs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residuals with those of the beliefs appended (R, n + beliefs), and the linear parameters (R, p)."""
    shape = np.exp(logs)
    terms = law.terms(shape, sizes) * root[..., None]
    wanted = loss * root
    across = np.swapaxes(terms, -1, -2)
    linear, _ = _non_negative(across @ terms, (across @ wanted[..., None])[..., 0], np.sum(wanted**2, axis=-1))
    residual = wanted - (terms @ linear[..., None])[..., 0]
    if beliefs is None:
        return residual, linear
    held = [i for i, typical in enumerate(law.typical) if typical is not None]
    pull = [(logs[:, i] - np.log(beliefs[:, i])) / law.typical[i][1] for i in held]  # type: ignore[index]
    return np.concatenate([residual, np.stack(pull, axis=1)], axis=1) if held else residual, linear


def _slopes(law: Law, sizes: Any, at: Any, residual: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Derivatives of the residuals by the logarithm of the shape: (R, residuals, k), all moved shapes in one call."""
    logs, loss, root, beliefs = at
    rows, k = logs.shape
    step = np.where(logs < high - _STEP, _STEP, -_STEP)
    moved = (logs[None] + np.eye(k)[:, None] * step[None]).reshape(k * rows, k)
    parts = (None if part is None else np.tile(part, (k, 1)) for part in (loss, root, beliefs))
    there, _ = _residuals(law, sizes, moved, *parts)
    difference = there.reshape(k, rows, -1) - residual
    return np.moveaxis(difference, 0, 2) / step[:, None, :]


def _descend(law: Law, sizes: Any, logs: Any, loss: Any, weights: Any, beliefs: Any) -> tuple[Any, Any, int]:
    """Levenberg-Marquardt in the logarithm of the shape, all replicates at once, inside the bounds."""
    root = np.broadcast_to(np.sqrt(weights), loss.shape)
    low, high = (np.log([bound[side] for bound in law.bounds[law.linear :]]) for side in (0, 1))
    residual, linear = _residuals(law, sizes, logs, loss, root, beliefs)
    value = np.sum(residual**2, axis=1)
    damping = np.full(len(loss), 1e-3)
    live = np.arange(len(loss))
    k = logs.shape[1]
    logs, linear = logs.copy(), linear.copy()
    for _ in range(ROUNDS if k else 0):
        at = (logs[live], loss[live], root[live], None if beliefs is None else beliefs[live])
        jacobian = _slopes(law, sizes, at, residual[live], high)
        gram = np.swapaxes(jacobian, 1, 2) @ jacobian
        slope = (np.swapaxes(jacobian, 1, 2) @ residual[live][..., None])[..., 0]
        diagonal = np.einsum("rii->ri", gram)
        damped = gram + (damping[live, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-30)[
            ..., None
        ] * np.eye(k)
        change = -np.linalg.solve(damped, slope[..., None])[..., 0]
        tried = np.clip(at[0] + change.clip(-1.0, 1.0), low, high)
        new_residual, new_linear = _residuals(law, sizes, tried, *at[1:])
        new_value = np.sum(new_residual**2, axis=1)
        better = new_value < value[live]
        small = value[live] - new_value < _CLOSE * value[live]
        moved_rows = live[better]
        logs[moved_rows], linear[moved_rows] = tried[better], new_linear[better]
        residual[moved_rows], value[moved_rows] = new_residual[better], new_value[better]
        damping[live] = np.where(better, damping[live] * 0.2, damping[live] * 8.0)
        live = live[~(small & (better | (damping[live] > 1e3)))]
        if not len(live):
            break
    return np.concatenate([linear, np.exp(logs)], axis=1), value, len(live) if k else 0


def _non_negative(gram: np.ndarray, right: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact least squares with coefficients >= 0: try every set of positive ones, largest first, where still needed."""
    p = right.shape[-1]
    best_value = np.array(squares + np.zeros(right.shape[:-1]))
    best = np.zeros(right.shape)
    for count in range(p, 0, -1):
        for chosen in combinations(range(p), count):
            part = list(chosen)
            coefficients = _solve_symmetric(gram[..., part, :][..., part], right[..., part])
            value = squares - np.sum(coefficients * right[..., part], axis=-1)
            take = (value < best_value) & np.all(coefficients >= 0, axis=-1)
            if count == p and take.all():  # no bound is active anywhere: nothing smaller can be better
                return coefficients, np.maximum(value, 0.0)
            best_value = np.where(take, value, best_value)
            full = np.zeros(right.shape)
            full[..., part] = coefficients
            best = np.where(take[..., None], full, best)
    return best, np.maximum(best_value, 0.0)


def _solve_symmetric(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve small symmetric systems, scaled to unit diagonal; one and two unknowns in closed form."""
    if right.shape[-1] == 1:
        return right / np.maximum(gram[..., 0], 1e-300)
    if right.shape[-1] == 2:
        a, b, c = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
        determinant = np.maximum(a * c - b * b, 1e-12 * a * c + 1e-300)  # two terms that coincide here share the load
        first, second = right[..., 0], right[..., 1]
        return np.stack([c * first - b * second, a * second - b * first], axis=-1) / determinant[..., None]
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", gram), 1e-300))
    correlation = gram / scale[..., :, None] / scale[..., None, :] + 1e-12 * np.eye(gram.shape[-1])
    inverse = np.linalg.inv(correlation)
    return (inverse @ (right / scale)[..., None])[..., 0] / scale
