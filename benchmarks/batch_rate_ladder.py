"""One ladder for all rules of `batch_rate.py`: widths x batches x learning rates, AdamW under muP on the digits.

The rate is constant, so a run of ten passes is also the run of two and of five, and its judgements there are read as
such: the rows of one run are not independent, and the intervals of the laws are that much too narrow. A newcomer would
compare batches at one rate; every rule here is given, or carries, the rate that is best where it starts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

import windtunnel as wt
from benchmarks.batch_rate_runs import BATCHES, DEPTH, PASSES, WIDTH, CentredDigits, optimizer, recipe, runs
from windtunnel.laws import CriticalBatch, fit_law
from windtunnel.laws.observations import Observations
from windtunnel.scaling.rules import MuP, carry
from windtunnel.scaling.slopes import plain, slope_of

WIDTHS = (16, 32, 64)
RATES = 2.0 ** np.arange(-12, -2.9, 1.0)
SEEDS = (0, 1, 2)
EVERY = 20  # judgements in a run: two a pass
READ = (2, 5, 10)  # passes at which a run counts as a run of that length
# The law's critical batch is bounded below by 100 tokens, which is for text: an image counts as its 64 pixels there.
PIXELS = 64
DRAWS = 200


def measured() -> dict[str, Any]:
    """Train the ladder and say what every rule and law makes of it."""
    losses, params = {}, {}
    for width in WIDTHS:
        for batch in BATCHES:
            losses[width, batch], params[width] = _cell(width, batch)
            best = losses[width, batch][:, :, -1].mean(axis=1)
            print(f"width {width} B {batch}: best lr {RATES[np.argmin(best)]:.3g} loss {best.min():.3f}", flush=True)
    return read(losses, params)


def read(losses: dict[tuple[int, int], np.ndarray], params: dict[int, int]) -> dict[str, Any]:
    """What every rule and law makes of losses (rates, seeds, judgements) by width and batch."""
    observed = observations(losses, params)
    return {
        "widths": WIDTHS, "rates": RATES.tolist(), "seeds": len(SEEDS), "passes": READ, "params": list(params.values()),
        "losses": [{"width": w, "batch": b, "loss": np.round(table, 5).tolist()} for (w, b), table in losses.items()],
        "critical": critical(observed, losses), "table": table(observed, losses, params),
    }  # fmt: skip


def _cell(width: int, batch: int) -> tuple[np.ndarray, int]:
    """Held-out losses (rates, seeds, judgements) and the parameters of a width; infinite once a run has diverged."""
    tokens = PASSES * CentredDigits().shape().train_tokens
    rung = wt.Rung(width=width, depth=DEPTH, tokens=tokens, batch=batch)
    whole = recipe(optimizer("adam"), parametrization=MuP())
    found = runs(whole, rung, [(r, s) for r in RATES for s in SEEDS], EVERY, rung.but(width=WIDTH))
    rows = np.full((len(found), EVERY), np.inf)
    for row, run in zip(rows, found, strict=True):
        row[: len(run.curve["judged_loss"])] = run.curve["judged_loss"]
    return rows.reshape(len(RATES), len(SEEDS), EVERY), found[0].size.params


def observations(losses: dict[tuple[int, int], np.ndarray], params: dict[int, int]) -> Observations:
    """Every finite loss at the passes read, as a run of that length."""
    each = CentredDigits().shape().train_tokens
    rows = [
        (table[i, j, passes * EVERY // PASSES - 1], params[width], passes * each, batch, rate, seed)
        for (width, batch), table in losses.items()
        for passes in READ
        for i, rate in enumerate(RATES)
        for j, seed in enumerate(SEEDS)
    ]
    loss, size, tokens, batch, rate, seed = (np.array(column) for column in zip(*rows, strict=True))
    keep = np.isfinite(loss)
    return Observations(
        loss=loss[keep], params=size[keep], tokens=tokens[keep], flops=6.0 * size[keep] * tokens[keep],
        batch_tokens=batch[keep], lr=rate[keep], seed=seed[keep].astype(str),
    )  # fmt: skip


def tuned(observed: Observations) -> Observations:
    """The cells of the ladder at their best rate: the least mean over seeds."""
    columns = np.stack([np.asarray(c) for c in (observed.params, observed.tokens, observed.batch_tokens)], axis=1)
    lr = np.asarray(observed.lr)
    rows = []
    for cell in np.unique(columns, axis=0):
        inside = (columns == cell).all(axis=1)
        means = [observed.loss[inside & (lr == rate)].mean() for rate in np.unique(lr[inside])]
        rows.append((*cell, min(means)))
    size, tokens, batch, loss = np.array(rows).T
    return Observations(loss=loss, params=size, tokens=tokens, flops=6 * size * tokens, batch_tokens=batch)


def critical(observed: Observations, losses: dict[tuple[int, int], np.ndarray]) -> dict[str, Any]:
    """The critical batch in examples: by the law fitted to the ladder, by steps to one loss, by the surface."""
    found: dict[str, Any] = {}
    cells = tuned(observed)
    tokens, batches = (PIXELS * np.asarray(column) for column in (cells.tokens, cells.batch_tokens))
    for law in (CriticalBatch(), CriticalBatch(interacting=True)):
        fit = fit_law(law, replace(cells, tokens=tokens, batch_tokens=batches), draws=DRAWS, seed=0)
        drawn = fit.draws[:, law.names.index("critical")] / PIXELS
        low, high = (float(each) for each in np.quantile(drawn, [0.05, 0.95]))
        value = fit.parameters()["critical"] / PIXELS
        found[law.name] = {"value": value, "low": low, "high": high, "spread": fit.spread, "cells": len(cells)}
    for width in WIDTHS:
        target, steps = steps_to(losses, width)
        each = wt.curvature.steps_to_target(BATCHES, steps)
        found[f"steps to loss, width {width}"] = {
            "target": target, "value": each.critical, "low": each.low, "high": plain(each.high),
            "misfit": each.misfit, "steps": np.round(steps, 2).tolist(),
        }  # fmt: skip
    return found


def steps_to(losses: dict[tuple[int, int], np.ndarray], width: int) -> tuple[float, np.ndarray]:
    """The loss that the largest batch ends at (worst seed, best rate), and the steps (batches, seeds) to it."""
    last = losses[width, BATCHES[-1]][:, :, -1]
    target = float(last[np.argmin(last.mean(axis=1))].max())
    each = CentredDigits().shape().train_tokens
    steps = np.full((len(BATCHES), len(SEEDS)), np.nan)
    for row, batch in enumerate(BATCHES):
        total = int(np.ceil(PASSES * each / batch))
        at = np.ceil(total * (np.arange(EVERY) + 1) / EVERY)
        for seed in range(len(SEEDS)):
            steps[row, seed] = np.nanmin([_crossing(at, curve, target) for curve in losses[width, batch][:, seed]])
    return target, steps


def _crossing(at: np.ndarray, curve: np.ndarray, target: float) -> float:
    """The step at which a curve first reaches the target, between judgements by straight lines; NaN if never."""
    there = np.flatnonzero(curve <= target)
    if not len(there):
        return np.nan
    at, curve = np.append(0, at), np.append(np.log(10), curve)
    i = there[0] + 1
    share = (curve[i - 1] - target) / max(curve[i - 1] - curve[i], 1e-12)
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def table(observed: Observations, losses: dict[tuple[int, int], np.ndarray], params: dict[int, int]) -> dict[str, Any]:
    """At the widest rung and the longest run: the best rate of every batch, and what every rule's rate costs."""
    longest = np.flatnonzero(np.asarray(observed.tokens) == np.max(np.asarray(observed.tokens)))
    surfaces = {"surface": wt.fit_surface(observed), "surface of the longest": wt.fit_surface(observed.where(longest))}
    tokens = READ[-1] * CentredDigits().shape().train_tokens
    means = {batch: np.log(losses[WIDTHS[-1], batch][:, :, -1].mean(axis=1)) for batch in BATCHES}
    bests = {batch: _bottom(means[batch]) for batch in BATCHES}
    fine, place = np.geomspace(RATES[0], RATES[-1], 401), _Place(params[WIDTHS[-1]], tokens)
    foretold = {name: {b: _at(surface, b, fine, place) for b in BATCHES} for name, surface in surfaces.items()}
    first = bests[BATCHES[0]][0]
    carried = {
        "unchanged": lambda b: first,
        "linear": lambda b: first * carry.linear(b / BATCHES[0], 1.0).lr,
        "square_root": lambda b: first * carry.square_root(b / BATCHES[0], 1.0).lr,
    } | {name: rates.__getitem__ for name, rates in foretold.items()}
    rows = [
        {"batch": b, "best_rate": bests[b][0], "best_loss": float(np.exp(bests[b][1]))}
        | {name: {"rate": rate(b), "excess": _excess(means[b], rate(b))} for name, rate in carried.items()}
        for b in BATCHES
    ]
    rates = [bests[b][0] for b in BATCHES]
    per_seed = np.array([[_bottom(np.log(column))[0] for column in losses[WIDTHS[-1], b][:, :, -1].T] for b in BATCHES])
    surface = surfaces["surface"]
    best = {each: {name: float(value[0]) for name, value in surfaces[each].best(place).items()} for each in surfaces}
    exponents = [
        {"of": e.hyperparameter, "in": e.size, "value": e.value, "error": e.error} for e in surface.exponents()
    ]
    return {
        "rows": rows, "slope_of_best_rate": slope_of(BATCHES, per_seed).to_json(),
        "bend_of_best_rate": str(wt.curvature.bend(BATCHES, per_seed)), "surface_best": best,
        "surface_exponents": exponents, "surface_noise": surface.noise, "rates_of_rules_from": first,
        "reach": {r.__name__: str(wt.curvature.rule_reach(r, BATCHES, rates))
                  for r in (carry.linear, carry.square_root, carry.unchanged)},
    }  # fmt: skip


