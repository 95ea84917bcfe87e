"""Gradient noise: how many examples a batch must have before its gradient is more signal than noise.

Two measurements of one quantity. `noise_scale` reads it off gradients at one point of a run; `steps_to_target` off
whole runs, from the steps they took to one loss. A newcomer would divide the two norms of one batch: the squared norm
of a noisy gradient is itself inflated by noise, and the estimate is then always about the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from windtunnel.curvature.products import Loss, gradient
from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.scaling.slopes import LEVEL


@dataclass(frozen=True)
class NoiseScale:
    """`signal` |G|^2 of the true gradient, `noise` tr(covariance) of one example's, `scale` their ratio in examples.

    `low` and `high` bound the scale at LEVEL, by leaving batches out one at a time. Where the signal cannot be told
    from zero the scale is infinite, or its upper end is.
    """

    signal: float
    noise: float
    scale: float
    low: float
    high: float
    batches: int
    examples: int

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"{self.scale:.3g} examples [{self.low:.3g}, {self.high:.3g}], {self.batches} batches of {self.examples}"


def noise_scale(
    model: nn.Module, loss: Loss, batches: Sequence[Any], *, examples: int, diagonal: Tensor | None = None
) -> NoiseScale:
    """The gradient noise scale at the model's weights, from independent `batches` of `examples` examples each.

    `loss(model, batch)` is the mean over a batch's examples. A batch of that many examples has a gradient that is half
    noise. `diagonal` (Adam's sqrt(second moment) + eps) measures gradients as a preconditioned step does. Source:
    McCandlish et al. 1812.06162, appendix A, with all batches together as the large one.
    """
    gradients = torch.stack([gradient(model, loss, batch).double() for batch in batches]) if batches else None
    if gradients is None or len(gradients) < 2 or examples < 1:
        raise InputError(
            f"{len(batches)} batch(es) of {examples} examples; the noise scale compares one batch's gradient with the "
            f"mean of several: give two batches or more."
        )
    if diagonal is not None:
        gradients = gradients * diagonal.double().rsqrt()
    inner = (gradients @ gradients.mT).cpu().numpy()
    return noise_scale_of(inner, examples)


def noise_scale_of(inner: np.ndarray, examples: int) -> NoiseScale:
    """The same from the table of inner products (batches, batches) of batch gradients."""
    count, own, total = len(inner), np.diag(inner), float(inner.sum())
    signal, noise = _signal_and_noise(count, float(own.sum()), total, examples)
    scale = inf if signal <= 0 else max(noise, 0.0) / signal
    left = _signal_and_noise(count - 1, own.sum() - own, total - 2 * inner.sum(axis=0) + own, examples)
    if count < 3 or not 0 < scale < inf or not all(np.all(part > 0) for part in left):
        return NoiseScale(signal, noise, scale, 0.0, inf, count, examples)
    logs = np.log(left[1] / left[0])
    error = np.sqrt((count - 1) * np.mean((logs - logs.mean()) ** 2))  # jackknife
    half = float(special.stdtrit(count - 1, 0.5 + LEVEL / 2) * error)
    low, high = float(scale * np.exp(-half)), float(scale * np.exp(half))
    return NoiseScale(signal, noise, scale, low, high, count, examples)


def _signal_and_noise(count: int, own: Any, total: Any, examples: int) -> tuple[Any, Any]:
    """Unbiased |G|^2 and tr(covariance): products of different batches hold no noise, a batch's own does."""
    crossed = (total - own) / max(count * (count - 1), 1)
    return crossed, examples * (own / count - crossed)


@dataclass(frozen=True)
class StepsToTarget:
    """steps(B) = fewest_steps (1 + critical / B), B in examples, with the interval of `critical` at LEVEL.

    `fewest_examples` = fewest_steps x critical is what an infinitely small batch would need; a batch of `critical`
    takes twice the fewest steps and twice the fewest examples. `misfit` is a factor less one (root mean square).
    """

    fewest_steps: float
    critical: float
    low: float
    high: float
    misfit: float
    runs: int
    missing: int

    @property
    def fewest_examples(self) -> float:
        """Examples that the smallest batches need."""
        return self.fewest_steps * self.critical

    def steps(self, batch: Any) -> Any:
        """Steps foretold at batches."""
        return self.fewest_steps * (1 + self.critical / np.asarray(batch, float))

    _repr_pretty_ = printed

    def __str__(self) -> str:
        return f"critical batch {self.critical:.3g} examples [{self.low:.3g}, {self.high:.3g}], {self.runs} runs"


def steps_to_target(batches: Sequence[float], steps: Any) -> StepsToTarget:
    """Fit the steps that runs took to one loss, (batches,) or (batches, seeds), each at its best learning rate.

    NaN says that a run never got there: it is left out and counted in `missing`. The interval is where the profile of
    the sum of squared log misfits crosses its F bound; it may have no end. Raises InputError for fewer than three
    batch sizes with a run that got there. Source: McCandlish et al. 1812.06162, equation 2.11.
    """
    table = np.asarray(steps, float).reshape(len(batches), -1)
    sizes = np.repeat(np.asarray(batches, float), table.shape[1])
    there = np.isfinite(table.ravel())
    x, y = sizes[there], np.log(table.ravel()[there])
    if len(set(x)) < 3:
        raise InputError(f"Runs of {len(set(x))} batch size(s) reached the target; the fit of two terms needs three.")
    tried = np.geomspace(x.min() / 100, x.max() * 100, 2001)
    shape = np.log1p(tried[:, None] / x)
    heights = (y - shape).mean(axis=1)
    squares = ((y - shape - heights[:, None]) ** 2).sum(axis=1)
    best, freedom = int(np.argmin(squares)), len(x) - 2
    bound = squares[best] * (1 + special.fdtri(1, freedom, LEVEL) / freedom)
    inside = tried[squares <= bound]
    return StepsToTarget(
        fewest_steps=float(np.exp(heights[best])),
        critical=float(tried[best]),
        low=0.0 if inside[0] == tried[0] else float(inside[0]),
        high=inf if inside[-1] == tried[-1] else float(inside[-1]),
        misfit=float(np.expm1(np.sqrt(squares[best] / len(x)))),
        runs=int(there.sum()),
        missing=int((~there).sum()),
    )
