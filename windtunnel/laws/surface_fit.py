"""Fitting the hyperparameter surface: which runs form a cell, what each run weighs, and the joint descent.

Runs near their cell's floor weigh by their noise; further up the basin's own error takes over, so that the fit is ruled
by what lies within about a percent of the best without any cut to choose. Weights, noise and the stray of cells are
estimated in turns with the parameters. A newcomer would drop divergent runs by hand: those 10 % above the floor of
their cell carry no weight here, and are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from windtunnel.laws import basin
from windtunnel.laws.joint import Linear, Solution, descend
from windtunnel.laws.observations import Observations
from windtunnel.laws.surface import Cells, Surface
from windtunnel.laws.sweeps import Sweeps, sweeps

BASIN_ERROR = 0.5  # the basin is trusted to half of the excess (backtests within the 11 smaller cells of Step Law)
NOISE, NOISE_DF = 0.002, 2.0  # scatter of one run believed before any is seen (guess)
# How far one size strays off the power law, in e-folds (0.07 on Step Law, at most 0.15-0.24 on OELLM), and its weight.
STRAY, STRAY_DF = 0.12, 4.0
TREND_SPREAD = 0.15  # the height of the basin changes as a weak power of size (measured: -0.15 in tokens)
FLOOR_SPREAD = 0.02  # floors lie within 2 % of a smooth function of size; matters for cells of a run or two (guess)
HUBER = 2.0
_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class _Problem:
    """Runs sorted by cell: logs of hyperparameters `x` (n, k), of losses `y`; `place` (cells, s)."""

    x: np.ndarray
    y: np.ndarray
    cell: np.ndarray
    starts: np.ndarray
    place: np.ndarray
    tie: np.ndarray  # (cells, k + 1, shared): what the shared parameters expect of a cell's best and floor
    believed: np.ndarray
    spread: np.ndarray
    layout: basin.Layout


@dataclass(frozen=True, eq=False)
class _Known:
    """What a round takes as known: one over variance of each run, and of a cell's best and floor about their ties."""

    run: np.ndarray
    tie: np.ndarray  # (k + 1,)


def fit_surface(observations: Observations, extra: Mapping[str, np.ndarray] | None = None) -> Surface:
    """The surface that all runs to fit share; the same runs give the same digits, in any order.

    Hyperparameters are `lr` and `batch_tokens` where they vary at one size, and the columns of `extra`
    (positive, one value a run). Raises InputError where no hyperparameter takes 3 values, or 2 at any one size.
    """
    found = sweeps(observations, extra or {})
    problem, middle = _problem(found)
    solution, noise, stray = _fit(problem)
    return Surface(
        names=found.names,
        sizes=found.sizes,
        cells=_estimates(problem, solution),
        noise=noise,
        stray=stray,
        converged=solution.converged,
        dropped=found.dropped,
        caveats=found.caveats,
        parameters=solution.shared,
        covariance=solution.covariance,
        middle=middle,
        runs=found.runs.where(problem.starts),
    )


def _problem(found: Sweeps) -> tuple[_Problem, np.ndarray]:
    """The problem, and the middle of the log sizes that its places are about."""
    y, starts = np.log(found.runs.loss), np.flatnonzero(np.diff(found.cell, prepend=-1))
    place = np.add.reduceat(found.place, starts) / np.diff(np.append(starts, len(y)))[:, None]
    middle = place.mean(axis=0)
    layout = basin.Layout(len(found.names), len(found.sizes))
    believed, spread = _beliefs(found, y)
    place = place - middle
    return _Problem(found.x, y, found.cell, starts, place, _tie(place, layout), believed, spread, layout), middle


def _tie(place: np.ndarray, layout: basin.Layout) -> np.ndarray:
    s, k = layout.s, layout.k
    tie = np.zeros((len(place), k + 1, layout.floor.stop))
    tie[:, :k] = layout.rows(place)
    pairs = [place[:, i] * place[:, j] for i in range(s) for j in range(i, s)]
    tie[:, k, layout.floor] = np.stack([np.ones(len(place)), *place.T, *pairs], axis=1)
    return tie


