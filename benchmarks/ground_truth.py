"""Worlds whose truth is known exactly (C25), and what depth over width does before any training (C32).

    python -m benchmarks.ground_truth      # writes benchmarks/results/ground_truth.json; three minutes of one core

Random-feature ridge regression has a closed form: it is compared with regressions really done, ladders of it are
foretold with the noise of real runs, and one with a fixed ridge, whose risk rises where features meet samples, must
earn a caveat. Then deep perceptrons at their first step: the size of activations over layers, and how the spread of
logits over seeds grows with depth over width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

import windtunnel as wt
from benchmarks.common import write
from windtunnel.laws.observations import Observations
from windtunnel.scaling.slopes import slope_of
from windtunnel.worlds import RidgeWorld, draw_ridge
from windtunnel.worlds.ridge import simulate

LADDERS, DRAWS = 200, 40
DEPTHS, WIDTHS, SEEDS = (2, 4, 8, 16), (32, 64, 128, 256), 400
CRITICAL = 2.0  # times one over fan-in: the variance of weights at which rectified layers keep the size (1502.01852)


def theory() -> dict[str, Any]:
    """Closed form over simulation at sizes from starved to saturated: relative difference of the means."""
    world, errors = RidgeWorld(decay=1.5, smooth=1.4, noise=0.1, modes=300), []
    cells = [(k, n, ridge) for k in (30, 60, 120, 240) for n in (40, 90, 180) for ridge in (0.02, 0.2)]
    for k, n, ridge in cells:
        done = [simulate(world, k, n, ridge, np.random.default_rng((k, n, seed))) for seed in range(DRAWS)]
        errors.append(world.risk(k, n, ridge) / float(np.mean(done)) - 1)
    return {"cells": len(cells), "draws each": DRAWS, "largest difference": float(np.max(np.abs(errors))),
            "mean difference": float(np.mean(errors)), "bar": 0.05}  # fmt: skip


def coverage() -> dict[str, Any]:
    """How often a new run at the target, 4 to 100 times the top rung's compute, falls into its 90 % interval."""
    inside, widths, told, said = 0, [], 0, 0
    for seed in range(LADDERS):
        generator = np.random.default_rng((seed, 25))
        world = draw_ridge(generator, runs=8)
        runs = world.observations(generator)
        ladder, target = runs.where(runs.split == "fit"), runs.where(runs.split == "predict")
        try:
            forecast = wt.fit(ladder).forecast(_target(target))
        except wt.InputError:
            said += 1
            continue
        told, loss = told + 1, forecast.loss
        inside += loss.low <= target.loss[0] <= loss.high
        widths.append((loss.high - loss.low) / loss.median)
    test = binomtest(inside, told)
    exact = test.proportion_ci(0.95)
    return {"ladders": told, "refused": said, "inside": inside / told, "95 %": [exact.low, exact.high], "bar": 0.85,
            "median width": float(np.median(widths))}  # fmt: skip


def _target(at: Observations) -> wt.Target:
    assert at.params is not None and at.tokens is not None
    return wt.Target(params=float(at.params[0]), tokens=float(at.tokens[0]))


def untuned() -> dict[str, Any]:
    """Ladders in features past the samples, at the best ridge and at a small fixed one: which earn a caveat."""
    found = {"best ridge": 0, "fixed ridge": 0}
    count, rising = 40, 0
    for seed in range(count):
        generator = np.random.default_rng((seed, 7))
        world = RidgeWorld(generator.uniform(1.2, 1.8), 1 + generator.uniform(0.2, 0.6), 0.2)
        samples = float(10 ** generator.uniform(2.5, 3.5))
        features = samples * np.geomspace(0.05, 1.0, 6)  # the last rung meets the samples
        for name in found:
            risk = [
                world.best(k, samples)[0] if name == "best ridge" else world.risk(k, samples, 1e-6) for k in features
            ]
            rising += name == "fixed ridge" and risk[-1] > risk[-2]
            losses = np.repeat(risk, 2) * np.exp(0.003 * generator.standard_normal(12))
            tokens = np.full(12, samples)
            params = np.repeat(features, 2)
            runs = Observations(loss=losses, params=params, tokens=tokens, flops=6 * params * tokens)
            forecast = wt.fit(runs).forecast(wt.Target(params=4 * samples, tokens=samples))
            found[name] += any("rises" in caveat for caveat in forecast.caveats)
    return {"ladders": count, "whose risk rises at the fixed ridge": rising, "with the caveat": found}


def activations(depth: int, width: int, variance: float, seed: int) -> tuple[np.ndarray, float]:
    """Root mean square after each rectified layer (before the rectifier) and one logit, of one random input."""
    generator = torch.Generator().manual_seed(seed)
    x, sizes = torch.randn(width, generator=torch.Generator().manual_seed(0)), []
    x = x / x.square().mean().sqrt()
    for _ in range(depth):
        weight = torch.randn(width, width, generator=generator) * (variance / width) ** 0.5
        before = weight @ x
        sizes.append(float(before.square().mean().sqrt()))
        x = before.relu()
    readout = torch.randn(width, generator=generator) * (variance / width) ** 0.5
    return np.array(sizes), float(readout @ x)


def depth_over_width() -> dict[str, Any]:
    """Sizes over 16 layers at criticality and off it; relative variance of squared logits against depth over width."""
    found: dict[str, Any] = {}
    for name, variance in (("critical, 2 / fan-in", CRITICAL), ("1 / fan-in", 1.0)):
        sizes = np.mean([np.square(activations(16, 256, variance, seed)[0]) for seed in range(100)], axis=0) ** 0.5
        found[f"root mean square, layer 16 over layer 1: {name}"] = float(sizes[-1] / sizes[0])
    ratios, spread = [], []
    for depth in DEPTHS:
        for width in WIDTHS:
            # given its layers the logit is normal, so its fourth moment over 3 is the mean square of its variance
            variances = np.array([_readout_variance(depth, width, seed) for seed in range(SEEDS)])
            ratios.append(depth / width)
            spread.append(float(variances.var() / variances.mean() ** 2))
    slope = slope_of(ratios, np.array(spread)[:, None])
    return found | {
        "relative variance over seeds of the logit's variance, slope against depth over width": slope.to_json(),
        "bar": "1 +- 0.2", "seeds": SEEDS, "cells": len(ratios),
        "coefficient (5 in theory, for rectified layers)": float(np.median(np.array(spread) / np.array(ratios))),
        "largest ratio": max(ratios),
    }  # fmt: skip


def _readout_variance(depth: int, width: int, seed: int) -> float:
    """Mean square of the last hidden layer, which is the logit's variance given the layers."""
    sizes, _ = activations(depth + 1, width, CRITICAL, seed)
    return float(sizes[-1] ** 2)


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    result = {"closed form": theory(), "forecasts": coverage(), "a ridge that is not tuned": untuned(),
              "depth over width": depth_over_width()}  # fmt: skip
    print(write("ground_truth", result))


if __name__ == "__main__":
    main()
