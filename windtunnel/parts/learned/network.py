"""The little network that turns an entry's features into its step: in blocks of rows, the normaliser folded in.

Weights are (batch, inputs, outputs): one network for a batch of tensors (batch 1), or each its own, as where they are
trained. A newcomer would run it on a table of (entries, features); features come first here, so that a feature is one
stretch of memory and each layer one product of a small matrix with a long one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from windtunnel.parts.learned import native
from windtunnel.parts.learned.features import (
    Block,
    Features,
    Layout,
    Moments,
    Statistics,
    advanced,
    block_of,
    dense_features,
    first_moments,
    layout_of,
    mapped,
    statistics,
    sums_of_squares,
    time_features,
)

# Entries of a block: its features and hidden values stay in a core's own cache (measured: 4096 to 16384 are alike).
BLOCK = 8192
AGREE = 1e-4  # relative: what the order of sums explains (kernels agree to 1e-6 in the interpreter, measured)
_TRUSTED: dict[Any, bool] = {}  # features and hidden units -> whether the GPU's kernels were found to agree


def moved(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, moments: Moments,
    decays: Tensor, layout: Layout, steps: Tensor, more: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Moments]:  # fmt: skip
    """d x exp(magnitude x m) of every entry, (batch, others, a, b), and the accumulators after this gradient.

    `net` has w0 (inputs in the published order, hidden), b0, w1, b1, w2, b2, and `decays` momenta, second moment and
    factored ones in a row of 7; each with a leading axis of 1 or the batch. `steps` (batch,) came before. `more` are
    the further features, each like `grad`; the caller makes them free of scale where the others are.
    """
    plain = not more and param.dtype == grad.dtype and net["w2"].shape[-1] >= 2
    if plain and native.suits(grad, net["w1"].shape[-1]):
        return _native(net, features, magnitude, grad, param, moments, decays, layout, steps)
    moments = advanced(decays, grad, moments, layout)
    gpu = _on_gpu(grad)
    if plain and gpu is not None and gpu.suits(grad, net["w1"].shape[-1]):
        return _checked(gpu, net, features, magnitude, grad, param, moments, layout, steps), moments
    return _as_written(net, features, magnitude, grad, param, moments, layout, steps, more), moments


def _as_written(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, moments: Moments,
    layout: Layout, steps: Tensor, more: tuple[Tensor, ...] = (),
) -> Tensor:  # fmt: skip
    found = statistics(features, moments, layout)
    mean = dense_sums(features, grad, param, moments, layout, found, more) / float(max(1, prod(layout.shape)))
    return moved_by(net, features, magnitude, grad, param, moments, layout, steps, found, mean, more)


def _checked(gpu: Any, *given: Any) -> Tensor:
    """The GPU's kernels, beside torch the first time that a network of this size is used; torch for good where they
    fail or differ, with a warning."""
    net, features = given[:2]
    kind = (features, net["w1"].shape[-1])
    if kind in _TRUSTED:
        return gpu.step(*given) if _TRUSTED[kind] else _as_written(*given)
    wanted = _as_written(*given)
    try:
        found = gpu.step(*given)
        apart = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        why = "" if apart <= AGREE else f"they differ from torch by {apart:.1e}"
    except Exception as error:  # a compiler or a driver that cannot: a reason, not a failure
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    _TRUSTED[kind] = not why
    if why:
        warnings.warn(f"The learned optimizer's GPU kernels are not used ({why}); torch is.", stacklevel=2)
    return wanted


def _on_gpu(values: Tensor) -> Any:
    """The kernels for a GPU where the values are on one (or are made to run interpreted), and triton is there."""
    return _triton() if values.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") else None


@cache
def _triton() -> Any:
    try:
        from windtunnel.parts.learned import triton_kernel
    except ImportError:
        return None
    return triton_kernel


def _native(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, moments: Moments,
    decays: Tensor, layout: Layout, steps: Tensor,
) -> tuple[Tensor, Moments]:  # fmt: skip
    old = mapped(Tensor.contiguous, moments)
    now = mapped(lambda t: torch.empty_like(t), old)
    ones, at = torch.ones(len(grad)), steps.float().contiguous()
    wide = native.padded(net)
    found = native.step(wide, features, magnitude, grad, param, old, now, layout, decays.float().contiguous(), at, ones)
    return found, now


def in_parts(net: Mapping[str, Tensor], features: Features, grad: Tensor, param: Tensor) -> tuple[Any, Any]:
    """Who sums and who moves where processes share a tensor: `dense_sums` and `moved_by`, or the GPU's kernels.

    Kernels of a size that was not used yet are first tried beside torch on a small tensor.
    """
    gpu, hidden = _on_gpu(grad), net["w1"].shape[-1]
    plain = param.dtype == grad.dtype and net["w2"].shape[-1] >= 2
    if gpu is None or not plain or not gpu.suits(grad, hidden):
        return dense_sums, moved_by
    if (features, hidden) not in _TRUSTED:
        layout = layout_of((4, 5))
        small = torch.linspace(-1, 1, 20, dtype=grad.dtype, device=grad.device).view(1, *layout.shape)
        moments = advanced(small.new_full((1, 7), 0.5), small, first_moments(small, layout), layout)
        _checked(gpu, net, features, 0.001, small, small, moments, layout, small.new_ones(1))
    return (gpu.dense_sums, gpu.moved_by) if _TRUSTED[features, hidden] else (dense_sums, moved_by)


def dense_sums(
    features: Features, grad: Tensor, param: Tensor, moments: Moments, layout: Layout, found: Statistics,
    more: tuple[Tensor, ...] = (),
) -> Tensor:  # fmt: skip
    """(batch, dense): the sums of the squares of the dense features."""
    blocks = (block_of(grad, param, moments, found, rows, more) for rows in _rows(layout))
    return torch.stack([sums_of_squares(block, features) for block in blocks]).sum(0)


def moved_by(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, moments: Moments,
    layout: Layout, steps: Tensor, found: Statistics, mean: Tensor, more: tuple[Tensor, ...] = (),
) -> Tensor:  # fmt: skip
    """d x exp(magnitude x m) of every entry, accumulators having moved.

    `found` are the statistics of the whole tensor and `mean`, (batch, dense), the dense features' mean squares, which
    go into the first layer's weights.
    """
    shared = _shared(net, features, layout, found, steps)
    dense = net["w0"][:, list(features.dense)] * torch.rsqrt(mean + features.normaliser_eps)[..., None]
    parts = []
    for rows in _rows(layout):
        said = _block(net, features, dense, shared, block_of(grad, param, moments, found, rows, more), rows)
        parts.append(said[:, 0] * torch.exp(magnitude * said[:, 1]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def _rows(layout: Layout) -> Iterator[slice]:
    others, a, b = layout.shape
    step = max(1, BLOCK // max(1, others * b))
    return (slice(start, min(start + step, a)) for start in range(0, max(a, 1), step))


@dataclass(frozen=True)
class _Shared:
    """What entries share of the first layer: all (batch, hidden), rows and columns (batch, hidden, others, side)."""

    bias: Tensor
    row: Tensor | None
    column: Tensor


def _shared(net: Mapping[str, Tensor], features: Features, layout: Layout, found: Statistics, steps: Tensor) -> _Shared:
    w0, bias = net["w0"], net["b0"]
    if features.times:
        bias = (
            bias
            + (
                time_features(steps, features)[:, None]
                @ w0[:, features.published : features.published + len(features.times)]
            )[:, 0]
        )
    of_row, of_column = w0[:, list(features.rows)], w0[:, list(features.columns)]
    if not layout.factored:
        return _Shared(bias, None, _mixed(of_row + of_column, found.columns))
    of_a, of_b = (of_row, of_column) if layout.row_is_a else (of_column, of_row)
    assert found.rows is not None
    return _Shared(bias, _mixed(of_a, found.rows), _mixed(of_b, found.columns))


def _mixed(weights: Tensor, shared: Tensor) -> Tensor:
    """(batch, 6, hidden) and (batch, 6, others, side) to (batch, hidden, others, side)."""
    return (weights.mT @ shared.flatten(2)).unflatten(2, shared.shape[2:])


def _block(
    net: Mapping[str, Tensor], features: Features, dense: Tensor, shared: _Shared, block: Block, rows: slice
) -> Tensor:
    stacked = torch.stack(dense_features(block, features), dim=1)
    shape = stacked.shape[2:]
    hidden = _layer(dense, shared.bias, stacked.flatten(2)).unflatten(2, shape) + shared.column.unsqueeze(-2)
    if shared.row is not None:
        hidden = hidden + shared.row[..., rows, None]
    hidden = torch.relu(hidden).flatten(2)
    hidden = torch.relu(_layer(net["w1"], net["b1"], hidden))
    return _layer(net["w2"], net["b2"], hidden).unflatten(2, shape)


def _layer(weights: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """(batch or 1, inputs, outputs), (batch or 1, outputs), (batch, inputs, entries)."""
    return weights.mT @ values + bias[..., None]
