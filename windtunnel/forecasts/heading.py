"""Where a final loss is heading: what a forecast's intervals and a curve so far say of it, as Student-t's, and both.

The forecast is the prior; the curve is the evidence, read through the shape of the recipe's curves (`band.py`). Both
have heavy tails, so that neither is believed blindly where they disagree. A newcomer would read the newest loss alone:
the whole curve is read, because how it kept to the shape so far says how far to trust the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.forecasts.band import Shape
from windtunnel.forecasts.interval import Interval

# How often a run leaves its level for good (data, hardware, a changed recipe), how far in log loss, and how finely the
# share at which it did is asked for (guesses).
DEPARTS, JUMP, EVERY = 0.05, 0.05, 2
ENDS = 2.0  # noise of the final loss, a median over a hundredth of a run, in that of a point of the curve so far
LEAST = 1e-3  # probability below which a heading is dropped
POINTS, WIDE = 201, 60.0  # of the grid around each Student-t, and how many of its scales that reaches


@dataclass(frozen=True)
class Heading:
    """Student-t of the log of the final loss: what one source says of it."""

    centre: float
    scale: float
    degrees: float

    def log_density(self, value: np.ndarray) -> np.ndarray:
        """Of the log of the final loss."""
        away = (value - self.centre) / self.scale
        constant = special.gammaln((self.degrees + 1) / 2) - special.gammaln(self.degrees / 2)
        constant -= 0.5 * np.log(self.degrees * np.pi) + np.log(self.scale)
        return constant - (self.degrees + 1) / 2 * np.log1p(away**2 / self.degrees)


Headings = Sequence[tuple[float, Heading]]  # each with its probability
Shapes = Sequence[tuple[float, Shape]]


@lru_cache(maxsize=64)
def prior_of(intervals: tuple[Interval, ...]) -> Heading:
    """The Student-t that a forecast's intervals describe: scale and degrees of freedom by their widths."""
    widths = {i.level: np.log(i.high / i.low) / 2 for i in intervals if i.high > i.low > 0}
    if not widths:
        raise InputError("The forecast has no interval with a width, so nothing can be said of landing inside it.")
    levels, half = np.array(list(widths)), np.array(list(widths.values()))
    grid = np.array([1.5, 2, 3, 4, 5, 7, 10, 15, 25, 50, 200.0])
    away = special.stdtrit(grid[:, None], 0.5 + levels / 2)
    scales = np.exp(np.mean(np.log(half / away), axis=1))
    best = int(np.argmin(np.sum((np.log(half / away) - np.log(scales)[:, None]) ** 2, axis=1)))
    middle = float(np.mean([np.log(i.low * i.high) / 2 for i in intervals]))
    return Heading(middle, float(scales[best]), float(grid[best]))


def headings_of(level: np.ndarray, noise: np.ndarray, shapes: Shapes) -> Headings:
    """The final loss by the curve so far (`gathered`), a few headings with their probabilities; empty where too early.

    Generalised least squares through each shape; the scale follows how well the curve keeps to it, as a multivariate
    Student-t's does, and so does the shape's probability. A run may also have left its old level for good at some
    share: then what lies before says little of the end.
    """
    seen = np.flatnonzero(np.isfinite(level))
    if not len(seen):
        return ()
    before, prior = _departures(len(seen))
    logs, headings = [], []
    for weight, shape in shapes:
        covariance = shape.covariance[np.ix_(seen, seen)] + JUMP**2 * before[:, :, None] * before[:, None, :]
        found, fit = _headings(level[seen] - shape.excess[seen], noise[seen], covariance, shape.degrees)
        headings += found
        logs.append(np.log(weight * prior) + fit)
    weights = _normal(np.concatenate(logs))
    kept = [(w, heading) for w, heading in zip(weights, headings, strict=True) if w > LEAST]
    return tuple((float(w / sum(each for each, _ in kept)), heading) for w, heading in kept)


def _departures(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Which points lie before a departure (hypotheses, points), and how probable each is: none, or one by its place."""
    places = np.arange(EVERY, points, EVERY)
    before = np.arange(points) < np.append(0, places)[:, None]
    prior = np.full(len(before), DEPARTS / max(1, len(places)))
    prior[0] = 1 - DEPARTS if len(places) else 1.0
    return before.astype(float), prior


def _headings(
    away: np.ndarray, noise: np.ndarray, covariance: np.ndarray, degrees: float
) -> tuple[list[Heading], np.ndarray]:
    """The heading of each hypothesis, `covariance` being (hypotheses, points, points), and its log marginal likelihood
    up to a constant."""
    root = np.linalg.cholesky(covariance + np.diag(noise + 1e-8))
    both = np.broadcast_to(np.stack([np.ones(len(away)), away], axis=1), (len(root), len(away), 2))
    ones, rows = np.moveaxis(np.linalg.solve(root, both), 2, 0)
    information = np.sum(ones**2, axis=1)
    centre = np.sum(ones * rows, axis=1) / information
    misfit = np.sum((rows - centre[:, None] * ones) ** 2, axis=1)
    more = degrees + len(away) - 1
    spread = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    fit = -spread - np.log(information) / 2 - more / 2 * np.log1p(misfit / degrees)
    scale = np.sqrt((degrees + misfit) / more / information + ENDS * noise[-1])
    return [Heading(float(c), float(s), more) for c, s in zip(centre, scale, strict=True)], fit


def posterior(prior: Heading, headings: Headings) -> tuple[np.ndarray, np.ndarray]:
    """Log of the final loss on a grid, and the probability of each point: prior times evidence."""
    every = [prior, *(heading for _, heading in headings)]
    fine = [each.centre + each.scale * WIDE * np.sinh(np.linspace(-6, 6, POINTS)) / np.sinh(6) for each in every]
    grid = np.unique(np.concatenate(fine))  # dense wherever one of them is
    logs = prior.log_density(grid) + np.log(np.gradient(grid))
    if headings:
        each = np.array([np.log(weight) + heading.log_density(grid) for weight, heading in headings])
        most = each.max(axis=0)
        logs = logs + most + np.log(np.exp(each - most).sum(axis=0))
    return grid, _normal(logs)


def _normal(logs: np.ndarray) -> np.ndarray:
    """Exponentials that sum to 1."""
    found = np.exp(logs - logs.max())
    return found / found.sum()
