"""The difference law: how an idea's gap (log ratio of losses) changes with size, and what is left at the target.

Three forms, averaged by the evidence of the pairs: the gap is constant; it fades as a power of size; it is a line in
log size. Where parameters and tokens vary apart, each has its own exponent or slope. A smooth drift, whose size the
pairs choose too, stands for what none of the forms can follow; it does not fade with them, so any gap may cross zero.

A newcomer would look for a fitted curve. There is none: every number is a mixture over forms, exponents, drifts and
noises, each of them a Gaussian process that is solved exactly. All of it is relative to the gap's own scale (unknown,
integrated out), so halving every gap halves the answer.

The beliefs are checked on paired public runs that the track record does not score (`benchmarks/verdicts.py --learn`),
and P(better) in exact worlds, ideas that cross zero by themselves (`benchmarks/coverage.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from windtunnel.forecasts.frame import Frame, Pace, frame_of
from windtunnel.forecasts.interval import Mixture
from windtunnel.forecasts.pairs import Pairs
from windtunnel.laws.law import Sizes

FADES = np.array([0.04, 0.08, 0.15, 0.25, 0.4, 0.65, 1.0])  # exponents of a fading gap, per e-fold of size
NOISES = np.geomspace(0.02, 20.0, 9)  # one pair's noise over the gap's scale
MOST_RUNGS = 48  # beyond that, near rungs are merged: the cost grows with their cube
KEPT = 1e-4  # weight below which a part of the mixture is left out


@dataclass(frozen=True)
class Beliefs:
    """Prior beliefs about gaps, as shares of the gap's scale; sizes are in e-folds of parameters (or of tokens).

    `slope` is the spread of a line's slope, and `across` of any form's along sizes that no pair told apart; `fade` and
    `fade_spread` are the median and log spread of a fading exponent, `noise` and `noise_spread` those of a pair's
    noise. `still` is the belief that a form holds exactly; else the gap drifts about it by one of `drifts` per e-fold,
    over `reach` e-folds. `scale`, worth one observation, is how large gaps usually are (log ratio of losses). `tail` is
    the most degrees of freedom of the answer's Student-t: how rare a bad surprise is, however many the pairs.
    """

    slope: float = 0.3
    across: float = 0.1
    fade: float = 0.25
    fade_spread: float = 0.9
    noise: float = 0.2
    noise_spread: float = 1.0
    still: float = 0.5
    drifts: tuple[float, ...] = (0.05, 0.2, 0.6)
    reach: float = 3.0
    scale: float = 0.005
    tail: float = 4.0


# Rounded guesses, but for what was measured on 2026-11-21: the mean log score of hidden gaps over 10 tables (147 cuts),
# what their 80, 90 and 95 % intervals hold, and 1050 exact worlds that differ, in which P(better) is asked.
#   before                              -0.97   0.68 0.81 0.86   ideas that cross zero: said 0.85, right 0.53 (n = 49)
#   a coordinate across (frame.py)      -0.82   0.73 0.84 0.88
#   the drift does not fade             -0.78   0.74 0.86 0.91   said 0.85, right 0.77 (n = 60)
#   `drifts` halved                     -0.78   0.74 0.86 0.91   log score of worlds +0.15
#   `tail`                              -0.77   0.78 0.88 0.94   said 0.85, right 0.75 (n = 56)
#   `across`                            -0.76   0.79 0.90 0.95
# (`benchmarks/verdicts.py` draws other pairs: -1.04 before, -0.82 now; no drift costs 0.13, nothing else above 0.03.)
# That a hidden pair of ten tables shows the idea ahead, said with 0.86 and 0.93, comes true 0.87 and 0.95 (n = 46, 40),
# of 3,600 worlds' expected gaps 0.92 and 0.97: sharper beliefs would suit the worlds and not the runs. A joint search
# of the others gains 0.04 more, none of it settled: which one wins depends on the table left out. With `still` at 0.3
# tables gain 0.01 and crossing ideas are right 0.82, but P(better) of all worlds is 7 to 9 % too low.
USUAL = Beliefs()


@dataclass(frozen=True, eq=False)
class Part:
    """One form at one set of exponents, slopes and one drift, with the pairs' eigenvalues and rotation under it."""

    form: str
    exponent: np.ndarray
    slope: np.ndarray
    drift: float
    values: np.ndarray
    basis: np.ndarray


