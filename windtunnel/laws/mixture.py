"""Data mixtures: one domain's loss from the shares of the training data, so that mixtures can be ranked and chosen.

L = E + A (sum_j a_j w_j)^-gamma: a token of domain j is worth a_j tokens of the judged one. Runs of one size are fitted
and their ranking is carried to larger ones; the loss itself is not, for it falls with size. A newcomer would trust the
best mixture anywhere on the simplex: shares beyond those tried are not foretold, so `best` stays within them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from windtunnel.errors import InputError
from windtunnel.laws.noise import explains
from windtunnel.notebook import marked, printed

# Beliefs, as (mean, standard deviation) of logarithms: gamma as other data exponents; the worth of a token of any
# domain within a factor of 20 or so of 1 (guess; it also settles the unit of a_j).
GAMMA, WORTH = (np.log(0.3), 0.6), (0.0, 3.0)
LEAST = 1e-9  # worth of a mixture of worthless domains
# Share of the spread of log losses that the squares of shares may explain beyond the law: the judged domains of regmix,
# one at a time, have 0.1 to 2.4 % (n = 13), their mean 25 %.
BENT = 0.05
SHOWN = 20  # domains whose worth is printed
CHANCE = 0.05  # probability with which shares that do nothing seem to explain the losses
NOTHING = "The shares explain no more of the losses than chance would: train mixtures that lie further apart, or more."
ENOUGH = 3  # runs a parameter from which a mean over domains is mostly seen to be none (made-up means)
FEW = 3  # degrees of freedom below which worths rest on beliefs (guess)


class Losses(NamedTuple):
    """Median and bounds of losses, one entry a mixture, in the order of `forecasts.Interval`."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float


