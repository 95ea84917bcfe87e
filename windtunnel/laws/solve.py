"""Variable projection: scan the shape parameters, solve the non-negative linear ones exactly, then descend.

A law's linear parameters follow from its shape (exponents, breaks), so only one to five dimensions are searched, and
the condition number falls by ten orders of magnitude. Many replicates (other losses or weights, same sizes) are solved
at once, because that is what parameter draws are: every one is scanned over all starts and then descends by itself.
Shapes: R replicates, G starts, n runs, p linear parameters, k shape parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from windtunnel.laws.law import Law, own_rows
from windtunnel.laws.nonnegative import non_negative

POINTS = {0: 1, 1: 32, 2: 12}  # starts along each shape parameter; from three on, SPREAD points fill the box evenly
SPREAD = 256
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)  # bases of the spread points: as many shape parameters as a law may have
ROUNDS = 12  # damped Gauss-Newton steps; two thirds of the descents stop earlier
_STEP = 1e-4  # of the logarithm, for derivatives
_CLOSE = 1e-7  # a round that lowers the objective by a smaller share ends the descent
_CHUNK = 3_000_000  # floats held at once
_ONE_THREAD = 200_000  # multiplications of one product; OpenBLAS takes threads from 4 * 65536, and they cost more here


@dataclass(frozen=True, eq=False)
class Solution:
    """Parameters (R, parameters), objectives (R,), and whether each descent ended still falling (R,)."""

    theta: np.ndarray
    value: np.ndarray
    unfinished: np.ndarray


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
    to, by `law.typical`'s spread; None leaves it free. `begin` (R, k) are shapes known to be near, instead of a scan;
    with them sizes (and the law's own units) may differ by replicate: (R, n).
    """
    shape = np.log(scan(law, sizes, loss, weights, beliefs) if begin is None else begin)
    parts = []
    for rows in _chunks(len(loss), loss.shape[1] * (law.linear + 4)):
        own = own_rows(law, rows), own_rows(sizes, rows)
        parts.append(_descend(*own, shape[rows], loss[rows], _rows(weights, rows), _rows(beliefs, rows, 1)))
    theta, value, unfinished = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Solution(theta, value, unfinished)


def penalty(law: Law, shape: np.ndarray, beliefs: np.ndarray | None) -> np.ndarray:
    """Squared distance of shapes (..., k) from the beliefs, in spreads; 0 where the law has none."""
    total = np.zeros(shape.shape[:-1])
    if beliefs is None:
        return total
    for index, typical in enumerate(law.typical):
        if typical is not None:
            total = total + (np.log(shape[..., index] / beliefs[..., index]) / typical[1]) ** 2
    return total


