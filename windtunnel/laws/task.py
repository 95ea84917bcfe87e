"""From loss to task score: the second of two steps, a falling sigmoid between chance and a ceiling.

Scores jump where losses glide, so a score is foretold from a foretold loss, never from size directly. A newcomer would
use the training loss; the sigmoid is far tighter in the task's own loss (bits per byte of the right answers). And he
would trust one sigmoid: in loss, in log loss and in its reciprocal it fits a small ladder alike and parts by 0.1 at ten
times the size (OLMo ladder, ARC), so the draws are shared among the three by how well each fits (added after
one sigmoid's intervals had missed the ladder's 7B and 13B runs on two of four tasks).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from windtunnel.errors import InputError
from windtunnel.notebook import marked, printed

# Beliefs about the log of the share of (1 - chance) that can ever be reached (probability, mean, spread): about 0.93,
# wrong labels and all, to within a tenth or so; or anything, about 0.7 to within a factor of 1.7 (guesses). Without one
# a ladder that ends half-way up names any ceiling; with the first alone intervals missed every ceiling below 0.8 (0 to
# 42 of 100 held where 90 is said, simulated). Scores do not choose between the two, for they seem to: ARC Challenge
# looked level at 0.41 over sixteen small runs and went on to 0.63.
CEILINGS = ((2 / 3, float(np.log(0.93)), 0.1), (1 / 3, float(np.log(0.7)), 0.5))
NO_RISE = 0.05  # probability of a rise that is scatter, from which none is believed
SEEN = 0.7  # of the way from chance to the ceiling: scores that reach it have seen the bend (guess)
ASKED = 0.15  # lowest score from which chance is asked about: that of guessing among six is 0.17 (guess)
STEEP = (-3.0, 5.0)  # log of the steepness per unit of loss: from flat over a nat to a step of 0.01
TYPICAL_NOISE = 0.01  # standard deviation of a score: 100 to 10,000 questions give 0.05 to 0.005
QUANTILES = 64  # of a forecast
LINKS = (1.0, 0.0, -1.0)  # powers of the loss that the sigmoid is drawn in; 0 is the logarithm


class Scores(NamedTuple):
    """Median and bounds of a score, in the order of `forecasts.Interval`."""

    median: float
    low: float
    high: float
    level: float

    def holds(self, score: float) -> bool:
        """Whether a score lies inside."""
        return self.low <= score <= self.high

    def __repr__(self) -> str:
        return f"score {self.median:.3f} [{self.low:.3f}, {self.high:.3f}] at {100 * self.level:g}%"


@dataclass(frozen=True, eq=False)
class TaskFit:
    """score = chance + height / (1 + exp(steepness u)), u the way of loss from middle, measured in a power of loss.

    `draws` (draws, 4) hold height, steepness (per unit of loss, at the middle), middle and power, mixed by `weights` of
    LINKS and CEILINGS; `thetas` (6, 4) are the best of each; `noise` is one run's standard deviation; `covered` the
    range of losses fitted, `reached` the highest expected score among them; `untold` the lowest score where nobody said
    what chance is.
    """

    chance: float
    thetas: np.ndarray
    weights: np.ndarray
    draws: np.ndarray
    noise: float
    covered: tuple[float, float]
    reached: float
    untold: float | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must be said before a score is foretold."""
        return (*self._floor(), *self._ceiling())

    def _floor(self) -> tuple[str, ...]:
        if self.untold is None or self.untold < ASKED:
            return ()
        return (
            f"Chance is taken as 0, though no score is below {self.untold:.2f}; where the answer is one of k choices, "
            f"give chance=1/k (chance=0 if there are none).",
        )

    def _ceiling(self) -> tuple[str, ...]:
        ceilings = self.chance + np.quantile(self.draws[:, 0], [0.05, 0.5, 0.95])
        if self.reached >= self.chance + SEEN * (ceilings[1] - self.chance):
            return ()
        return (
            f"The scores reach {self.reached:.2f}; the ceiling, {ceilings[1]:.2f} [{ceilings[0]:.2f}, "
            f"{ceilings[2]:.2f}], rests on a belief about tasks at large, not on them.",
        )

    _repr_pretty_ = printed

    def __str__(self) -> str:
        low, high = self.covered
        ceiling, steep, middle, _ = np.median(self.draws, axis=0)
        return "\n".join([
            *marked(self.caveats),
            f"score rises from {self.chance:.2f} to {self.chance + ceiling:.2f} as the loss falls through {middle:.3g} "
            f"(steepness {steep:.2g}), fitted to losses of {low:.4g} to {high:.4g} and scores up to {self.reached:.2f}",
            f"one run scatters by {self.noise:.3f}",
        ])  # fmt: skip

    def __call__(self, loss: Any) -> np.ndarray:
        """Expected score at these losses: the best curves, weighted."""
        losses = np.asarray(loss, float)
        return np.tensordot(self.weights, [curve(self.chance, theta, losses) for theta in self.thetas], axes=1)

    def predict(self, loss: Any, level: float = 0.9) -> Scores:
        """Score of a new run at a loss, or at a forecast of it: a Forecast, its interval, or equally likely losses.

        Raises InputError for losses that are no positive numbers, and a level outside 0 to 1.
        """
        if not 0 < level < 1:
            raise InputError(f"predict(level={level!r}): it is a probability between 0 and 1, as 0.9.")
        losses = _likely(loss)
        generator = np.random.default_rng(0)
        count = 8 * max(len(self.draws), len(losses))
        drawn = self.draws[np.arange(count) % len(self.draws)]
        at = curve(self.chance, drawn, losses[generator.permutation(np.arange(count) % len(losses))])
        at = np.clip(at + self.noise * generator.standard_t(8, count), 0.0, 1.0)
        low, middle, high = np.quantile(at, [0.5 - level / 2, 0.5, 0.5 + level / 2])
        return Scores(float(middle), float(low), float(high), level)


