"""World: an expected loss at every size, beside a ladder, a target and the noise of runs; and the drawing of these.

What a newcomer would get wrong: the truth of a forecast is not the expected loss but a new run at the target, which has
noise of its own and the luck its size has in common. `observations` returns that run too, as the row whose split is
"predict". The populations below come from published runs (sources beside the numbers); none was fitted to a method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations

DESIGNS = ("horizon", "path", "grid")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ladder:
    """Runs to train, one entry each, and the target's one entry; `rung` numbers the sizes, `seed` the repeats."""

    params: np.ndarray
    tokens: np.ndarray
    rung: np.ndarray
    seed: np.ndarray
    target: Sizes
    design: str

    @property
    def flops(self) -> np.ndarray:
        """6 N D of each run."""
        return 6 * self.params * self.tokens

    @property
    def sizes(self) -> Sizes:
        """The runs' sizes."""
        return sizes_at(self.params, self.tokens)

    @property
    def top(self) -> Sizes:
        """The size of the run with most compute."""
        most = int(self.flops.argmax())
        return sizes_at(self.params[[most]], self.tokens[[most]])


@dataclass(frozen=True, kw_only=True)
class RunNoise:
    """Relative deviations (of log loss) from the expected loss: `run` of each run, `rung` of all runs at one size.

    Both are standard deviations at `flops` and shrink as compute ** -shrink, never below `least`.
    """

    run: float
    rung: float
    flops: float
    shrink: float = 0.0
    least: float = 0.0

    def scale(self, flops: np.ndarray) -> np.ndarray:
        """How the deviations at these FLOPs compare with those stated."""
        shrunk = (np.asarray(flops, float) / self.flops) ** -self.shrink
        return np.maximum(shrunk, self.least / self.run) if self.run > 0 else shrunk


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """`law` maps Sizes to expected losses (n,); `kind` names the family the world was drawn from."""

    kind: str
    law: Callable[[Sizes], np.ndarray]
    ladder: Ladder
    noise: RunNoise

    def truth(self, sizes: Sizes) -> np.ndarray:
        """Expected loss at sizes, without noise."""
        return np.asarray(self.law(sizes), float)

    @property
    def fall(self) -> float:
        """How far the expected loss falls from the ladder's top run to the target."""
        return float(self.truth(self.ladder.top)[0] - self.truth(self.ladder.target)[0])

    def observations(self, generator: np.random.Generator) -> Observations:
        """The ladder's runs (split "fit") and last one new run at the target (split "predict")."""
        sizes, rung, seed, split = with_target(self.ladder)
        logs = np.log(self.truth(sizes)) + deviations(self.noise, flops_of(sizes), rung, generator)
        return table(np.exp(logs), sizes, rung, seed, split, source=self.kind)


def sizes_at(params: np.ndarray, tokens: np.ndarray) -> Sizes:
    """Sizes with 6 N D FLOPs."""
    return Sizes(params=np.asarray(params, float), tokens=np.asarray(tokens, float), flops=6.0 * params * tokens)


def flops_of(sizes: Sizes) -> np.ndarray:
    """FLOPs of sizes that are known to have them."""
    assert sizes.flops is not None
    return sizes.flops