def _at(surface: Any, batch: int, fine: np.ndarray, place: _Place) -> float:
    """The surface's best rate at a batch and a size."""
    return float(fine[np.argmin(surface.excess({"lr": fine, "batch_tokens": float(batch)}, place))])


class _Place:
    """A size as the surface reads it."""

    def __init__(self, params: float, tokens: float) -> None:
        self.params, self.tokens = params, tokens


def _bottom(logs: np.ndarray) -> tuple[float, float]:
    """Rate and log loss at the bottom of a parabola through the best grid value and its neighbours."""
    i = int(np.argmin(logs))
    if i in (0, len(logs) - 1) or not np.isfinite(logs[i - 1 : i + 2]).all():
        return float(RATES[i]), float(logs[i])
    left, middle, right = logs[i - 1 : i + 2]
    bend = left - 2 * middle + right
    shift = float(np.clip((left - right) / (2 * bend), -0.5, 0.5)) if bend > 0 else 0.0
    return float(RATES[i] * 2.0**shift), float(middle - (left - right) * shift / 4)


def _excess(logs: np.ndarray, rate: float) -> float | None:
    """Relative loss above the grid's best at a rate, on a smooth curve through the grid; None beyond the grid."""
    if not RATES[0] <= rate <= RATES[-1]:
        return None
    value = PchipInterpolator(np.log(RATES), np.minimum(logs, 10.0))(np.log(rate))
    return float(np.expm1(value - logs.min()))