@dataclass(frozen=True, eq=False)
class MixtureFit:
    """`theta` holds the logarithms of E, A, gamma and a_1.. of the domains, `covariance` their doubt.

    `noise` is the standard deviation of one run's log loss on `df` degrees of freedom; `covered` (2, domains) the least
    and the largest share of each domain that was tried; `bent` the share of the spread of log losses that the squares
    of the shares explain beyond the law and beyond chance; `runs` how many were fitted; `told` whether the shares
    explain more of the losses than chance would.
    """

    theta: np.ndarray
    covariance: np.ndarray
    noise: float
    df: int
    covered: np.ndarray
    bent: float = 0.0
    runs: int = 0
    told: bool = True

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must be said before a mixture is ranked or chosen."""
        found, parameters = [], len(self.theta)
        if not self.told:
            found.append(NOTHING)
        if self.bent > BENT:
            found.append(
                f"Squares of the shares explain {100 * self.bent:.0f} % of the spread of losses beyond this law: it is "
                f"one of a single domain's loss, and a mean over domains is none. Fit each domain's loss and give the "
                f"fits to wt.laws.best_mixture."
            )
        if self.runs < parameters + FEW:
            found.append(f"{self.runs} runs for {parameters} parameters: what domains are worth rests on beliefs.")
        elif self.runs < ENOUGH * parameters and self.bent <= BENT:
            found.append(
                f"{self.runs} runs are too few to see whether this is the loss of one domain, as the law has it; of a "
                f"mean over domains its best mixture would be far off."
            )
        return tuple(found)

    @property
    def worth(self) -> np.ndarray:
        """What a token of each domain is worth for the judged loss, the best being 1."""
        return np.exp(self.theta[3:] - self.theta[3:].max())

    _repr_pretty_ = printed

    def __str__(self) -> str:
        worth = ", ".join(f"{each:.2g}" for each in self.worth[:SHOWN])
        more = f" and {len(self.worth) - SHOWN} more" if len(self.worth) > SHOWN else ""
        return "\n".join([
            *marked(self.caveats),
            f"a token of each of {len(self.worth)} domains is worth {worth}{more} (the best is 1)",
            f"fitted to {self.runs} runs; one run scatters by {100 * self.noise:.2f} %",
        ])  # fmt: skip

    def __call__(self, weights: Any) -> np.ndarray:
        """Expected loss of mixtures (mixtures, domains), or of one (domains,)."""
        return np.exp(_log_loss(self.theta, self._asked(weights))[0])

    def predict(self, weights: Any, level: float = 0.9) -> Losses:
        """Loss of a new run of each mixture (mixtures, domains), at the size that was fitted."""
        logs, slopes = _log_loss(self.theta, np.atleast_2d(self._asked(weights)))
        spread = np.sqrt(np.einsum("ij,jk,ik->i", slopes, self.covariance, slopes) + self.noise**2)
        half = special.stdtrit(self.df, 0.5 + level / 2) * spread
        return Losses(np.exp(logs), np.exp(logs - half), np.exp(logs + half), level)

    def best(self) -> np.ndarray:
        """Shares of the lowest foretold loss within those tried: (domains,).

        Raises InputError where the law misses how the loss bends in the shares, as that of a mean over domains does,
        and where the shares explain no more than chance would.
        """
        if not self.told:
            raise InputError(f"best() would name a mixture by chance. {NOTHING}")
        if self.bent > BENT:
            raise InputError(f"best() would name a mixture that is not the best. {self.caveats[0]}")
        return best_mixture([self])

    def _asked(self, weights: Any) -> np.ndarray:
        shares = _shares(weights)
        if shares.shape[-1] != self.covered.shape[1]:
            raise InputError(f"shares of {shares.shape[-1]} domains were given; {self.covered.shape[1]} were fitted.")
        return shares


def fit_mixture(weights: Any, loss: Any) -> MixtureFit:
    """Fit one loss (runs,) of runs of one size to the shares (runs, domains) they were trained on.

    Shares are scaled to sum to 1. The loss is that of one judged domain; of several, fit each and give the fits to
    `best_mixture`. Raises InputError for negative shares, sums far from 1, fewer than 5 runs, losses not above 0.
    Source: power of a weighted sum of data, as in transfer laws (Hernandez et al. 2102.01293); Ye et al. 2403.16952 put
    an exponential in its place, which ranks held-out mixtures a little worse (regmix: 0.971 to 0.983 here).
    """
    shares = _shares(weights)
    try:
        losses = np.asarray(loss, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"losses are numbers ({error}); give an array (runs,).") from None
    _check(shares, losses)
    logs = np.log(losses)
    count = shares.shape[1] + 3
    theta = np.r_[logs.min() - 0.5, logs.min() - 0.5, GAMMA[0], np.zeros(count - 3)]
    scale, df = 0.05, max(len(logs) - count, 1)
    for _ in range(3):  # the noise settles in two
        found = optimize.least_squares(
            lambda free, by=scale: _residuals(free, shares, logs, by)[0],
            theta,
            jac=lambda free, by=scale: _residuals(free, shares, logs, by)[1],  # type: ignore[arg-type]
            loss="soft_l1",
            f_scale=2.0,
            max_nfev=200,
        )
        theta = found.x
        scale = max(
            1.4826 * float(np.median(np.abs(logs - _log_loss(theta, shares)[0]))) * np.sqrt(len(logs) / df), 1e-4
        )
    noise = max(float(np.sqrt(np.sum((logs - _log_loss(theta, shares)[0]) ** 2) / df)), 1e-4)
    slopes = _residuals(theta, shares, logs, noise)[1]
    covered = np.stack([shares.min(axis=0), shares.max(axis=0)])
    bent = _bent(logs - _log_loss(theta, shares)[0], shares, float(np.sum((logs - logs.mean()) ** 2)))
    gain = float(np.sum((logs - logs.mean()) ** 2)) - df * noise**2
    told = explains(gain, shares.shape[1] - 1, noise**2, df, CHANCE)
    return MixtureFit(theta, np.linalg.pinv(slopes.T @ slopes), noise, df, covered, bent, len(logs), told)


def _bent(residuals: np.ndarray, shares: np.ndarray, spread: float) -> float:
    """The part of the spread of log losses that squares of shares explain of the residuals; 0 if noise would too."""
    columns = np.c_[shares, shares**2]
    fitted, _, rank, _ = np.linalg.lstsq(columns, residuals, rcond=None)
    left, df = float(np.sum((residuals - columns @ fitted) ** 2)), len(residuals) - int(rank)
    gain = float(np.sum(residuals**2)) - left
    return gain / spread if df > 0 and explains(gain, shares.shape[1], max(left / df, 1e-12), df) else 0.0


def best_mixture(fits: Sequence[MixtureFit], importance: Sequence[float] | None = None) -> np.ndarray:
    """Shares that minimise the mean log loss of several fits, weighted by importance, within the shares tried.

    The problem is as good as convex (every loss is convex in the shares), so one descent suffices. Raises InputError
    for fits of other domains, and importances that are no numbers of at least 0, one a fit.
    """
    fits, weigh = _judged(fits, importance)
    low = np.max([fit.covered[0] for fit in fits], axis=0)
    high = np.min([fit.covered[1] for fit in fits], axis=0)
    if low.sum() > 1 + 1e-9 or high.sum() < 1 - 1e-9:
        raise InputError(
            f"no mixture lies within the shares tried: they sum to {low.sum():.3g} at least and {high.sum():.3g} at "
            f"most. Fit runs of the same domains, with shares that vary."
        )

    def value(shares: np.ndarray) -> tuple[float, np.ndarray]:
        logs, slopes = zip(*(_log_loss(fit.theta, shares, by_share=True) for fit in fits), strict=True)
        return float(weigh @ np.array(logs) / weigh.sum()), weigh @ np.array(slopes) / weigh.sum()

    start = low + (high - low) * (1 - low.sum()) / max((high - low).sum(), 1e-12)
    sum_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    bounds = list(zip(low, high, strict=True))
    found = optimize.minimize(value, start, jac=True, method="SLSQP", bounds=bounds, constraints=[sum_to_one])
    return np.clip(found.x, low, high)


def _judged(fits: Any, importance: Any) -> tuple[list[MixtureFit], np.ndarray]:
    """The fits, and how much each counts."""
    some = list(fits) if isinstance(fits, Iterable) else [fits]
    if not some or not all(isinstance(fit, MixtureFit) for fit in some):
        raise InputError("fits are what fit_mixture returns, one a judged domain; give a list of one or more.")
    domains = sorted({fit.covered.shape[1] for fit in some})
    if len(domains) > 1:
        raise InputError(f"the fits are over {domains} domains; one mixture needs fits over the same ones.")
    try:
        weigh = np.ones(len(some)) if importance is None else np.asarray(importance, float)
    except (TypeError, ValueError):
        weigh = np.zeros(0)
    if weigh.shape != (len(some),) or not np.all(np.isfinite(weigh) & (weigh >= 0)) or not weigh.any():
        raise InputError(
            f"importance is {importance!r}; give {len(some)} numbers, one a fit, none below 0 and some above."
        )
    return some, weigh


def _log_loss(theta: np.ndarray, shares: np.ndarray, by_share: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Log loss and its derivatives by theta, or by the shares."""
    worth, gamma = np.exp(theta[3:]), np.exp(theta[2])
    effective = shares @ worth + LEAST
    floor, falling = theta[0] + np.zeros_like(effective), theta[1] - gamma * np.log(effective)
    logs = np.logaddexp(floor, falling)
    part = np.exp(falling - logs)[..., None]
    by_worth = -part * gamma * worth / effective[..., None]
    if by_share:
        return logs, by_worth
    by_gamma = -part * gamma * np.log(effective)[..., None]
    return logs, np.concatenate([1 - part, part, by_gamma, by_worth * shares], axis=-1)


