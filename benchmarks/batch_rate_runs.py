"""The runs of `batch_rate.py`: every learning rate of a grid at every batch, trained by windtunnel as packs.

The digits' pixels are centred, as images are for training: with their common mean left in, one direction holds most of
the curvature of every example, and no batch size differs from another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.data.digits import Digits
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import DataShape, Judge, Recipe
from windtunnel.runs import Run, RunSpec
from windtunnel.scaling.rules import Standard
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack

BATCHES = (8, 16, 32, 64, 128, 256, 512)
BELOW = (2, 4)  # SGD alone: whether its slope tends to 1 where noise rules
SEEDS = (0, 1, 2, 3, 4)
PASSES = 10
WIDTH, DEPTH = 64, 2
# Log grids in steps of 2^(1/4), from well below the edge of the smallest batch to beyond that of the largest (a probe
# with steps of 2^(1/2) and 3 seeds).
GRIDS = {"sgd": 2.0 ** np.arange(-2, 4.01, 0.25), "adam": 2.0 ** np.arange(-7.5, 1.51, 0.25)}
GRID_BELOW = 2.0 ** np.arange(-4, 1.01, 0.25)
# Readings of "does not diverge": the mean training loss over the last pass, as a share of ln 10, where all start.
READINGS = {"stays below its start": 1.0, "halves": 0.5, "trains": 0.1}


@dataclass(frozen=True)
class CentredDigits:
    """The digits, less the mean image of those trained on."""

    repeat: bool = True

    def shape(self) -> DataShape:
        """As the digits'."""
        return Digits().shape()

    def fingerprint(self) -> str:
        """The digits', marked."""
        return Digits().fingerprint() + " centred"

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Centred images and labels of a step."""
        images, labels = Digits().batch(seed=seed, step=step, size=size)
        return images - _mean_image(), labels

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Centred images that are never trained on."""
        for images, labels in Digits().held_out(size=size, tokens=tokens):
            yield images - _mean_image(), labels


@cache
def _mean_image() -> np.ndarray:
    return everything(Digits())[0].mean(axis=0)


def everything(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """All training examples of a plan: its first pass."""
    return data.batch(seed=0, step=0, size=data.shape().train_tokens)


def recipe(optimizer: Any, *, parametrization: Any = None) -> Recipe:
    """The perceptron at a constant rate; one rate for every tensor unless a parametrization is given."""
    base = wt.recipes.mlp_mup_sgd(data=CentredDigits())
    return base.but(
        optimizer=optimizer, schedule=Constant(), parametrization=parametrization or Standard(),
        batch=FixedBatch(examples=1),
    )  # fmt: skip


def optimizer(name: str) -> Any:
    """SGD without momentum, or Adam with beta2 as windtunnel's AdamW has it."""
    open_rate = wt.tuned(1e-4, 1e2)
    return SGD(lr=open_rate, momentum=0.0) if name == "sgd" else AdamW(lr=open_rate)


def runs(recipe: Recipe, rung: wt.Rung, asked: list[tuple[float, int]], evaluations: int, base: wt.Rung) -> list[Run]:
    """One pack of (learning rate, seed)."""
    judge = Judge(data=recipe.data, tokens=10_000, evaluations=evaluations)
    described = recipe.describe()
    specs = [
        RunSpec(recipe=described, rung=rung, hyperparameters={"lr": float(rate)}, seed=seed, judge=judge.describe(),
                base_rung=base)
        for rate, seed in asked
    ]  # fmt: skip
    return train(Pack(recipe=recipe, specs=tuple(specs), judge=judge), device=torch.device("cpu"), compile=False)


def edges(name: str, batches: tuple[int, ...] = BATCHES, grid: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Reading to the largest rates (batches, seeds); NaN where no rate passed."""
    grid = GRIDS[name] if grid is None else grid
    found: dict[str, list[list[float]]] = {reading: [] for reading in READINGS}
    for batch in batches:
        rung = wt.Rung(width=WIDTH, depth=DEPTH, tokens=PASSES * CentredDigits().shape().train_tokens, batch=batch)
        asked = [(rate, seed) for rate in grid for seed in SEEDS]
        trained = runs(recipe(optimizer(name)), rung, asked, 1, rung)
        ends = np.array([ended(run, batch) for run in trained]).reshape(len(grid), len(SEEDS))
        for reading, share in READINGS.items():
            found[reading].append([edge(grid, ends[:, seed], share) for seed in range(len(SEEDS))])
        print(name, batch, {r: [f"{x:.3g}" for x in rows[-1]] for r, rows in found.items()}, flush=True)
    return {reading: np.array(rows) for reading, rows in found.items()}


def ended(run: Run, batch: int) -> float:
    """Mean training loss over the last pass, as a share of ln 10, where all start; infinite where it left floats."""
    losses = run.curve["train_loss"]
    last = losses[-max(1, CentredDigits().shape().train_tokens // batch) :]
    return float(np.mean(last) / np.log(10)) if run.outcome == wt.Outcome.FINISHED else float("inf")


def edge(grid: np.ndarray, ends: np.ndarray, share: float) -> float:
    """The last rate that passes, going up from the best one, before the first that does not."""
    passed = ends <= share
    best = int(np.argmin(ends))
    if not passed[best]:
        return float("nan")
    beyond = np.flatnonzero(~passed[best:])
    return float(grid[best + beyond[0] - 1] if len(beyond) else grid[-1])
