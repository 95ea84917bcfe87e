"""The largest stable learning rate against the batch size, foretold from eigenvalues of mini-batches.

A mini-batch's Hessian is the whole one plus sampling noise, so its largest eigenvalue is larger, by an amount that
falls with the batch: lambda(B) = full + noise / B^power (Granziol, Zohren, Roberts 2006.09092; its abstract was read).
The rate it allows grows with B until noise / B^power falls below `full`: the plateau. A newcomer would draw the linear
rule through all batches; it holds below the plateau alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from windtunnel.curvature.products import Operator
from windtunnel.curvature.spectrum import top_eigenvalue
from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.scaling.slopes import LEVEL, Slope, slope_of

RESAMPLES = 400


def largest_stable_rate(eigenvalue: float, *, momentum: float = 0.0, averaged: bool = False) -> float:
    """The learning rate beyond which steps along an eigenvector grow: 2 (1 + momentum) / eigenvalue.

    `averaged` is for a momentum that averages, mean = beta mean + (1 - beta) grad, as Adam's: 1 / (1 - beta) times as
    much; give it the eigenvalue of the preconditioned curvature. For a quadratic it is exact, and for a network's loss
    the place where it stops falling smoothly: cross-entropy often survives several times as much (2003.02218). Source:
    Cohen et al. 2103.00065, 2207.14484. Infinite where the eigenvalue is not positive.
    """
    if not 0 <= momentum < 1:
        raise InputError(f"momentum is {momentum:g}; it must lie from 0 to below 1.")
    if eigenvalue <= 0:
        return float("inf")
    return 2 * (1 + momentum) / (eigenvalue * (1 - momentum if averaged else 1))


@dataclass(frozen=True)
class Inflation:
    """lambda(B) = full + noise / B^power, B in examples, with intervals of `level` by resampling draws.

    `plateau` is the batch at which both terms are equal: below it the stable rate grows as B^power, above it no more.
    It is 0 where no noise was seen and infinite where only noise was.
    """

    full: float
    noise: float
    power: float
    plateau: float
    plateau_low: float
    plateau_high: float
    misfit: float
    level: float = LEVEL

    def __call__(self, batch: Any) -> Any:
        """The eigenvalue foretold at batches, in examples."""
        return self.full + self.noise / np.asarray(batch, float) ** self.power

    def slope(self, batch: Any) -> Any:
        """d log(stable rate) / d log(batch), from `power` far below the plateau to 0 far above it."""
        return self.power * self.noise / np.asarray(batch, float) ** self.power / self(batch)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        between = f"[{self.plateau_low:.3g}, {self.plateau_high:.3g}]"
        return (
            f"{self.full:.4g} + {self.noise:.4g} / B^{self.power:g}; plateau at B = {self.plateau:.3g} {between}, "
            f"root mean square misfit {100 * self.misfit:.0f} %"
        )


@dataclass(frozen=True, eq=False)
class BatchCurve:
    """The largest eigenvalue of mini-batches: `values` (batches, draws); `unconverged` counts those that did not."""

    batches: tuple[int, ...]
    values: np.ndarray
    unconverged: int = 0

    @property
    def mean(self) -> np.ndarray:
        """Mean over draws at each batch size."""
        return self.values.mean(axis=1)

    @property
    def slope(self) -> Slope:
        """Log-log slope of the stable rate (one over the eigenvalue) over all batches, with its interval."""
        return slope_of(self.batches, 1 / self.values)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"batches": list(self.batches), "values": self.values.tolist(), "unconverged": self.unconverged}


def eigenvalue_curve(
    operator_of: Callable[[Any], Operator],
    draw: Callable[[int, int], Any],
    batches: Sequence[int],
    *,
    draws: int = 8,
    seed: int = 0,
    tolerance: float = 0.02,
    products: int = 60,
) -> BatchCurve:
    """Measure the largest eigenvalue of `draws` mini-batches at each size in `batches`.

    `draw(size, number)` gives a mini-batch, another for every number; `operator_of(batch)` its curvature, as in
    `lambda batch: hessian(model, loss, [batch])`, preconditioned or not.
    """
    rows, unconverged = [], 0
    for size in batches:
        found = [
            top_eigenvalue(
                operator_of(draw(size, number)), generator=torch.Generator().manual_seed(seed + number),
                tolerance=tolerance, products=products,
            )
            for number in range(draws)
        ]  # fmt: skip
        rows.append([each.value for each in found])
        unconverged += sum(not each.converged for each in found)
    return BatchCurve(tuple(batches), np.array(rows), unconverged)


def inflation(batches: Sequence[int], values: Any, *, power: float = 1.0, seed: int = 0) -> Inflation:
    """Fit lambda(B) = full + noise / B^power to `values` (batches,) or (batches, draws), in relative error.

    Also fits a measured stable rate, as values = 2 / rate: then `plateau` is where the measured rate stops growing.
    Columns are resampled for the interval; one column has none. Raises InputError for fewer than three batches or
    values that are not positive.
    """
    table = np.asarray(values, float).reshape(len(batches), -1)
    if len(set(batches)) < 3 or not np.all(np.isfinite(table) & (table > 0)):
        raise InputError(
            f"{len(set(batches))} batch sizes with values from {np.min(table):g} to {np.max(table):g}; the fit of two "
            f"terms needs three batch sizes or more, and positive finite values."
        )
    sizes = np.asarray(batches, float)
    full, noise, misfit = _fit(sizes, table.mean(axis=1), power)
    rng = np.random.default_rng(seed)
    drawn = [_plateau(*_fit(sizes, table[:, rng.integers(table.shape[1], size=table.shape[1])].mean(axis=1), power)[:2],
                      power) for _ in range(RESAMPLES if table.shape[1] > 1 else 0)]  # fmt: skip
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest") if drawn else (0.0, np.inf)
    return Inflation(full, noise, power, _plateau(full, noise, power), float(low), float(high), misfit)


@dataclass(frozen=True)
class Bend:
    """rate = top x min(B / plateau, 1)^slope: a straight line in logarithms that stops at `plateau`, B in examples.

    Each with an interval of `level` by resampling seeds. `plateau` equal to the largest batch means that no end was
    seen; to the smallest, that no rise was, and `slope` is then NaN.
    """

    slope: float
    slope_low: float
    slope_high: float
    plateau: float
    plateau_low: float
    plateau_high: float
    top: float
    misfit: float
    level: float = LEVEL

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return (
            f"slope {self.slope:.2f} [{self.slope_low:.2f}, {self.slope_high:.2f}] up to B = {self.plateau:.3g} "
            f"[{self.plateau_low:.3g}, {self.plateau_high:.3g}], then {self.top:.3g}"
        )


def bend(batches: Sequence[int], rates: Any, *, seed: int = 0) -> Bend:
    """Fit a rise and a plateau to positive `rates` (batches,) or (batches, seeds), by least squares of logarithms.

    What "slope up to the plateau" means where the two are not known beforehand. Raises InputError for fewer than four
    batch sizes or rates that are not positive.
    """
    table = np.asarray(rates, float).reshape(len(batches), -1)
    if len(set(batches)) < 4 or not np.all(np.isfinite(table) & (table > 0)):
        raise InputError(
            f"{len(set(batches))} batch sizes with rates from {np.min(table):g} to {np.max(table):g}; a rise and a "
            f"plateau need four batch sizes or more, and positive finite rates."
        )
    x, logs = np.log(np.asarray(batches, float)), np.log(table)
    rng, count = np.random.default_rng(seed), table.shape[1]
    found = _bent(x, logs.mean(axis=1))
    drawn = [
        _bent(x, logs[:, rng.integers(count, size=count)].mean(axis=1)) for _ in range(RESAMPLES if count > 1 else 0)
    ]
    slopes, ends = (np.array([each[i] for each in drawn or [found]]) for i in range(2))
    half = (1 - LEVEL) / 2
    between = [np.nanquantile(each, [half, 1 - half]) if np.isfinite(each).any() else (np.nan,) * 2
               for each in (slopes, ends)]  # fmt: skip
    return Bend(
        slope=found[0], slope_low=float(between[0][0]), slope_high=float(between[0][1]),
        plateau=float(np.exp(found[1])), plateau_low=float(np.exp(between[1][0])),
        plateau_high=float(np.exp(between[1][1])), top=float(np.exp(found[2])), misfit=float(np.expm1(found[3])),
    )  # fmt: skip


def _bent(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """Slope, log plateau, log top, root mean square misfit of the best broken line, by a scan over the plateau."""
    if np.ptp(y) == 0:
        return np.nan, float(x[0]), float(y[0]), 0.0
    ends = np.linspace(x[0], x[-1], 281)[1:]
    rise = np.minimum(x - ends[:, None], 0.0)  # (ends, batches)
    about = rise - rise.mean(axis=1, keepdims=True)
    slopes = about @ y / (about**2).sum(axis=1)
    tops = y.mean() - slopes * rise.mean(axis=1)
    misfits = np.sqrt(np.mean((slopes[:, None] * rise + tops[:, None] - y) ** 2, axis=1))
    best = int(np.argmin(misfits))
    return float(slopes[best]), float(ends[best]), float(tops[best]), float(misfits[best])


def _fit(sizes: np.ndarray, values: np.ndarray, power: float) -> tuple[float, float, float]:
    columns = np.stack([np.ones_like(sizes), sizes**-power], axis=1) / values[:, None]
    (full, noise), residual = nnls(columns, np.ones_like(values))
    least = 1e-9 * float(values.max())  # nnls leaves rounding where a term is nothing
    full, noise = (0.0 if term * size < least else term for term, size in ((full, 1.0), (noise, sizes[0] ** -power)))
    return float(full), float(noise), float(residual) / len(values) ** 0.5


def _plateau(full: float, noise: float, power: float) -> float:
    return float("inf") if full == 0 else (noise / full) ** (1 / power)
