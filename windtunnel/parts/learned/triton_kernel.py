"""The learned step on a GPU: sums of squares in one kernel, features and network in another; torch brings Triton.

The same mathematics as network.py, which takes this where tensors are on CUDA; it imports triton, so it is imported
where used. A program has one row of a tensor, so what a row shares is read once, and what goes from gradient to step
stays in registers. A newcomer would let the layers use TF32: a product then has 10 bits, and steps another value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.nn.functional import pad

from windtunnel.parts.learned import native
from windtunnel.parts.learned.features import Features, Layout, Moments, Statistics, statistics, time_features

MOST_HIDDEN, LEAST_HIDDEN = 64, 16  # units; a product of blocks needs 16
BLOCK, SUM_BLOCK = 64, 512  # entries of a row at a time (guess: 64 x 32 hidden values are 16 registers a thread)
SUMS = 32  # room for the sums of 16 or 18 features


def suits(values: Tensor, hidden: int) -> bool:
    """Whether the kernels may be called on these values: plain float32 on CUDA, nothing recorded or batched over."""
    there = values.device.type == "cuda" or bool(os.environ.get("TRITON_INTERPRET"))
    plain = type(values) is Tensor and there and values.dtype == torch.float32
    if not plain or not values.numel() or hidden > MOST_HIDDEN or torch.compiler.is_compiling() or native._watched():
        return False
    return not (torch.is_grad_enabled() and values.requires_grad)


def step(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, moments: Moments,
    layout: Layout, steps: Tensor,
) -> Tensor:  # fmt: skip
    """d x exp(magnitude x m) of every entry, (batch, others, a, b), accumulators having moved."""
    found = statistics(features, moments, layout)
    given = _given(grad, param, moments, found)
    mean = _summed(given, features, layout) / float(max(1, prod(layout.shape)))
    return _moved(given, net, features, magnitude, layout, steps, found, mean)


def dense_sums(
    features: Features, grad: Tensor, param: Tensor, moments: Moments, layout: Layout, found: Statistics
) -> Tensor:
    """As network.py's."""
    return _summed(_given(grad, param, moments, found), features, layout)


def moved_by(
    net: Mapping[str, Tensor], features: Features, magnitude: float, grad: Tensor, param: Tensor, moments: Moments,
    layout: Layout, steps: Tensor, found: Statistics, mean: Tensor,
) -> Tensor:  # fmt: skip
    """As network.py's."""
    return _moved(_given(grad, param, moments, found), net, features, magnitude, layout, steps, found, mean)


def _given(grad: Tensor, param: Tensor, moments: Moments, found: Statistics) -> tuple[Tensor, ...]:
    """What both kernels read: entries, factors and the scale."""
    entries = [t.contiguous() for t in (grad, param, *moments.means, moments.square)]
    one = grad.new_ones(len(grad))
    scale = one if found.scale is None else found.scale.reshape(len(grad)).contiguous()
    factors = [one if t is None else t.contiguous() for t in (found.factors.a, found.factors.b_of_grad)]
    return (*entries, *factors, found.factors.b_of_mean.contiguous(), scale)


def _kind(features: Features, layout: Layout) -> tuple[tuple[Any, ...], dict[str, Any]]:
    others, a, b = layout.shape
    kind: dict[str, Any] = {"CLIPPED": int(features.clipped), "FACTORED": layout.factored}
    return (others * a, a, b, features.second_eps), kind


def _summed(given: tuple[Tensor, ...], features: Features, layout: Layout) -> Tensor:
    sizes, kind = _kind(features, layout)
    rows, batch = sizes[0], len(given[0])
    sums = given[0].new_empty(batch, rows, SUMS)
    _kernels()[0][(rows, batch)](*given, sums, *sizes, **kind, ROOM=SUMS, BLOCK=SUM_BLOCK)
    return sums.double().sum(1).float()[:, : len(features.dense)]


def _moved(
    given: tuple[Tensor, ...], net: Mapping[str, Tensor], features: Features, magnitude: float, layout: Layout,
    steps: Tensor, found: Statistics, mean: Tensor,
) -> Tensor:  # fmt: skip
    sizes, kind = _kind(features, layout)
    rows_in_all, batch = sizes[0], len(given[0])
    dense = net["w0"][:, list(features.dense)] * torch.rsqrt(mean + features.normaliser_eps)[..., None]
    hidden = max(LEAST_HIDDEN, triton.next_power_of_2(net["w1"].shape[-1]))
    rows, along, weights = _shared(net, features, layout, found, steps)
    of_tensors = [_wide(t, hidden) for t in (rows, dense, weights)]
    more = hidden - net["w1"].shape[-1]
    layers = [pad(net["w1"], (0, more, 0, more)), _wide(net["b1"], hidden), _wide(net["w2"].mT, hidden), net["b2"]]
    layers = [t.expand(batch, *t.shape[1:]).contiguous() for t in layers]
    out = torch.empty_like(given[0])
    _kernels()[1][(rows_in_all * triton.cdiv(layout.shape[2], BLOCK), batch)](
        *given, along.contiguous(), *of_tensors, *layers, out, *sizes, magnitude, net["w2"].shape[-1], **kind,
        HIDDEN=hidden, BLOCK=BLOCK,
    )  # fmt: skip
    return out