def columns(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Params and tokens of sizes that have both. Raises InputError where one is missing."""
    if sizes.params is None or sizes.tokens is None:
        raise InputError("A world's loss depends on params and tokens; give sizes that state both.")
    return sizes.params, sizes.tokens


def with_target(ladder: Ladder) -> tuple[Sizes, np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, rung, seed and split of the ladder's runs followed by the target's."""
    params, tokens = columns(ladder.target)
    sizes = sizes_at(np.append(ladder.params, params), np.append(ladder.tokens, tokens))
    rung, seed = np.append(ladder.rung, ladder.rung.max() + 1), np.append(ladder.seed, "0")
    split = np.array(["fit"] * len(ladder.params) + ["predict"])
    return sizes, rung, seed, split


def deviations(noise: RunNoise, flops: np.ndarray, rung: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Log deviation of each run: its own, and one that all runs of its rung share."""
    shared = generator.standard_normal(int(rung.max()) + 1)[rung]
    return noise.scale(flops) * (noise.run * generator.standard_normal(len(flops)) + noise.rung * shared)


def table(
    loss: np.ndarray, sizes: Sizes, rung: np.ndarray, seed: np.ndarray, split: np.ndarray, *, source: str
) -> Observations:
    """Losses and sizes as Observations."""
    return Observations(
        loss=loss, params=sizes.params, tokens=sizes.tokens, flops=sizes.flops, seed=seed,
        rung=np.char.add("rung ", rung.astype(str)), split=split, source=f"a {source} world",
    )  # fmt: skip


# populations


def log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high, every factor equally likely."""
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def draw_noise(generator: np.random.Generator, flops: np.ndarray) -> RunNoise:
    """Run noise of 0.05 to 1 % at the ladder's bottom, shrinking by up to compute ** -0.2 to no less than 0.02 %.

    Measured: 1 % at 14-96k parameters, 0.02-0.1 % at 190M-1B (OLMo ladder repeats), so about compute ** -0.16. What
    all runs of one size share (its hyperparameters, its shape) is up to as large again (guess).
    """
    run = log_uniform(generator, 0.0005, 0.01)
    rung, shrink = run * generator.uniform(0, 1), generator.uniform(0, 0.2)
    return RunNoise(run=run, rung=rung, flops=float(np.min(flops)), shrink=shrink, least=0.0002)


def draw_ladder(
    generator: np.random.Generator,
    runs: int,
    design: str = "",
    *,
    bottom: tuple[float, float] = (3e5, 1e8),
    ratio: tuple[float, float] = (5.0, 160.0),
) -> Ladder:
    """A ladder of `runs` runs spanning 30 to 1000 times in compute, and a target 3 to 100 times beyond its top.

    `design` "horizon" keeps the tokens fixed at `ratio` times the target's params; "path" grows params and tokens as
    the root of compute; "grid" varies the tokens per parameter at every size; "" takes one at random. `bottom` bounds
    the smallest run's params, `ratio` the tokens per parameter.
    """
    design = design or str(generator.choice(DESIGNS))
    if design not in DESIGNS or runs < 3:
        raise InputError(f"A ladder of {runs} runs, design {design!r}: give 3 runs or more and one of {DESIGNS}.")
    smallest, middle = log_uniform(generator, *bottom), log_uniform(generator, ratio[0], ratio[1] / 4)
    span, beyond = log_uniform(generator, 30, 1000), log_uniform(generator, 3, 100)
    if design == "horizon":
        return _horizon(generator, runs, smallest, middle, span, beyond)
    if design == "path":
        return _path(generator, runs, smallest, middle, span, beyond)
    return _grid(generator, runs, smallest, middle, span, beyond)


def _horizon(
    generator: np.random.Generator, runs: int, smallest: float, ratio: float, span: float, beyond: float
) -> Ladder:
    sizes, rung, seed = _rungs(generator, runs)
    params = smallest * np.geomspace(1, span, sizes)[rung]
    largest = np.array([params.max() * beyond])
    tokens = np.full(runs, ratio * largest)
    target = sizes_at(largest, tokens[:1])
    return Ladder(params=params, tokens=tokens, rung=rung, seed=seed, target=target, design="horizon")


def _path(
    generator: np.random.Generator, runs: int, smallest: float, ratio: float, span: float, beyond: float
) -> Ladder:
    sizes, rung, seed = _rungs(generator, runs)
    params = smallest * np.geomspace(1, np.sqrt(span), sizes)[rung]
    largest = np.array([params.max() * np.sqrt(beyond)])
    target = sizes_at(largest, ratio * largest)
    return Ladder(params=params, tokens=ratio * params, rung=rung, seed=seed, target=target, design="path")


def _grid(
    generator: np.random.Generator, runs: int, smallest: float, ratio: float, span: float, beyond: float
) -> Ladder:
    """Two horizons a size up to 10 runs, four beyond, 4 to 16 times apart; the target's horizon lies among them."""
    horizons, longest = 2 if runs <= 10 else 4, log_uniform(generator, 4, 16)
    size, horizon = np.divmod(np.arange(runs), horizons)
    if runs == 5:  # a cross: three sizes, the two smaller ones at a longer horizon too
        size, horizon = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 1, 1])
    params = smallest * np.geomspace(1, np.sqrt(span), int(size.max()) + 1)[size]
    tokens = params * ratio * longest ** (horizon / (horizons - 1))
    wanted = ratio * log_uniform(generator, 1, longest)
    largest = np.array([np.sqrt(beyond * (params * tokens).max() / wanted)])
    target = sizes_at(largest, wanted * largest)
    rung, seed = np.arange(runs), np.full(runs, "0")
    return Ladder(params=params, tokens=tokens, rung=rung, seed=seed, target=target, design="grid")


def _rungs(generator: np.random.Generator, runs: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of sizes, rung and seed of each run: one run a size, or as many seeds as leave 4 sizes or more."""
    seeds = int(generator.choice([each for each in (1, 2, 4) if runs % each == 0 and runs // each >= 4] or [1]))
    rung, seed = np.divmod(np.arange(runs), seeds)
    return runs // seeds, rung, seed.astype(str)
