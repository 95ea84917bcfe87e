"""What an idea's gap is worth in compute: the base's pace, the compute multiplier, and where the gap crosses zero.

What a newcomer would get wrong: a constant compute multiplier is not a constant gap. As the base nears its floor the
same multiple of compute buys less loss, which is why the difference law is told the base's pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from windtunnel.forecasts.fit import Fit
from windtunnel.forecasts.frame import Pace, axis_of
from windtunnel.forecasts.gap import GapLaw
from windtunnel.forecasts.interval import Interval, Mixture
from windtunnel.laws.fitting import LawFit
from windtunnel.laws.law import Sizes

MOST = 1000.0  # compute multipliers and crossings are reported within 1/1000x and 1000x
_SAMPLES = 400
_STEPS = 49  # sizes at which a curve is looked at for its crossing of zero


def pace_of(laws: Sequence[LawFit], weights: Sequence[float]) -> Pace:
    """How fast the base's log loss falls with log compute, by its laws' draws: what turns a multiplier into a gap."""

    def pace(sizes: Sizes) -> np.ndarray:
        total = np.zeros(len(getattr(sizes, axis_of(sizes))))
        for each, weight in zip(laws, weights, strict=True):
            down, up = (_along(sizes, np.array([step]), _pace_axis(each.law)) for step in (-0.05, 0.05))
            total += weight * np.mean(np.log(each.law(each.draws, down) / each.law(each.draws, up)), axis=0) / 0.1
        return np.maximum(total, 1e-6)

    return pace


def _pace_axis(law: Any) -> str:
    """What grows with compute: both sizes, or a one-column law's own."""
    return law.columns[0] if len(law.columns) == 1 else "flops"


def crossing(law: GapLaw, seen: Sizes, at: Sizes, level: float, seed: int) -> Interval | None:
    """The size at which curves of the gap, drawn whole, first leave the sign that they have at the smallest rung.

    `seen` are the pairs' sizes; the way leads through `at`, with its tokens per parameter. None where the ladder shows
    no sure sign, or where a crossing within 1000x of the top rung's compute is less likely than not.
    """
    if 0.5 - level / 2 < float(law.on_ladder().cdf(0.0)) < 0.5 + level / 2:
        return None
    axis = axis_of(at)
    sizes, here = getattr(seen, axis), float(getattr(at, axis)[0])
    most = float(sizes.max()) * (MOST if axis == "flops" else np.sqrt(MOST))
    steps = np.geomspace(float(sizes.min()), most, _STEPS)
    curves = law.draws(_along(at, np.log(steps / here), axis), _SAMPLES, seed)
    first = _first_change(curves, np.log(steps))
    low, median, high = np.quantile(first, [0.5 - level / 2, 0.5, 0.5 + level / 2], method="nearest")
    return Interval(float(median), float(low), float(min(high, most)), level) if np.isfinite(median) else None


def _first_change(curves: np.ndarray, x: np.ndarray) -> np.ndarray:
    """exp of the x at which each curve first changes its sign, by a straight line between steps; inf for never."""
    changed = np.sign(curves) != np.sign(curves[:, :1])
    after = np.maximum(changed.argmax(axis=1), 1)
    rows = np.arange(len(curves))
    left, right = curves[rows, after - 1], curves[rows, after]
    share = left / np.where(changed.any(axis=1), left - right, 1.0)
    return np.where(changed.any(axis=1), np.exp(x[after - 1] + share * (x[after] - x[after - 1])), np.inf)


def multiplier(base: Fit, at: Sizes, gap: Mixture, level: float, seed: int) -> Interval:
    """Base compute, as a multiple of the target's, at which the base reaches the idea's loss."""
    generator = np.random.default_rng(seed)
    gaps = generator.permutation(gap.samples(_SAMPLES))
    counts = np.round(np.asarray(base.weights) * _SAMPLES).astype(int)
    found, start = [], 0
    for law, count in zip(base.laws, counts, strict=True):
        theta = law.draws[np.arange(count) % len(law.draws)]
        found.append(_reached(law.law, theta, at, gaps[start : start + count]))
        start += count
    low, median, high = np.exp(np.quantile(np.concatenate(found), [0.5 - level / 2, 0.5, 0.5 + level / 2]))
    return Interval(float(median), float(low), float(high), level)


def _reached(law: Any, theta: np.ndarray, sizes: Sizes, gaps: np.ndarray) -> np.ndarray:
    """Log multiple of compute at which each draw's log loss has changed by its gap; the loss falls with compute."""
    theta = theta[: len(gaps)]
    multiples = np.linspace(-np.log(MOST), np.log(MOST), 281)  # every 5 % of compute, straight lines between
    losses = np.log(law(theta, _along(sizes, multiples, _pace_axis(law))))
    falling = np.minimum.accumulate(losses - np.log(law(theta, sizes)), axis=1)
    pairs = zip(gaps[: len(theta)], falling, strict=True)
    return np.array([np.interp(-gap, -curve, multiples) for gap, curve in pairs])


def _along(at: Sizes, logs: np.ndarray, axis: str) -> Sizes:
    """Sizes on the way through one: FLOPs grow as params x tokens in equal shares, else the axis alone sets the pace.

    Every column grows with params, except FLOPs as their square; a law of one column reads only that one.
    """
    share = 0.5 if axis == "flops" else 1.0
    powers = {"flops": 2 * share, "params": share, "active_params": share, "tokens": share, "steps": share}
    powers |= {"unique_tokens": share, "width": 0.5 * share}
    known = {name: getattr(at, name, None) for name in powers}
    grown = {n: v * np.exp(powers[n] * logs) for n, v in known.items() if v is not None}
    fixed = {f.name: np.repeat(v, len(logs)) for f in fields(Sizes)
             if f.name not in powers and (v := getattr(at, f.name)) is not None}  # fmt: skip
    return Sizes(**grown, **fixed)
