"""Random-feature ridge regression: a world that trains, with a closed form of its test risk in features and samples.

From Simon, Karkada, Ghosh, Belkin, "More is better in modern machine learning" (2311.14646). A target with
coefficients v_i on eigenfunctions of eigenvalue l_i is learnt from n samples with k random features and ridge delta:

    n = sum_i l_i / (l_i + gamma) + delta / kappa          z = sum_i l_i / (l_i + gamma)
    k = sum_i l_i / (l_i + gamma) + k kappa / gamma        q = sum_i (l_i / (l_i + gamma))^2
    risk = (sum_i (gamma / (l_i + gamma) - kappa l_i / (l_i + gamma)^2 k / (k - q)) v_i^2 + noise) / (1 - x)
    x = (q (k - 2 z) + z^2) / (n (k - q))

What a newcomer would get wrong: given gamma, the second line gives kappa and the first then gives delta, so gamma is
the only thing to search, and the best ridge is a minimum over gamma. Features are params here, samples tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.law import Sizes
from windtunnel.worlds.world import World, columns, draw_ladder, draw_noise, log_uniform

EXACT, BINS = 100, 400  # leading eigenvalues kept one by one, and geometric bins for the rest
MODES = 1e12  # length of the spectrum: beyond any size here, so the power law never ends
HIGHEST = 7.0  # log gamma at which nothing is learnt, the largest eigenvalue being 1
GRID = 120  # gammas searched for the best ridge before a parabola through the lowest three


@dataclass(frozen=True, eq=False)
class RidgeWorld:
    """Eigenvalues i ** -decay, squared coefficients i ** -smooth (summing to 1), label noise of variance `noise`.

    `modes` is the number of eigenvalues; large spectra are summed over geometric bins. Called with Sizes it gives the
    risk at the best ridge.
    """

    decay: float
    smooth: float
    noise: float
    modes: float = MODES

    def __post_init__(self) -> None:
        if not (self.decay > 1 and self.smooth > 1 and self.noise >= 0):
            raise InputError(
                f"decay is {self.decay}, smooth {self.smooth}, noise {self.noise}; the spectra must be summable (decay "
                f"and smooth above 1) and the noise a variance (0 or more)."
            )

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalue, number of modes and sum of squared coefficients of each bin."""
        start = min(EXACT, int(self.modes))
        geometric = np.geomspace(start, self.modes + 1, BINS).round()
        edges = np.unique(np.append(np.arange(1.0, start + 1), geometric))  # a bin holds modes i .. j - 1
        counts = np.diff(edges)
        middle = np.sqrt(edges[:-1] * (edges[1:] - 1))  # geometric; a single mode stays exact
        energy = counts * middle**-self.smooth
        return middle**-self.decay, counts, energy / energy.sum()

    def __call__(self, sizes: Sizes) -> np.ndarray:
        """Expected loss (n,): the risk at the best ridge with params features and tokens samples."""
        params, tokens = columns(sizes)
        return np.array([self.best(k, n)[0] for k, n in zip(params, tokens, strict=True)])

    def risk(self, features: float, samples: float, ridge: float) -> float:
        """Test mean squared error, label noise included, at a ridge above 0."""
        if not ridge > 0:
            raise InputError(f"ridge is {ridge!r}; it must be above 0 (take a small one for the ridgeless limit).")
        low, high = self._least(features, samples), 60.0
        for _ in range(80):  # the ridge grows with gamma
            middle = 0.5 * (low + high)
            delta = self._at(np.array([middle]), features, samples)[1][0]
            low, high = (middle, high) if delta < ridge else (low, middle)
        return float(self._at(np.array([0.5 * (low + high)]), features, samples)[0][0])

    def best(self, features: float, samples: float) -> tuple[float, float]:
        """Least risk over the ridge, and that ridge (0: the smallest possible is best)."""
        logs = np.linspace(self._least(features, samples), HIGHEST, GRID)
        risks, ridges = self._at(logs, features, samples)
        at = int(np.argmin(risks))
        if at in (0, GRID - 1):
            return float(risks[at]), float(ridges[at])
        step, (before, here, after) = logs[1] - logs[0], risks[at - 1 : at + 2]
        moved = logs[at] + 0.5 * step * (before - after) / (before - 2 * here + after)
        risk, ridge = self._at(np.array([moved]), features, samples)
        return float(min(risk[0], here)), float(ridge[0])

    def _least(self, features: float, samples: float) -> float:
        """The log gamma at which the ridge vanishes: there as many modes are learnt as features or samples allow."""
        values, counts, _ = self.spectrum
        low, high = float(np.log(values[-1])) - 5, HIGHEST
        most = min(features, samples) * (1 - 1e-9)
        for _ in range(60):
            middle = 0.5 * (low + high)
            enough = counts @ (values / (values + np.exp(middle))) < most
            low, high = (low, middle) if enough else (middle, high)
        return high

    def _at(self, logs: np.ndarray, features: float, samples: float) -> tuple[np.ndarray, np.ndarray]:
        """Risk and ridge at each log gamma: (m,) to (m,), (m,)."""
        values, counts, energy = self.spectrum
        gamma = np.exp(logs)[:, None]
        learnt = values / (values + gamma)
        z, q = learnt @ counts, learnt**2 @ counts
        kappa = gamma[:, 0] * (features - z) / features
        ridge = kappa * (samples - z)
        excess = (q * (features - 2 * z) + z**2) / (samples * (features - q))
        lost = gamma / (values + gamma) - (kappa * features / (features - q))[:, None] * learnt / (values + gamma)
        return (lost @ energy + self.noise) / (1 - excess), ridge


