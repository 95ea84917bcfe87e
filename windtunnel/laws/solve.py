"""Variable projection: search the exponents on a grid, solve the non-negative linear parameters exactly.

The problem is then one- or two-dimensional, needs no starting points, and its condition number falls by ten orders of
magnitude. Many replicates (other losses, same sizes) are solved at once, because that is what
parameter draws are. Shapes: R replicates, G grid points, n runs, p linear parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from windtunnel.laws.law import Law

POINTS = {1: 64, 2: 24}  # grid points per exponent, by number of exponents; parabolas refine between them
_CHUNK = 4_000_000  # floats held at once


def exponent_grid(law: Law) -> np.ndarray:
    """All combinations of exponents that are tried, evenly spaced in the logarithm: (G, exponents)."""
    ranges = law.bounds[law.linear :]
    axes = [np.geomspace(low, high, POINTS[len(ranges)]) for low, high in ranges]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(ranges))


def solve(
    law: Law, sizes: Any, loss: np.ndarray, weights: np.ndarray, beliefs: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (R, parameters) and objectives (R,) that minimise sum w (L - f)^2 plus the beliefs' penalty.

    `loss` is (R, n), `weights` (n,) one over variance. `beliefs` (R, exponents) are the medians the exponents are
    drawn to, by `law.typical`'s spread; None leaves them free.
    """
    grid = exponent_grid(law)
    terms = law.terms(grid, sizes)  # (G, n, p)
    best = [_best_on_grid(law, grid, terms, part, weights, belief) for part, belief in _chunks(loss, beliefs, terms)]
    exponents = np.concatenate(best)
    step = np.log([high / low for low, high in law.bounds[law.linear :]]) / (POINTS[grid.shape[1]] - 1)
    return _refine(law, step, exponents, lambda at: _at(law, sizes, at, loss, weights, beliefs))


def penalty(law: Law, exponents: np.ndarray, beliefs: np.ndarray | None) -> np.ndarray:
    """Squared distance of exponents (..., exponents) from the beliefs, in spreads; 0 where the law has none."""
    total = np.zeros(exponents.shape[:-1])
    if beliefs is None:
        return total
    for index, typical in enumerate(law.typical):
        if typical is not None:
            total = total + (np.log(exponents[..., index] / beliefs[..., index]) / typical[1]) ** 2
    return total


def _chunks(loss: np.ndarray, beliefs: np.ndarray | None, terms: np.ndarray) -> Iterator[tuple[Any, Any]]:
    rows = max(1, _CHUNK // (terms.shape[0] * (terms.shape[2] + 4)))
    for start in range(0, len(loss), rows):
        yield loss[start : start + rows], None if beliefs is None else beliefs[start : start + rows]


def _best_on_grid(law: Law, grid: Any, terms: Any, loss: Any, weights: Any, beliefs: Any) -> np.ndarray:
    weighted = terms * weights[:, None]
    gram = np.einsum("gnp,gnq->gpq", weighted, terms)[None]
    right = np.tensordot(loss, weighted, axes=(1, 1))
    squares = (loss**2 @ weights)[:, None]
    _, objective = _non_negative(gram, right, squares)
    believed = penalty(law, grid[None], None if beliefs is None else beliefs[:, None])
    return grid[np.argmin(objective + believed, axis=1)]


def _at(law: Law, sizes: Any, exponents: Any, loss: Any, weights: Any, beliefs: Any) -> tuple[np.ndarray, np.ndarray]:
    terms = law.terms(exponents, sizes)  # (R, n, p)
    weighted = terms * weights[:, None]
    gram = np.einsum("rnp,rnq->rpq", weighted, terms)
    right = np.einsum("rn,rnp->rp", loss, weighted)
    linear, _ = _non_negative(gram, right, loss**2 @ weights)
    residual = loss - np.einsum("rnp,rp->rn", terms, linear)
    value = residual**2 @ weights + penalty(law, exponents, beliefs)  # from residuals: exact where the moments cancel
    return np.concatenate([linear, exponents], axis=1), value


def _refine(law: Law, step: np.ndarray, exponents: np.ndarray, at: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of parabolas through three points about each minimum, on ever shorter steps, one exponent at a time."""
    theta, value = at(exponents)
    for length in (0.5, 0.1):
        for axis in range(len(step)):
            low, high = law.bounds[law.linear + axis]
            logs = np.log(theta[:, law.linear :])
            shift = np.zeros_like(logs)
            shift[:, axis] = length * step[axis]
            below, above = (at(np.exp(logs + sign * shift))[1] for sign in (-1, 1))
            bend = below - 2 * value + above
            vertex = np.where(bend > 0, 0.5 * (below - above) / np.where(bend > 0, bend, 1.0), np.sign(below - above))
            moved = np.clip(np.exp(logs + vertex.clip(-2, 2)[:, None] * shift), low, high)
            moved = np.where(shift > 0, moved, np.exp(logs))
            tried, tried_value = at(moved)
            better = tried_value < value
            theta = np.where(better[:, None], tried, theta)
            value = np.where(better, tried_value, value)
    return theta, value


def _non_negative(gram: np.ndarray, right: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact least squares with coefficients >= 0, by trying every set of positive ones (p <= 3)."""
    p = right.shape[-1]
    best_value = np.array(squares + np.zeros(right.shape[:-1]))
    best = np.zeros(right.shape)
    for count in range(1, p + 1):
        for chosen in combinations(range(p), count):
            part = list(chosen)
            coefficients = _solve_symmetric(gram[..., part, :][..., part], right[..., part])
            value = squares - np.einsum("...p,...p->...", coefficients, right[..., part])
            take = (value < best_value) & np.all(coefficients >= 0, axis=-1)
            best_value = np.where(take, value, best_value)
            full = np.zeros(right.shape)
            full[..., part] = coefficients
            best = np.where(take[..., None], full, best)
    return best, np.maximum(best_value, 0.0)


def _solve_symmetric(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve up to 3 x 3; the two-by-two in closed form because it is most of the time spent."""
    if right.shape[-1] == 1:
        return right / gram[..., 0]
    if right.shape[-1] == 2:
        a, b, c = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
        determinant = np.maximum(a * c - b * b, 1e-12 * a * c)  # two terms that coincide here share the load
        first, second = right[..., 0], right[..., 1]
        return np.stack([c * first - b * second, a * second - b * first], axis=-1) / determinant[..., None]
    scale = np.sqrt(np.einsum("...ii->...i", gram))
    correlation = gram / scale[..., :, None] / scale[..., None, :] + 1e-12 * np.eye(gram.shape[-1])
    inverse = np.linalg.inv(correlation)  # of the grid only, shared by all replicates
    return (inverse @ (right / scale)[..., None])[..., 0] / scale