def _chunks(count: int, floats: int, most: int = _CHUNK) -> Iterator[slice]:
    rows = max(1, most // max(floats, 1))
    for start in range(0, count, rows):
        yield slice(start, start + rows)


def _rows(values: Any, rows: slice, shared: int = 0) -> Any:
    """The replicates' own rows of an array, or the array where all replicates share it."""
    return values if values is None or np.ndim(values) == 1 - shared else values[rows]


def scan(law: Law, sizes: Any, loss: np.ndarray, weights: np.ndarray, beliefs: np.ndarray | None) -> np.ndarray:
    """The best start of each replicate: (R, k). Arguments as in `solve`, sizes being the same for all replicates."""
    grid, weights = starts(law), np.broadcast_to(weights, loss.shape)
    best_value = np.full(len(loss), np.inf)
    best = np.zeros((len(loss), grid.shape[1]))
    believed = None if beliefs is None else beliefs[:, None]
    for some in _chunks(len(grid), sum(loss.shape) * (law.linear + 1) ** 2):
        terms = law.terms(grid[some], sizes)  # (G, n, p)
        value = _objectives(terms, loss, weights) + penalty(law, grid[some][None], believed)
        index = np.argmin(value, axis=1)
        lowest = value[np.arange(len(loss)), index]
        best = np.where((lowest < best_value)[:, None], grid[some][index], best)
        best_value = np.minimum(lowest, best_value)
    return best


def _objectives(terms: np.ndarray, loss: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least sums of squares of all replicates at all shapes, the sums over runs being matrix products: (R, G)."""
    p = terms.shape[-1]
    upper = np.triu_indices(p)
    products = terms[..., upper[0]] * terms[..., upper[1]]
    value = np.empty((len(loss), len(terms)))
    for rows in _chunks(len(loss), loss.shape[1] * len(upper[0]), _ONE_THREAD):
        gram = np.empty((len(terms), len(value[rows]), p, p))
        gram[..., upper[0], upper[1]] = gram[..., upper[1], upper[0]] = weights[rows] @ products
        right = (loss * weights)[rows] @ terms
        value[rows] = non_negative(gram, right, np.sum(loss**2 * weights, axis=1)[rows])[1].T
    return value


@dataclass(frozen=True, eq=False)
class _Problem:
    """What a descent is given, a row for each replicate that still falls.

    `wanted` (R, n) are losses over their standard deviations and `root` one over these; `medians` (R, held) are the
    logarithms that the shape parameters numbered `held` are drawn to, in units of their `spreads`.
    """

    law: Law
    sizes: Any
    root: np.ndarray
    wanted: np.ndarray
    squares: np.ndarray
    held: list[int]
    medians: np.ndarray
    spreads: np.ndarray

    @classmethod
    def of(cls, law: Law, sizes: Any, loss: np.ndarray, weights: np.ndarray, beliefs: np.ndarray | None) -> _Problem:
        root = np.broadcast_to(np.sqrt(weights), loss.shape)
        wanted = loss * root
        pulls = [(i, t[1]) for i, t in enumerate(law.typical) if t is not None and beliefs is not None]
        held = [i for i, _ in pulls]
        medians = np.zeros((len(loss), 0)) if beliefs is None else np.log(beliefs[:, held])
        spreads = np.array([spread for _, spread in pulls])
        return cls(law, sizes, root, wanted, np.sum(wanted**2, axis=-1), held, medians, spreads)

    def where(self, rows: np.ndarray) -> _Problem:
        """Some of the replicates."""
        own = {name: getattr(self, name)[rows] for name in ("root", "wanted", "squares", "medians")}
        return replace(self, law=own_rows(self.law, rows), sizes=own_rows(self.sizes, rows), **own)

    def residuals(self, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals of shapes (..., R, k), those of the beliefs last; linear parameters (..., R, p)."""
        terms = self.law.terms(np.exp(logs), self.sizes) * self.root[..., None]
        across = np.swapaxes(terms, -1, -2)
        linear, _ = non_negative(across @ terms, (across @ self.wanted[..., None])[..., 0], self.squares)
        residual = self.wanted - (terms @ linear[..., None])[..., 0]
        if not self.held:
            return residual, linear
        return np.concatenate([residual, (logs[..., self.held] - self.medians) / self.spreads], axis=-1), linear


@dataclass(frozen=True, eq=False)
class _Point:
    """Where every replicate stands: residuals (R, m), their derivatives by the log shape (R, k, m), half the slope."""

    logs: np.ndarray
    linear: np.ndarray
    residual: np.ndarray
    value: np.ndarray
    slopes: np.ndarray

    @classmethod
    def at(cls, problem: _Problem, logs: np.ndarray, high: np.ndarray) -> _Point:
        """Residuals and derivatives, all moved shapes in one call: most points that are tried are also taken."""
        step = np.where(logs < high - _STEP, _STEP, -_STEP)
        k = logs.shape[1]
        moved = np.concatenate([logs[None], logs + np.eye(k)[:, None] * step])
        residual, linear = problem.residuals(moved)
        slopes = np.moveaxis(residual[1:] - residual[0], 0, 1) / step[..., None]
        return cls(logs, linear[0], residual[0], np.sum(residual[0] ** 2, axis=1), slopes)

    def where(self, rows: np.ndarray) -> _Point:
        """Some of the replicates."""
        return _Point(self.logs[rows], self.linear[rows], self.residual[rows], self.value[rows], self.slopes[rows])

    def theta(self) -> np.ndarray:
        """The law's parameters."""
        return np.concatenate([self.linear, np.exp(self.logs)], axis=1)

    def moved(self, better: np.ndarray, tried: _Point) -> _Point:
        """The tried point where that is better."""
        if better.all():
            return tried
        pairs = [(getattr(self, f.name), getattr(tried, f.name)) for f in fields(self)]
        return _Point(*(np.where(better.reshape(-1, *(1,) * (old.ndim - 1)), new, old) for old, new in pairs))


def _descend(law: Law, sizes: Any, logs: Any, loss: Any, weights: Any, beliefs: Any) -> tuple[Any, Any, Any]:
    """Levenberg-Marquardt in the logarithm of the shape, all replicates at once, inside the bounds."""
    problem = _Problem.of(law, sizes, loss, weights, beliefs)
    low, high = (np.log([bound[side] for bound in law.bounds[law.linear :]]) for side in (0, 1))
    here = _Point.at(problem, logs, high)
    found, value, live, damping = here.theta(), here.value.copy(), np.arange(len(loss)), np.full(len(loss), 1e-3)
    for _ in range(ROUNDS if logs.shape[1] else 0):
        tried = _Point.at(problem, np.clip(here.logs + _change(here, damping), low, high), high)
        better = tried.value < here.value
        small = here.value - tried.value < _CLOSE * here.value
        here = here.moved(better, tried)
        damping = np.where(better, damping * 0.2, damping * 8.0)
        falling = ~(small & (better | (damping > 1e3)))
        if not falling.all():
            ended = here.where(~falling)
            found[live[~falling]], value[live[~falling]] = ended.theta(), ended.value
            live, damping, here = live[falling], damping[falling], here.where(falling)
            if not len(live):
                break
            problem = problem.where(falling)
    found[live], value[live] = here.theta(), here.value
    return found, value, np.isin(np.arange(len(loss)), live) & (logs.shape[1] > 0)


def _change(here: _Point, damping: np.ndarray) -> np.ndarray:
    """The damped Gauss-Newton step of each replicate, no parameter by more than a factor e: (R, k)."""
    gram = here.slopes @ np.swapaxes(here.slopes, 1, 2)
    slope = here.slopes @ here.residual[..., None]
    diagonal = np.einsum("rii->ri", gram)
    ridge = damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-30
    return -np.linalg.solve(gram + ridge[..., None] * np.eye(gram.shape[1]), slope)[..., 0].clip(-1.0, 1.0)