def simulate(world: RidgeWorld, features: int, samples: int, ridge: float, generator: np.random.Generator) -> float:
    """The test risk of one regression, really done: gaussian samples, random features, exact expectation over inputs.

    For worlds with few modes (a matrix of modes x modes is not formed, but modes x features is).
    """
    modes = int(world.modes)
    values = np.arange(1.0, modes + 1) ** -world.decay
    energy = np.arange(1.0, modes + 1) ** -world.smooth
    wanted = np.sqrt(energy / energy.sum())
    inputs = generator.standard_normal((samples, modes))
    labels = inputs @ wanted + np.sqrt(world.noise) * generator.standard_normal(samples)
    mixing = generator.standard_normal((modes, features)) * np.sqrt(values / features)[:, None]
    seen = inputs @ mixing
    if features < samples:
        weights = np.linalg.solve(seen.T @ seen + ridge * np.eye(features), seen.T @ labels)
    else:
        weights = seen.T @ np.linalg.solve(seen @ seen.T + ridge * np.eye(samples), labels)
    return float(np.sum((mixing @ weights - wanted) ** 2) + world.noise)


def draw_ridge(generator: np.random.Generator, runs: int = 8, design: str = "", *, starved: bool = False) -> World:
    """A world of random-feature regressions at their best ridge, with a ladder of `runs` runs.

    Smoothness such that noise-free loss falls as size ** -0.1 to -0.6 (as published losses do), eigenvalue decay 1.1 to
    2, label noise 0 to 90 % of the loss at the top. Its curves bend: no power law holds exactly, and at a fixed horizon
    the exponent in params rises from the spectrum's to 1 as the data begin to limit (2102.06701 calls it the passage
    from resolution to variance), on the ladder or beyond it. `starved`: a fixed horizon that gives the target 10 to
    1000 times more params than tokens. There the loss stops falling within a decade of params, so a ladder that ends
    earlier cannot foresee it (as with a break beyond the ladder).
    """
    ratio = (0.001, 0.4) if starved else (1.0, 32.0)
    ladder = draw_ladder(generator, runs, "horizon" if starved else design, bottom=(100, 1000), ratio=ratio)
    decay, smooth = generator.uniform(1.1, 2.0), 1 + log_uniform(generator, 0.1, 0.6)
    clean = float(RidgeWorld(decay, smooth, 0.0)(ladder.top)[0])
    share = generator.uniform(0, 0.9)
    law = RidgeWorld(decay, smooth, clean * share / (1 - share))
    kind = f"ridge, {'starved' if starved else ladder.design}"
    return World(kind=kind, law=law, ladder=ladder, noise=draw_noise(generator, ladder.flops))
