"""Curvature along safe runs of `batch_rate.py`: eigenvalues of mini-batches, sharpness along steps, gradient noise.

A safe run takes an eighth of the largest rate of its own batch, so that what it sees is the loss and not its own
bouncing. For Adam the curvature is that of the preconditioned steps of the same run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import windtunnel as wt
from benchmarks.batch_rate_runs import (
    BATCHES,
    DEPTH,
    PASSES,
    SEEDS,
    WIDTH,
    CentredDigits,
    everything,
    optimizer,
    recipe,
)
from windtunnel.scaling.slopes import slope_of
from windtunnel.train.pack import groups_of, initial_params, table_of

AT = (0.0, 0.25, 1.0, 3.0, 10.0)  # passes
DRAWS, NOISE_DRAWS, NOISE_EXAMPLES = 4, 40, 16
CHOSEN = SEEDS[:3]
EPSILON, BETAS = 1e-8, (0.9, 0.95)


def along(name: str, rates: dict[int, float]) -> list[Any]:
    """Points (batches, seeds, passes) of a safe run at every batch."""
    return [[measured(name, batch, rates[batch], seed) for seed in CHOSEN] for batch in BATCHES]


def summary(name: str, points: list[Any]) -> dict[str, Any]:
    """What the points say of the largest rate: at every pass, and at the sharpest point of a run.

    Adam is read from the first whole pass on: before, its diagonal holds entries that no example has moved, and the
    preconditioned curvature is whatever epsilon makes of them (a million times what it is after a pass).
    """
    first = AT.index(1.0) if name == "adam" else 0

    def table(quantity: str, at: slice | int) -> np.ndarray:
        values = [[np.max([p[quantity] for p in np.atleast_1d(np.array(run)[at])]) for run in row] for row in points]
        return np.array(values, float)

    passes = {
        str(AT[i]): {
            "eigenvalues": np.median(table("eigenvalue", i), axis=1).tolist(),
            "slope": slope_of(BATCHES, 1 / table("eigenvalue", i)).to_json(),
            "noise_scale": np.median(table("noise_scale", i), axis=1).tolist(),
        }
        for i in range(first, len(AT))
    }
    sharpest = 2 / table("eigenvalue", slice(first, None))
    return {
        "at": passes, "seeds": len(CHOSEN), "draws": DRAWS, "rate": "an eighth of the largest that trains",
        "foretold": {"start": (2 / table("eigenvalue", first)).tolist(), "sharpest": sharpest.tolist()},
    }  # fmt: skip


def measured(name: str, batch: int, rate: float, seed: int) -> list[dict[str, Any]]:
    """One safe run, measured at every point of AT."""
    data, model = CentredDigits(), start(seed)
    images, labels = (torch.from_numpy(each) for each in everything(data))
    labels = labels[:, 0]

    def loss(module: nn.Module, rows: Tensor) -> Tensor:
        return F.cross_entropy(module(images[rows])[:, 0], labels[rows])

    def draw(size: int, number: int) -> Tensor:
        chosen = np.random.default_rng([seed, size, number]).permutation(len(labels))[:size]
        return torch.from_numpy(chosen)

    stepper: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=rate) if name == "sgd"
        else torch.optim.Adam(model.parameters(), lr=rate, betas=BETAS, eps=EPSILON)
    )  # fmt: skip
    found, done, per_pass = [], 0, len(labels) / batch
    for passes in AT:
        until = max(int(passes * per_pass), 1 if name == "adam" else 0)  # Adam has no diagonal before its first step
        for step in range(done, until):
            stepper.zero_grad()
            rows, targets = (torch.from_numpy(each) for each in data.batch(seed=seed, step=step, size=batch))
            F.cross_entropy(model(rows)[:, 0], targets[:, 0]).backward()
            stepper.step()
        done = until
        found.append({"passes": passes} | _point(model, loss, draw, batch, second_moment(stepper, model)))
    return found


def _point(model: nn.Module, loss: Any, draw: Any, batch: int, diagonal: Tensor | None) -> dict[str, float]:
    curvature = wt.curvature

    def operator(rows: Tensor) -> Any:
        plain = curvature.hessian(model, loss, [rows])
        return plain if diagonal is None else curvature.preconditioned(plain, diagonal)

    curve = curvature.eigenvalue_curve(operator, draw, [batch], draws=DRAWS, tolerance=0.05, products=40)
    noise = curvature.noise_scale(
        model, loss, [draw(NOISE_EXAMPLES, number) for number in range(NOISE_DRAWS)], examples=NOISE_EXAMPLES,
        diagonal=diagonal,
    )  # fmt: skip
    along_steps = [_along_step(model, loss, draw(batch, number), diagonal) for number in range(DRAWS)]
    return {
        "eigenvalue": float(curve.mean[0]), "unconverged": curve.unconverged,
        "sharpness": float(np.mean(along_steps)), "noise_scale": noise.scale,
        "noise_low": noise.low, "noise_high": noise.high,
    }  # fmt: skip


def _along_step(model: nn.Module, loss: Any, rows: Tensor, diagonal: Tensor | None) -> float:
    """Curvature along the batch's own (preconditioned) step s: s' H s / s' D s with D s = gradient."""
    slope = wt.curvature.gradient(model, loss, rows)
    step = slope if diagonal is None else slope / diagonal
    bent = wt.curvature.hessian(model, loss, [rows]).multiply(step)
    return float(step @ bent / (step @ slope))


def start(seed: int) -> nn.Module:
    """The perceptron with the very weights that the run of this seed begins with."""
    whole = recipe(optimizer("sgd"))
    rung = wt.Rung(width=WIDTH, depth=DEPTH, tokens=PASSES * 1000, batch=1)
    model = whole.model.build(rung, whole.data.shape())
    groups = groups_of(table_of(whole, rung, rung))
    values = initial_params(groups, [seed], torch.device("cpu"))
    named = dict(model.named_parameters())
    with torch.no_grad():
        for group, stack in zip(groups, values, strict=True):
            for index, name in enumerate(group.names):
                named[name].copy_(stack[0, index])
    return model


def second_moment(stepper: torch.optim.Optimizer, model: nn.Module) -> Tensor | None:
    """Adam's diagonal, sqrt(bias-corrected second moment) + epsilon; None for SGD."""
    if isinstance(stepper, torch.optim.SGD):
        return None
    parts = []
    for weight in model.parameters():
        state = stepper.state[weight]
        corrected = state["exp_avg_sq"] / (1 - BETAS[1] ** float(state["step"]))
        parts.append((corrected.sqrt() + EPSILON).flatten())
    return torch.cat(parts)
