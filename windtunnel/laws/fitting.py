"""One law fitted to observations: the best parameters and draws around them.

Robust least squares on log loss (Huber), weights from the noise, exponents drawn weakly to published values. Each draw
refits losses made anew: the law's own curve plus noise of the size that seeds (within rungs) and residuals (across
rungs) show, with beliefs about the exponents redrawn too; so where data cannot tell a floor, the draws spread over
what is believable instead of agreeing on one guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from windtunnel.laws.chinchilla import Chinchilla
from windtunnel.laws.law import Law
from windtunnel.laws.noise import TYPICAL_NOISE, pooled, repeats, seed_noise
from windtunnel.laws.observations import Observations
from windtunnel.laws.plain import PlainPowerLaw
from windtunnel.laws.power import PowerLaw
from windtunnel.laws.solve import solve

HUBER = 2.0  # residuals beyond this many standard deviations count linearly (guess; 1.345 is usual, ladders are short)
_ROUNDS = 3  # reweightings; the weights settle in two or three


@dataclass(frozen=True, eq=False)
class LawFit:
    """A law's `theta` (named by `law.names`), `draws` (draws, parameters), log residuals and their spread."""

    law: Law
    theta: np.ndarray
    draws: np.ndarray
    residuals: np.ndarray
    spread: float
    df: int
    at_bound: tuple[str, ...] = ()

    def log_loss(self, sizes: Any) -> np.ndarray:
        """Draws of the logarithm of the expected loss: (draws, runs)."""
        return np.log(np.maximum(self.law(self.draws, sizes), 1e-300))

    def parameters(self) -> dict[str, float]:
        """Best parameters by name."""
        return {name: float(value) for name, value in zip(self.law.names, self.theta, strict=True)}


def candidates(observations: Observations) -> tuple[Law, ...]:
    """The laws that these data can tell anything about, by what varies in them.

    Parameters alone: laws in N. Parameters and tokens along one line in log-log: laws in C. Both independently: laws
    in (N, D). Needs nothing to vary twice: data with only one size column get laws in that column.
    """
    o = observations
    if o.params is None or o.tokens is None:
        return PowerLaw(o.axis), PlainPowerLaw(o.axis)
    params, tokens = np.log(o.params), np.log(o.tokens)
    fixed = np.ptp(params) < 0.05, np.ptp(tokens) < 0.05
    if all(fixed):  # FLOPs were stated and vary for a reason of their own
        return PowerLaw(o.axis), PlainPowerLaw(o.axis)
    if fixed[1]:
        return PowerLaw("params"), PlainPowerLaw("params")
    if fixed[0]:
        return PowerLaw("tokens"), PlainPowerLaw("tokens")
    if _off_line(params, tokens) < 0.15:  # guess: 15 % of scatter about the line cannot carry a second exponent
        return PowerLaw("flops"), PlainPowerLaw("flops")
    return Chinchilla(tied=True), Chinchilla()


def fit_law(law: Law, observations: Observations, *, draws: int, seed: int) -> LawFit:
    """Fit one law; the same observations and seed give the same digits."""
    o = observations
    logs = np.log(o.loss)
    believed = np.array([[1.0 if typical is None else typical[0] for typical in law.typical]])
    alike, between = repeats(o), seed_noise(o)
    spread, df, predicted, robust = TYPICAL_NOISE, 0, o.loss, np.ones(len(o))
    theta = np.zeros((1, len(law.names)))
    for _ in range(_ROUNDS):
        weights = robust / (spread * predicted) ** 2
        theta, _ = solve(law, o, o.loss[None], weights, believed)
        predicted = law(theta[0], o)
        spread, df = _spread(alike, between, logs - np.log(predicted), len(law.names))
        size = np.abs(logs - np.log(predicted)) / spread
        robust = np.minimum(1.0, HUBER / np.maximum(size, 1e-12))
    drawn = _draws(law, o, predicted, robust, (spread, df), draws, seed)
    return LawFit(law, theta[0], drawn, logs - np.log(predicted), spread, df, _at_bound(law, theta[0]))


def _off_line(params: np.ndarray, tokens: np.ndarray) -> float:
    """Spread of log tokens that log params does not explain."""
    slope, start = np.polyfit(params, tokens, 1)
    return float(np.std(tokens - slope * params - start))


def _spread(alike: Any, between: tuple[float, int], residuals: Any, parameters: int) -> tuple[float, int]:
    """Standard deviation of one run about the law: seeds and rung residuals pooled, unless the law clearly misfits."""
    counts = np.bincount(alike)
    means = np.bincount(alike, residuals) / counts
    lacking_df = max(len(counts) - parameters, 0)
    lacking = float(np.sqrt(np.sum(counts * means**2) / lacking_df)) if lacking_df else 0.0
    seeds, df = between
    if df and lacking_df and lacking**2 > special.fdtri(lacking_df, df, 0.95) * max(seeds, 1e-9) ** 2:
        return pooled((lacking, lacking_df)), lacking_df
    return pooled(between, (lacking, lacking_df)), df + lacking_df


def _draws(law: Law, o: Observations, curve: Any, robust: Any, spread: Any, draws: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    sd, df = spread[0], spread[1] + 1
    scales = sd * np.sqrt(df / generator.chisquare(df, draws)).clip(0.4, 4.0)  # the noise is itself only estimated
    losses = curve * np.exp(scales[:, None] * generator.standard_normal((draws, len(o))))
    beliefs = np.ones((draws, len(law.typical)))
    for index, typical in enumerate(law.typical):
        if typical is not None:
            beliefs[:, index] = typical[0] * np.exp(typical[1] * generator.standard_normal(draws))
    return solve(law, o, losses, robust / (sd * curve) ** 2, beliefs)[0]


def _at_bound(law: Law, theta: np.ndarray) -> tuple[str, ...]:
    exponents = list(zip(law.names, law.bounds, theta, strict=True))[law.linear :]
    return tuple(n for n, (low, high), value in exponents if value <= low * 1.02 or value >= high / 1.02)
