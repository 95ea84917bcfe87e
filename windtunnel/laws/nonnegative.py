"""Least squares with coefficients that are not negative, exactly, for a great many systems of one to five unknowns.

A newcomer would take scipy's `nnls`, one system at a time: a scan asks for tens of thousands.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

_TIE = 1e-14  # of the sum of squares: what rounding may decide; of equally good sets of terms the first is taken


def non_negative(gram: np.ndarray, right: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact least squares with coefficients >= 0, and its objective: of all terms where none is then negative.

    Elsewhere every smaller set of terms is tried. What is found for a row does not depend on the other rows.
    """
    coefficients, sound = _solve_symmetric(gram, right)
    value = squares - np.sum(coefficients * right, axis=-1)
    settled = np.all(coefficients >= 0, axis=-1) & (value < squares) & sound
    if not settled.all():
        rest = ~settled
        squares = np.broadcast_to(squares, value.shape)[rest]
        gram = np.broadcast_to(gram, (*value.shape, *gram.shape[-2:]))[rest]
        coefficients[rest], value[rest] = _fewer(gram, right[rest], squares, coefficients[rest], value[rest])
    return coefficients, np.maximum(value, 0.0)


def _fewer(gram: Any, right: Any, squares: Any, whole: np.ndarray, whole_value: Any) -> tuple[np.ndarray, np.ndarray]:
    """The best set of terms of each row (rows, p), the whole one where that is allowed and best."""
    take = np.all(whole >= 0, axis=-1) & (whole_value < squares)
    best, best_value = np.where(take[:, None], whole, 0.0), np.where(take, whole_value, squares)
    p = right.shape[-1]
    for count in range(p - 1, 0, -1):
        for chosen in combinations(range(p), count):
            part = list(chosen)
            coefficients, _ = _solve_symmetric(gram[:, part][:, :, part], right[:, part])
            value = squares - np.sum(coefficients * right[:, part], axis=-1)
            take = (value < best_value - _TIE * squares) & np.all(coefficients >= 0, axis=-1)
            best_value = np.where(take, value, best_value)
            full = np.zeros(right.shape)
            full[:, part] = coefficients
            best = np.where(take[:, None], full, best)
    return best, best_value


def _solve_symmetric(gram: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, Any]:
    """Solve small symmetric systems, scaled to unit diagonal, and say where two unknowns are told apart.

    One and two unknowns in closed form.
    """
    if right.shape[-1] == 1:
        return right / np.maximum(gram[..., 0], 1e-300), True
    if right.shape[-1] == 2:
        a, b, c = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
        apart, least = a * c - b * b, 1e-12 * a * c + 1e-300
        first, second = right[..., 0], right[..., 1]
        coefficients = np.empty(right.shape)
        coefficients[..., 0], coefficients[..., 1] = c * first - b * second, a * second - b * first
        coefficients /= np.maximum(apart, least)[..., None]  # two terms that coincide here share the load
        return coefficients, apart > least
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", gram), 1e-300))
    correlation = gram / scale[..., :, None] / scale[..., None, :] + 1e-12 * np.eye(gram.shape[-1])
    inverse = np.linalg.inv(correlation)
    return (inverse @ (right / scale)[..., None])[..., 0] / scale, True