def _residuals(theta: np.ndarray, shares: np.ndarray, logs: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of runs and beliefs in standard deviations, and their derivatives."""
    value, slopes = _log_loss(theta, shares)
    held = np.eye(len(theta))[2:]
    spread = np.r_[GAMMA[1], np.full(len(theta) - 3, WORTH[1])]
    centre = np.r_[GAMMA[0], np.full(len(theta) - 3, WORTH[0])]
    residuals = np.r_[(value - logs) / noise, (theta[2:] - centre) / spread]
    return residuals, np.concatenate([slopes / noise, held / spread[:, None]])


def _shares(weights: Any) -> np.ndarray:
    try:
        shares = np.asarray(weights, float)
    except (TypeError, ValueError):
        raise InputError(
            f"shares are an array (runs, domains) or a DataFrame's columns; a {type(weights).__name__} was given."
        ) from None
    if not shares.ndim or not shares.size:
        raise InputError("no shares were given; an array (runs, domains) is needed.")
    total = shares.sum(axis=-1, keepdims=True)
    if not np.isfinite(shares).all() or (shares < 0).any() or (np.abs(total - 1) > 0.05).any():
        raise InputError(
            f"shares from {shares.min():g} to {shares.max():g} that sum to {total.min():g} to {total.max():g} were "
            f"given; shares are parts of the training tokens, none negative, and sum to 1. Divide percentages by 100."
        )
    return shares / total


def _check(shares: np.ndarray, losses: np.ndarray) -> None:
    if shares.ndim != 2 or losses.shape != shares.shape[:1] or len(losses) < 5:
        raise InputError(
            f"shares of shape {shares.shape} and losses of shape {losses.shape} were given; needed are (runs, domains) "
            f"and (runs,) with 5 runs or more, better twice as many as domains."
        )
    if not np.all(np.isfinite(losses) & (losses > 0)):
        raise InputError("losses must be positive numbers; leave out runs without one.")