def _kernels() -> Any:
    """Sums, and steps; without the types of functions, which they are not."""
    return _sums, _steps


def _shared(
    net: Mapping[str, Tensor], features: Features, layout: Layout, found: Statistics, steps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What rows add before the first relu, (batch, others x a, hidden), all biases with them; the columns' features,
    (batch, 6, others, b), and their weights, (batch, 6, hidden)."""
    w0, bias = net["w0"], net["b0"]
    if features.times:
        bias = bias + (time_features(steps, features)[:, None] @ w0[:, -len(features.times) :])[:, 0]
    of_row, of_column = w0[:, list(features.rows)], w0[:, list(features.columns)]
    batch, (others, a, _) = len(found.columns), layout.shape
    rows = bias[:, None].expand(batch, others * a, -1)
    if found.rows is None:
        of_b = of_row + of_column
    else:
        of_a, of_b = (of_row, of_column) if layout.row_is_a else (of_column, of_row)
        rows = rows + found.rows.flatten(2).mT @ of_a
    return rows, found.columns, of_b.expand(batch, *of_b.shape[1:])


def _wide(values: Tensor, hidden: int) -> Tensor:
    return pad(values, (0, hidden - values.shape[-1])).contiguous()


@triton.jit
def _seen(
    grad, param, mean0, mean1, mean2, square, of_a, grad_b, mean_b, scale, n, r, x, rows, a, b, second_eps,
    FACTORED: tl.constexpr,
):  # fmt: skip
    """All dense features of entries x of row r of tensor n, zero past the row's end."""
    inside = x < b
    at, along = (n * rows + r) * b + x, (n * 3 * (rows // a) + r // a) * b + x
    by = tl.load(scale + n)
    g = tl.load(grad + at, inside, 0.0) * by
    p = tl.load(param + at, inside, 0.0)
    m0 = tl.load(mean0 + at, inside, 0.0) * by
    m1 = tl.load(mean1 + at, inside, 0.0) * by
    m2 = tl.load(mean2 + at, inside, 0.0) * by
    v = tl.load(square + at, inside, 0.0) * by * by
    root = tl.where(inside, 1 / tl.sqrt(v + second_eps), 0.0)
    other = (rows // a) * b
    g0 = tl.load(grad_b + along, inside, 0.0)
    g1 = tl.load(grad_b + along + other, inside, 0.0)
    g2 = tl.load(grad_b + along + 2 * other, inside, 0.0)
    f0 = tl.load(mean_b + along, inside, 0.0)
    f1 = tl.load(mean_b + along + other, inside, 0.0)
    f2 = tl.load(mean_b + along + 2 * other, inside, 0.0)
    if FACTORED:
        a0 = tl.load(of_a + n * 3 * rows + r)
        a1 = tl.load(of_a + n * 3 * rows + rows + r)
        a2 = tl.load(of_a + n * 3 * rows + 2 * rows + r)
        g0, g1, g2, f0, f1, f2 = g0 * a0, g1 * a1, g2 * a2, f0 * a0, f1 * a1, f2 * a2
    held = tl.minimum(tl.maximum(g, -0.1), 0.1)
    return (
        g,
        held,
        p,
        m0,
        m1,
        m2,
        v,
        m0 * root,
        m1 * root,
        m2 * root,
        root,
        g * g0,
        g * g1,
        g * g2,
        g * root,
        m0 * f0,
        m1 * f1,
        m2 * f2,
    )


@triton.jit
def _add(sums, places, k, f):
    return sums + tl.where(places == k, tl.sum(f * f, 0), 0.0)


@triton.jit
def _sums(
    grad, param, mean0, mean1, mean2, square, of_a, grad_b, mean_b, scale, out, rows, a, b, second_eps,
    CLIPPED: tl.constexpr, FACTORED: tl.constexpr, ROOM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A row's sums of the squares of its dense features."""
    r, n = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    places = tl.arange(0, ROOM)
    sums = tl.zeros([ROOM], tl.float32)
    for start in range(0, b, BLOCK):
        x = start + tl.arange(0, BLOCK)
        g, held, p, m0, m1, m2, v, r0, r1, r2, root, g0, g1, g2, gr, f0, f1, f2 = _seen(
            grad, param, mean0, mean1, mean2, square, of_a, grad_b, mean_b, scale, n, r, x, rows, a, b, second_eps,
            FACTORED,
        )  # fmt: skip
        sums = _add(sums, places, 0, g)
        if CLIPPED:
            sums = _add(sums, places, 1, held)
        sums = _add(sums, places, 1 + CLIPPED, p)
        sums = _add(_add(_add(sums, places, 2 + CLIPPED, m0), places, 3 + CLIPPED, m1), places, 4 + CLIPPED, m2)
        sums = _add(sums, places, 5 + CLIPPED, v)
        sums = _add(_add(_add(sums, places, 6 + CLIPPED, r0), places, 7 + CLIPPED, r1), places, 8 + CLIPPED, r2)
        sums = _add(sums, places, 9 + CLIPPED, root)
        sums = _add(_add(_add(sums, places, 10 + CLIPPED, g0), places, 11 + CLIPPED, g1), places, 12 + CLIPPED, g2)
        if CLIPPED:
            sums = _add(sums, places, 13 + CLIPPED, gr)
        last: tl.constexpr = 13 + 2 * CLIPPED
        sums = _add(_add(_add(sums, places, last, f0), places, last + 1, f1), places, last + 2, f2)
    tl.store(out + (n * rows + r) * ROOM + places, sums)


@triton.jit
def _through(hidden, f, weights, k, j, HIDDEN: tl.constexpr):
    return hidden + f[:, None] * tl.load(weights + k * HIDDEN + j)[None, :]


@triton.jit
def _steps(
    grad, param, mean0, mean1, mean2, square, of_a, grad_b, mean_b, scale, along, row, dense, columns, w1, b1, w2, b2,
    out, rows, a, b, second_eps, magnitude, said,
    CLIPPED: tl.constexpr, FACTORED: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Features, the first layer one feature at a time, the second as a product of blocks, the third as two sums."""
    blocks = tl.cdiv(b, BLOCK)  # a grid's first axis alone may be long
    r, n = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1).to(tl.int64)
    x, j = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, HIDDEN)
    g, held, p, m0, m1, m2, v, r0, r1, r2, root, g0, g1, g2, gr, f0, f1, f2 = _seen(
        grad, param, mean0, mean1, mean2, square, of_a, grad_b, mean_b, scale, n, r, x, rows, a, b, second_eps,
        FACTORED,
    )  # fmt: skip
    w = dense + n * (16 + 2 * CLIPPED) * HIDDEN
    first = tl.zeros([BLOCK, HIDDEN], tl.float32) + tl.load(row + (n * rows + r) * HIDDEN + j)[None, :]
    first = _through(first, g, w, 0, j, HIDDEN)
    if CLIPPED:
        first = _through(first, held, w, 1, j, HIDDEN)
    first = _through(first, p, w, 1 + CLIPPED, j, HIDDEN)
    first = _through(first, m0, w, 2 + CLIPPED, j, HIDDEN)
    first = _through(first, m1, w, 3 + CLIPPED, j, HIDDEN)
    first = _through(first, m2, w, 4 + CLIPPED, j, HIDDEN)
    first = _through(first, v, w, 5 + CLIPPED, j, HIDDEN)
    first = _through(first, r0, w, 6 + CLIPPED, j, HIDDEN)
    first = _through(first, r1, w, 7 + CLIPPED, j, HIDDEN)
    first = _through(first, r2, w, 8 + CLIPPED, j, HIDDEN)
    first = _through(first, root, w, 9 + CLIPPED, j, HIDDEN)
    first = _through(first, g0, w, 10 + CLIPPED, j, HIDDEN)
    first = _through(first, g1, w, 11 + CLIPPED, j, HIDDEN)
    first = _through(first, g2, w, 12 + CLIPPED, j, HIDDEN)
    if CLIPPED:
        first = _through(first, gr, w, 13 + CLIPPED, j, HIDDEN)
    first = _through(first, f0, w, 13 + 2 * CLIPPED, j, HIDDEN)
    first = _through(first, f1, w, 14 + 2 * CLIPPED, j, HIDDEN)
    first = _through(first, f2, w, 15 + 2 * CLIPPED, j, HIDDEN)
    others = rows // a
    for k in tl.static_range(6):
        f = tl.load(along + ((n * 6 + k) * others + r // a) * b + x, x < b, 0.0)
        first = _through(first, f, columns + n * 6 * HIDDEN, k, j, HIDDEN)
    first = tl.maximum(first, 0.0)
    weights = tl.load(w1 + n * HIDDEN * HIDDEN + j[:, None] * HIDDEN + j[None, :])
    second = tl.dot(first, weights, input_precision="ieee") + tl.load(b1 + n * HIDDEN + j)[None, :]
    second = tl.maximum(second, 0.0)
    last = w2 + n * said * HIDDEN + j
    d = tl.sum(second * tl.load(last)[None, :], 1) + tl.load(b2 + n * said)
    m = tl.sum(second * tl.load(last + HIDDEN)[None, :], 1) + tl.load(b2 + n * said + 1)
    tl.store(out + (n * rows + r) * b + x, d * tl.exp(magnitude * m), x < b)