def curve(chance: float, theta: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The sigmoid for theta (..., 4) at losses that broadcast with (...)."""
    height, steepness, middle, power = np.moveaxis(np.asarray(theta, float), -1, 0)
    ratio = loss / middle
    safe = np.where(power == 0, 1.0, power)
    away = middle * np.where(power == 0, np.log(ratio), (ratio**safe - 1.0) / safe)
    return chance + height / (1.0 + np.exp(np.clip(steepness * away, -500.0, 500.0)))


def fit_task(loss: Any, score: Any, chance: float | None = None, *, draws: int = 120, seed: int = 0) -> TaskFit:
    """Fit scores in [0, 1] against losses, one a run; `chance` is the score of guessing (None: 0, as for free answers).

    Draws refit scores made anew about the curve, with the belief about the ceiling redrawn. Raises InputError for fewer
    than 4 runs, for scores outside [0, 1] or all below chance, and where scores do not rise as loss falls.
    Source: Bhagia et al. 2412.04403 and Llama 3 2407.21783, who use one sigmoid in loss and leave the ceiling free.
    """
    try:
        x, y, floor = np.asarray(loss, float), np.asarray(score, float), 0.0 if chance is None else float(chance)
    except (TypeError, ValueError) as error:
        raise InputError(f"losses, scores and chance are numbers ({error}); give an array of each.") from None
    _check(x, y, floor)
    generator = np.random.default_rng(seed)
    kinds = [(power, belief) for belief in CEILINGS for power in LINKS]
    thetas = np.array([_solve(x, y, floor, TYPICAL_NOISE, belief[1:], power, _starts(x)) for power, belief in kinds])
    squares = np.array([np.sum((y - curve(floor, theta, x)) ** 2) for theta in thetas])
    noise = float(np.sqrt((squares.min() + TYPICAL_NOISE**2) / (max(len(x) - 3, 0) + 1)))
    if not _rises(y, float(squares.min())):
        raise InputError(
            "scores do not rise as loss falls beyond their scatter, so loss cannot foretell them; use the task's own "
            "loss, or larger runs."
        )
    by_belief = squares.reshape(len(CEILINGS), len(LINKS))
    fits = np.exp(-(by_belief - by_belief.min(axis=1, keepdims=True)) / (2 * noise**2))
    believed = np.array([[probability] for probability, _, _ in CEILINGS])
    weights = (believed * fits / fits.sum(axis=1, keepdims=True)).ravel()
    drawn = []
    for theta, weight, (power, (_, mean, sd)) in zip(thetas, weights, kinds, strict=True):
        count = round(draws * weight)
        for share in (np.arange(count) + 0.5) / max(count, 1):  # of the belief, evenly: its tails are few draws
            made = curve(floor, theta, x) + noise * generator.standard_normal(len(x))
            belief = mean + sd * special.ndtri(share)
            drawn.append(_solve(x, made, floor, noise, (belief, sd), power, [_to_free(theta, floor)]))
    found = TaskFit(floor, thetas, weights, np.array(drawn), noise, (float(x.min()), float(x.max())), 0.0)
    return replace(found, reached=float(found(x.min())), untold=float(y.min()) if chance is None else None)


def _likely(loss: Any) -> np.ndarray:
    """Equally likely losses of what is one, or several, or a forecast of one."""
    interval = getattr(loss, "loss", loss)
    if all(hasattr(interval, name) for name in ("median", "low", "high", "level")):
        ends = special.ndtri([0.5 - interval.level / 2, 0.5 + interval.level / 2])
        low, high = (
            np.log(end / interval.median) / z for end, z in zip((interval.low, interval.high), ends, strict=True)
        )
        z = special.ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
        losses = interval.median * np.exp(np.where(z < 0, low, high) * z)
    else:
        try:
            losses = np.atleast_1d(np.asarray(loss, float))
        except (TypeError, ValueError):
            losses = np.zeros((0, 0))
        if losses.ndim != 1:
            raise InputError(f"predict({loss!r}): give a loss, several equally likely ones, or a Forecast.")
    if not len(losses) or not np.all(np.isfinite(losses) & (losses > 0)):
        raise InputError(f"predict({loss!r}): a loss is a positive number.")
    return losses


def _starts(x: np.ndarray) -> list[np.ndarray]:
    """Steepness from one to sixteen times the reciprocal of the range, the middle inside it and below."""
    width = max(float(np.ptp(x)), 1e-6)
    return [np.array([-0.1, np.log(k / width), m]) for k in (1.0, 4.0, 16.0) for m in (np.mean(x), x.min())]


def _to_free(theta: np.ndarray, floor: float) -> np.ndarray:
    """Log share of the reachable height, log steepness, middle."""
    return np.array([np.log(theta[0] / (1.0 - floor)), np.log(theta[1]), theta[2]])


def _solve(
    x: Any, y: Any, floor: float, noise: float, ceiling: tuple[float, float], power: float, starts: Any
) -> np.ndarray:
    """Least squares from every start, robust to a stray score; the best, as height, steepness, middle, power."""

    def theta(free: np.ndarray) -> np.ndarray:
        return np.array([(1.0 - floor) * np.exp(free[0]), np.exp(free[1]), free[2], power])

    def residuals(free: np.ndarray) -> np.ndarray:
        return np.append((curve(floor, theta(free), x) - y) / noise, (free[0] - ceiling[0]) / ceiling[1])

    low, high = (-3.0, STEEP[0], 0.2 * x.min()), (0.0, STEEP[1], 1.5 * x.max())  # a middle further off is no middle
    found = [
        optimize.least_squares(
            residuals, np.clip(start, low, high), bounds=(low, high), loss="soft_l1", f_scale=2.0, max_nfev=60
        )
        for start in starts
    ]
    return theta(min(found, key=lambda one: one.cost).x)


def _check(x: np.ndarray, y: np.ndarray, floor: float) -> None:
    if x.shape != y.shape or x.ndim != 1 or len(x) < 4:
        raise InputError(
            f"{x.size} losses and {y.size} scores were given; a sigmoid needs 4 runs or more, one of each."
        )
    finite = np.isfinite(x).all() and np.isfinite(y).all()
    if not (finite and y.min() >= 0 and y.max() <= 1 and 0 <= floor < 1 and x.min() > 0):
        raise InputError(
            f"scores from {y.min():g} to {y.max():g}, chance {floor:g} and losses from {x.min():g} were given; scores "
            f"and chance are shares of right answers between 0 and 1, losses are positive. Divide percentages by 100 "
            f"and leave out runs without a score."
        )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise InputError(
            f"all {len(x)} {'losses' if np.ptp(x) == 0 else 'scores'} are equal; runs must differ in both."
        )
    if np.max(y) <= floor:
        raise InputError(f"no score, of {y.min():g} to {y.max():g}, is above chance ({floor:g}); is chance mistaken?")


def _rises(y: np.ndarray, left: float) -> bool:
    """An F test of a rising curve that leaves such squares, beside no trend; a run's usual noise is in its scatter."""
    df = max(len(y) - 3, 0) + 1
    scatter = (left + TYPICAL_NOISE**2) / df
    return bool(special.fdtrc(3, df, (float(np.sum((y - y.mean()) ** 2)) - left) / 3 / scatter) < NO_RISE)