@dataclass(frozen=True, eq=False)
class GapLaw:
    """The gap given paired runs, as a mixture of `parts` x NOISES (`weights`), on a common Student scale."""

    frame: Frame
    at_rungs: np.ndarray
    beliefs: Beliefs
    parts: tuple[Part, ...]
    weights: np.ndarray
    rotated: np.ndarray
    spread: np.ndarray
    df: float

    def at(self, sizes: Sizes, *, noise: bool = False) -> Mixture:
        """Distribution of the expected gap at one size; with `noise`, of the gap that one more pair of runs shows."""
        return self._mixture(self.frame.place(sizes), noise)

    def on_ladder(self) -> Mixture:
        """Distribution of the expected gap at the ladder's middle."""
        return self._mixture(np.zeros((1, self.frame.count + 1)))

    def probability(self, form: str) -> float:
        """How much the pairs believe in "constant", "fade" or "line"."""
        chosen = np.array([part.form == form for part in self.parts])
        return float(self.weights[chosen].sum())

    def draws(self, sizes: Sizes, count: int, seed: int) -> np.ndarray:
        """Whole curves of the expected gap along sizes: (count, sizes)."""
        generator = np.random.default_rng(seed)
        place = self.frame.place(sizes)
        flat = self.weights.ravel() / self.weights.sum()
        picked = np.bincount(generator.choice(len(flat), count, p=flat), minlength=len(flat))
        found = []
        for index in np.flatnonzero(picked):
            i, j = divmod(int(index), len(NOISES))
            centre, covariance = self._curve(i, j, place)
            root = np.linalg.cholesky(
                covariance + 1e-8 * (np.trace(covariance) / len(place) + 1e-300) * np.eye(len(place))
            )
            heavy = np.sqrt(self.df / generator.chisquare(self.df, picked[index]))
            normal = generator.standard_normal((picked[index], len(place)))
            found.append(centre + heavy[:, None] * (normal @ root.T))
        return np.concatenate(found)

    def _mixture(self, place: np.ndarray, noise: bool = False) -> Mixture:
        """The gap at one place, (1, columns)."""
        kept = np.flatnonzero(self.weights.max(axis=1) > KEPT * self.weights.max())
        centres, variances = [], []
        for i in kept:
            part = self.parts[i]
            across = part.basis @ _kernel(self.at_rungs, place, part, self.beliefs)
            shrunk = across / (part.values[:, None] + NOISES**2)
            centres.append(self.rotated[i] @ shrunk)
            own = NOISES**2 if noise else 0.0
            variances.append(_kernel(place, place, part, self.beliefs)[0] - across[:, 0] @ shrunk + own)
        weights = self.weights[kept].ravel()
        scales = self.spread[kept].ravel() * np.sqrt(np.maximum(np.ravel(variances), 0))
        likely = weights > KEPT * weights.max()
        weights = weights[likely] / weights[likely].sum()
        return Mixture(np.ravel(centres)[likely], weights, np.maximum(scales[likely], 1e-12), self.df)

    def _curve(self, i: int, j: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre and covariance of the gap at places, under one part and one noise."""
        part = self.parts[i]
        across = part.basis @ _kernel(self.at_rungs, place, part, self.beliefs)
        shrunk = across / (part.values + NOISES[j] ** 2)[:, None]
        covariance = _kernel(place, place, part, self.beliefs) - shrunk.T @ across
        return self.rotated[i] @ shrunk, self.spread[i, j] ** 2 * covariance


def fit_gap(pairs: Pairs, pace: Pace | None = None, beliefs: Beliefs = USUAL) -> GapLaw:
    """The difference law of paired runs at two rungs or more; without the base's `pace`, no compute multipliers."""
    frame = frame_of(pairs, pace)
    place, gap, counts, squares, within = _rungs(frame.place(pairs.sizes), pairs)
    parts, rotated, evidence, spread = [], [], [], []
    df, root = len(gap) + within + 1, np.sqrt(counts)
    noise_belief = -0.5 * (np.log(NOISES / beliefs.noise) / beliefs.noise_spread) ** 2
    for bare, belief in _parts(frame, beliefs):
        values, vectors = np.linalg.eigh(root[:, None] * _kernel(place, place, bare, beliefs) * root)
        values, basis = np.maximum(values, 0), vectors.T * root
        total = values[:, None] + NOISES**2
        square = np.sum((basis @ gap)[:, None] ** 2 / total, axis=0) + squares / NOISES**2 + beliefs.scale**2
        likely = -0.5 * np.sum(np.log(total), axis=0) - within * np.log(NOISES) - 0.5 * df * np.log(square)
        parts.append(replace(bare, values=values, basis=basis))
        rotated.append(basis @ gap)
        spread.append(np.sqrt(square / df))
        evidence.append(likely + noise_belief + np.log(belief))
    weights, tail = np.exp(np.array(evidence) - np.max(evidence)), min(df, beliefs.tail)
    weights /= weights.sum()
    return GapLaw(frame, place, beliefs, tuple(parts), weights, np.array(rotated), np.array(spread), tail)


def _kernel(a: np.ndarray, b: np.ndarray, part: Part, beliefs: Beliefs) -> np.ndarray:
    """Prior covariance of the gap between places, in units of its scale: the form's features, and the drift on them."""
    shape = np.outer(np.exp(-a @ part.exponent), np.exp(-b @ part.exponent))
    a, b = a[:, :-1], b[:, :-1]
    apart = np.sum((a[:, None] - b[None]) ** 2, axis=-1)
    drift = (part.drift * beliefs.reach) ** 2 * np.exp(-0.5 * apart / beliefs.reach**2)
    return shape * (1 + (a * part.slope) @ (b * part.slope).T) + drift


def _parts(frame: Frame, beliefs: Beliefs) -> list[tuple[Part, float]]:
    """Every form, exponent and drift, with its belief."""
    drifts = [(0.0, beliefs.still), *((drift, (1 - beliefs.still) / len(beliefs.drifts)) for drift in beliefs.drifts)]
    return [
        (Part(form, exponent, _slopes(form, frame, beliefs), drift, np.zeros(0), np.zeros((0, 0))), belief * share)
        for form, exponent, belief in _forms(frame, beliefs)
        for drift, share in drifts
        if share > 0
    ]


def _slopes(form: str, frame: Frame, beliefs: Beliefs) -> np.ndarray:
    """Spread of the slope along each coordinate: a line's along all, and any form's where no pair has moved."""
    slopes = np.full(frame.count, beliefs.slope if form == "line" else 0.0)
    slopes[frame.known :] = max(slopes[0], beliefs.across)
    return slopes


def _forms(frame: Frame, beliefs: Beliefs) -> list[tuple[str, np.ndarray, float]]:
    """Form, fading exponents and belief; the three forms are equally likely, and so are gap and compute multiplier."""
    shapes = [np.zeros(frame.count + 1)]
    if frame.pace is not None:
        shapes.append(np.append(np.zeros(frame.count), -1.0))
    found = [(form, shape, 1 / len(shapes)) for form in ("constant", "line") for shape in shapes]
    likely = np.exp(-0.5 * (np.log(FADES / beliefs.fade) / beliefs.fade_spread) ** 2)
    likely /= likely.sum()
    for chosen in product(range(len(FADES)), repeat=frame.known):
        exponent = np.zeros(frame.count + 1)
        exponent[: frame.known] = FADES[list(chosen)]
        found.append(("fade", exponent, float(np.prod(likely[list(chosen)]))))
    return found


def _rungs(place: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Place, mean gap and number of pairs of each rung (near rungs merged if many), squares about the means and df."""
    rung, cell = pairs.rung, 0.1
    while len(np.unique(rung)) > MOST_RUNGS:
        rung = np.unique(np.floor(place / cell), axis=0, return_inverse=True)[1].reshape(-1)
        cell *= 1.3
    counts = np.bincount(rung).astype(float)
    gap = np.bincount(rung, pairs.gap) / counts
    places = np.stack([np.bincount(rung, column) / counts for column in place.T], axis=1)
    squares = float(np.sum((pairs.gap - gap[rung]) ** 2))
    return places, gap, counts, squares, len(pairs) - len(counts)
