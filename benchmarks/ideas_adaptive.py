"""The checks of two ideas of the gallery: critical momenta (A3) and the hypergradient rate (C38).

    python -m benchmarks.ideas_adaptive

A3 claims flatter minima: the share of starts that end in the flat of two wells (bar: 20 points above Adam), and the
largest Hessian eigenvalue of the digits' perceptron at equal training loss (bar: 20 % below Adam, accuracy not worse).
C38 claims to forgive the initial rate: accuracy over rates 30 times apart (bar: within 1 point, where a fixed rate
spreads 10). The paper's own setting of C38, local SGD with several workers, is not measured: an optimizer here has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, vmap

import windtunnel as wt
from benchmarks.batch_rate_curvature import start
from benchmarks.batch_rate_runs import CentredDigits, everything, recipe, runs
from benchmarks.common import write
from windtunnel.ideas.critical_momenta import CriticalMomentaAdam
from windtunnel.ideas.hypergradient_rate import HypergradientSGD
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.recipe import Site
from windtunnel.train.pack import numbers_of

SEEDS = range(5)
SHARP, FLAT, STARTS, WELL_STEPS = 50.0, 2.0, 1000, 1000  # curvatures of the two wells
WELL_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
RATE, TARGET, BATCH = 3e-3, 0.05, 32  # training loss at which sharpness is compared
INITIAL = tuple(tuple(least * 30 ** (i / 4) for i in range(5)) for least in (0.001, 0.01, 0.1))


def wells(optimizer: Any, middle: float, half: float) -> float:
    """The share of random starts in a square about (middle, 0) that end nearer to the flat well than to the sharp."""
    site = Site(role="vector", shape=(2,), fan_in=1, fan_out=2)
    hp = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers_of(optimizer).items()}
    points = torch.rand(STARTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    points = points * half + torch.tensor([middle, 0.0], dtype=torch.float64)
    states = vmap(lambda p: optimizer.init(p, site))(points)
    step = vmap(lambda g, s, p: optimizer.update(g, s, p, hp | _sums(optimizer, g, s, p, hp, site), site))
    for _ in range(WELL_STEPS):
        moves, states = step(_slope(points), states, points)
        points = points + moves
    return float((points[:, 0] > 0).double().mean())


def _sums(optimizer: Any, grad: Tensor, state: Any, param: Tensor, hp: Any, site: Site) -> dict[str, Tensor]:
    """What the optimizer wants summed over tensors, of one of them."""
    return optimizer.totals(grad, state, param, hp, site) if hasattr(optimizer, "totals") else {}


def _slope(points: Tensor) -> Tensor:
    """Of -log(exp(-SHARP |p - a|^2 / 2) + exp(-FLAT |p - b|^2 / 2)), a = (-1, 0), b = (1, 0): as deep as each other."""
    away = torch.stack([points - torch.tensor([-1.0, 0.0]), points - torch.tensor([1.0, 0.0])])
    curvatures = torch.tensor([SHARP, FLAT], dtype=points.dtype)[:, None]
    shares = torch.softmax(-0.5 * curvatures * away.square().sum(-1), dim=0)
    return (shares[..., None] * curvatures[..., None] * away).sum(0)


def sharpness(optimizer: Any, seed: int) -> dict[str, float]:
    """Train the digits' perceptron to the target loss; top eigenvalue of the whole Hessian there, and accuracy."""
    data, model = CentredDigits(), start(seed)
    images, labels = (torch.from_numpy(each) for each in everything(data))
    held, truth = next(data.held_out(size=1000, tokens=1000))
    site = Site(role="hidden", shape=(), fan_in=1, fan_out=1)
    hp = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers_of(optimizer).items()}
    states = [optimizer.init(p.detach(), site) for p in model.parameters()]

    def loss(module: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(module(batch[0])[:, 0], batch[1][:, 0])

    step, value = 0, float("inf")
    while value > TARGET and step < 3000:
        rows, targets = (torch.from_numpy(each) for each in data.batch(seed=seed, step=step, size=BATCH))
        slopes = torch.autograd.grad(loss(model, (rows, targets)), list(model.parameters()))
        with torch.no_grad():
            each = [_sums(optimizer, g, s, p, hp, site)
                    for g, s, p in zip(slopes, states, model.parameters(), strict=True)]  # fmt: skip
            sums = {name: torch.stack([one[name] for one in each]).sum() for name in each[0]}
            for i, (p, slope) in enumerate(zip(model.parameters(), slopes, strict=True)):
                move, states[i] = optimizer.update(slope, states[i], p.detach(), hp | sums, site)
                p.add_(move.to(p.dtype))
            step += 1
            if step % 10 == 0:
                value = float(loss(model, (images, labels)))
    top = wt.curvature.top_eigenvalue(
        wt.curvature.hessian(model, loss, [(images, labels)]), generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        hits = (model(torch.from_numpy(held))[:, 0].argmax(-1).numpy() == truth[:, 0]).mean()
    return {"steps": step, "loss": value, "eigenvalue": top.value, "accuracy": float(hits)}


def forgiving(optimizer: Any, rates: tuple[float, ...]) -> list[list[float]]:
    """Held-out accuracy (rates, seeds) after 5 passes; chance where a run diverged."""
    tokens = 5 * CentredDigits().shape().train_tokens
    rung = wt.Rung(width=64, depth=2, tokens=tokens, batch=BATCH)
    found = runs(recipe(optimizer), rung, [(rate, seed) for rate in rates for seed in SEEDS], 1, rung)
    accuracies = [run.metrics.get("accuracy", 0.1) for run in found]
    return np.array(accuracies).reshape(len(rates), -1).tolist()


def main() -> None:
    """Measure all checks and write them."""
    well = {
        f"from {name}": {
            str(rate): {
                "adam": wells(AdamW(lr=rate), *square),
                "critical": wells(CriticalMomentaAdam(lr=rate), *square),
            }
            for rate in WELL_RATES
        }
        for name, square in {"everywhere": (0.0, 2.0), "the sharp well": (-1.0, 0.4)}.items()
    }
    print("share in the flat well", well, flush=True)
    sharp = {
        name: [sharpness(optimizer, seed) for seed in SEEDS]
        for name, optimizer in {
            "adam": AdamW(lr=RATE),
            "critical": CriticalMomentaAdam(lr=RATE),
            "critical at a tenth": CriticalMomentaAdam(lr=RATE / 10),
        }.items()
    }
    for name, rows in sharp.items():
        print(name, {key: float(np.median([row[key] for row in rows])) for key in rows[0]}, flush=True)
    forgives = {}
    for rates in INITIAL:
        each = {
            "fixed": forgiving(SGD(lr=wt.tuned(1e-4, 1e2), momentum=0.9), rates),
            "hypergradient": forgiving(HypergradientSGD(lr=wt.tuned(1e-4, 1e2)), rates),
        }
        forgives[f"{rates[0]:g} to {rates[-1]:g}"] = {"rates": rates} | each
        for name, table in each.items():
            means = np.array(table).mean(axis=1)
            print(rates[0], name, np.round(means, 3), f"spread {100 * np.ptp(means):.1f} points", flush=True)
    print(write("ideas_adaptive", {"wells": well, "sharpness": sharp, "forgives": forgives, "seeds": len(SEEDS)}))


if __name__ == "__main__":
    main()