def _beliefs(found: Sweeps, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weak Gaussian beliefs about the shared parameters: (medians, spreads)."""
    x, names, k, s = found.x, found.names, len(found.names), len(found.sizes)
    exponents = [basin.exponent_belief(name, size, names) for size in found.sizes for name in names]
    centre, reach = 0.5 * (x.min(axis=0) + x.max(axis=0)), 0.5 * np.ptp(x, axis=0) + 1.0
    groups = [
        (np.full(k + 1, basin.LOG_HEIGHT), np.full(k + 1, basin.LOG_HEIGHT_SPREAD)),
        (basin.believed_slopes(names).ravel(), np.full(k * (k + 1), basin.SLOPE_SPREAD)),
        (np.zeros(s), np.full(s, TREND_SPREAD)),
        (centre, reach),
        (np.array([m for m, _ in exponents]), np.array([d for _, d in exponents])),
        (np.array([np.median(y)]), np.array([10.0])),
        (np.full(s, -0.05), np.full(s, 0.2)),  # loss falls as a weak power of size
        (np.zeros(s * (s + 1) // 2), np.full(s * (s + 1) // 2, 0.03)),
    ]
    return np.concatenate([m for m, _ in groups]), np.concatenate([d for _, d in groups])


def _fit(p: _Problem) -> tuple[Solution, float, np.ndarray]:
    """Parameters, noise of a run and stray of a cell, in turns."""
    shared, own = _start(p)
    noise, stray = 2 * NOISE, np.full(p.layout.k, STRAY)
    run, solution = np.full(len(p.y), noise**-2), None
    for _ in range(_ROUNDS):
        known = _Known(run, np.append(stray, FLOOR_SPREAD) ** -2)
        solution = descend(partial(_linear, p, known), partial(_objective, p, known), shared, own)
        shared, own = solution.shared, solution.own
        excess, _, _, _ = _excess(p, shared, own)
        residual = p.y - own[p.cell, -1] - excess
        variance = noise**2 + (BASIN_ERROR * excess) ** 2
        robust = np.minimum(1.0, HUBER * np.sqrt(variance) / np.maximum(np.abs(residual), 1e-12))
        noise = _noise(np.abs(residual), noise**2 / variance, _settled(p, known, solution) / len(p.y))
        strays = (own - p.tie @ shared)[:, :-1] ** 2
        free = max(len(own) - 1 - p.layout.s, 0)  # cells less what the power law took
        stray = np.sqrt((STRAY_DF * STRAY**2 + strays.sum(axis=0)) / (STRAY_DF + free))
        run = robust / (noise**2 + (BASIN_ERROR * excess) ** 2)
    assert solution is not None
    return solution, noise, stray


def _start(p: _Problem) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs, with the bottom through the mean of the runs near the best of each cell."""
    own = []
    for a, b in pairwise([*p.starts, len(p.y)]):
        order = np.argsort(p.y[a:b], kind="stable")[: max(1, min(8, (b - a) // 4))]
        own.append([*p.x[a:b][order].mean(axis=0), p.y[a:b][order[min(1, len(order) - 1)]]])
    shared, own = p.believed.copy(), np.array(own)
    _, exponents = p.layout.bottom(shared)
    shared[p.layout.centre] = np.mean(own[:, :-1] - p.place @ exponents, axis=0)
    return shared, own


def _excess(p: _Problem, shared: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, ...]:
    """Excess (n,), each term's part (n, terms), what pushes each term's bend (n, terms), distance from best (n, k)."""
    heights, slopes, trend = p.layout.basin(shared)
    away = p.x - own[p.cell, :-1]
    bends = basin.bend(slopes, away)
    height = np.exp((p.place @ trend)[p.cell])[:, None] * np.exp(heights)
    terms = height * (np.expm1(bends) - bends)
    return terms.sum(axis=1), terms, height * np.expm1(bends), away


def _objective(p: _Problem, known: _Known, shared: np.ndarray, own: np.ndarray) -> float:
    residual = p.y - own[p.cell, -1] - _excess(p, shared, own)[0]
    strays, pull = own - p.tie @ shared, (shared - p.believed) / p.spread
    return float(known.run @ residual**2 + np.sum(known.tie * strays**2) + pull @ pull)


def _linear(p: _Problem, known: _Known, shared: np.ndarray, own: np.ndarray) -> Linear:
    """The runs' rows, then those that tie each cell's best and floor to their smooth functions of size."""
    layout, (cells, each) = p.layout, own.shape
    excess, terms, pushes, away = _excess(p, shared, own)
    by_shared = np.zeros((len(p.y), len(shared)))
    by_shared[:, : layout.k + 1] = terms
    by_shared[:, layout.slopes] = (pushes[:, :, None] * away[:, None, :]).reshape(len(p.y), -1)
    by_shared[:, layout.trend] = p.place[p.cell] * excess[:, None]
    by_own = np.append(-pushes @ layout.basin(shared)[1], np.ones((len(p.y), 1)), axis=1)
    rows = np.argsort(np.concatenate([p.cell, np.repeat(np.arange(cells), each)]), kind="stable")
    residual = np.concatenate([p.y - own[p.cell, -1] - excess, (p.tie @ shared - own).ravel()])
    return Linear(
        residual=residual[rows],
        weights=np.concatenate([known.run, np.tile(known.tie, cells)])[rows],
        by_shared=np.concatenate([by_shared, -p.tie.reshape(cells * each, -1)])[rows],
        by_own=np.concatenate([by_own, np.tile(np.eye(each), (cells, 1))])[rows],
        starts=p.starts + each * np.arange(cells),
        pull=(shared - p.believed) / p.spread**2,
        precision=p.spread**-2,
    )


def _settled(p: _Problem, known: _Known, found: Solution) -> float:
    """Parameters that the runs settle: each less the share that its belief or tie alone holds."""
    shared = np.minimum(np.diag(found.covariance) / p.spread**2, 1)
    own = np.minimum(found.own_variance * known.tie, 1)
    return float(np.sum(1 - shared) + np.sum(1 - own))


def _noise(sizes: np.ndarray, share: np.ndarray, settled: float) -> float:
    """Scatter of a run: median residual of those whose excess is too small for the basin's own error to matter."""
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(share[order] ** 2)
    middle = sizes[order][np.searchsorted(reached, 0.5 * reached[-1])]
    df = float(np.sum(share)) * max(1 - settled, 0.0)
    found = 1.4826 * middle / np.sqrt(max(1 - settled, 0.1))
    return float(np.sqrt((NOISE_DF * NOISE**2 + df * found**2) / (NOISE_DF + df)))


def _estimates(p: _Problem, solution: Solution) -> Cells:
    error = np.sqrt(solution.own_variance)
    return Cells(
        place=p.place,
        best=solution.own[:, :-1],
        best_error=error[:, :-1],
        floor=solution.own[:, -1],
        floor_error=error[:, -1],
        runs=np.diff(np.append(p.starts, len(p.y))),
        low=np.minimum.reduceat(p.x, p.starts),
        high=np.maximum.reduceat(p.x, p.starts),
    )
