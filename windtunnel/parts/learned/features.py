"""What a learned optimizer sees of an entry: gradient, weight, momenta, second moments, over their root mean squares.

One engine under all rules (small_fc of 2203.11860, muLO of 2406.00153, Celo2, VeLO of 2211.09760): accumulators,
statistics and features, over a batch of tensors in one form, (batch, others, a, b), where a and b are the two largest
axes. A newcomer would build the table of all features and normalise it; here the normaliser goes into the network's
first layer, rows' and columns' features into its bias, and what is left is made for a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

MOMENTA, FACTORED = 3, 3
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)  # steps (2203.11860)
WHOLE = (-3, -2, -1)  # the axes of one tensor


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which features there are, and the numbers in them; the defaults are small_fc's.

    `clipped` adds the clipped gradient and the gradient over the root of the second moment (VeLO, Celo2); vectors'
    momenta are then over the bare roots of their squares (VeLO's; Celo2 has no vectors). `times` are
    those of the features of time. With `scale_free` every formula is that of the gradients over the root of the
    tensor's mean second moment, so that no epsilon depends on the size of the loss. `square_axes` says how a matrix
    with equal sides lay where the rule was trained: "io" (fan-in first, as in JAX) or "oi" (as in torch). `more` counts
    further features of every entry, after all others, which the rule is given from outside (LAgg: of many workers).
    """

    clipped: bool = False
    times: tuple[float, ...] = TIMES
    second_eps: float = 1e-6
    normaliser_eps: float = 1e-5
    scale_free: bool = False
    square_axes: str = "io"
    more: int = 0

    @property
    def vector_eps(self) -> float:
        """Beside a vector's squares, where its momenta are divided by their roots."""
        return 0.0 if self.clipped else 1e-6

    @property
    def dense(self) -> tuple[int, ...]:
        """Of the published order, the features that differ from entry to entry."""
        c = int(self.clipped)
        head = 10 + c + 3 + c  # up to and with the factored gradient, and the gradient over the root where there is one
        return (*range(head), *range(head + 12, head + 15), *range(self.count - self.more, self.count))

    @property
    def adam(self) -> int:
        """The shortest momentum over the root of the second moment, in the published order."""
        return 6 + int(self.clipped)

    @property
    def rows(self) -> tuple[int, ...]:
        """Those that a row shares: its statistics, and one over their roots."""
        head = 13 + 2 * int(self.clipped)
        return (*range(head, head + 3), *range(head + 6, head + 9))

    @property
    def columns(self) -> tuple[int, ...]:
        """Those that a column shares."""
        return tuple(index + 3 for index in self.rows)

    @property
    def count(self) -> int:
        """All inputs of the network, time included."""
        return self.published + len(self.times) + self.more

    @property
    def published(self) -> int:
        """Those before the features of time."""
        return 28 + 2 * int(self.clipped)


@dataclass(frozen=True)
class Layout:
    """How a tensor is seen as (others, a, b). `row_is_a`: the row statistic is the one over b. Vectors have a = 1."""

    order: tuple[int, ...]
    shape: tuple[int, int, int]
    factored: bool
    row_is_a: bool


def layout_of(shape: Sequence[int], square_axes: str = "io") -> Layout:
    """The two largest axes are the matrix; the row statistic is the mean over the largest (the later one of equals).

    Torch keeps (out, in) where JAX keeps (in, out), so for weights trained there the later one of two equal axes is
    torch's first.
    """
    if len(shape) < 2:
        return Layout(tuple(range(len(shape))), (1, 1, prod(shape)), False, False)
    turned = square_axes == "io"
    ranked = sorted(range(len(shape)), key=lambda i: (shape[i], -i if turned else i))
    largest, a, b = ranked[-1], *sorted(ranked[-2:])
    others = [i for i in range(len(shape)) if i not in (a, b)]
    size = (prod([shape[i] for i in others]), shape[a], shape[b])  # a list: torch.compile reads no generator
    return Layout((*others, a, b), size, True, largest == b)


def seen(tensor: Tensor, layout: Layout) -> Tensor:
    """(batch, *shape) as (batch, others, a, b)."""
    order = (0, *(1 + i for i in layout.order))
    return tensor.permute(order).reshape(len(tensor), *layout.shape)


def unseen(tensor: Tensor, layout: Layout, shape: Sequence[int]) -> Tensor:
    """What `seen` made, as it was."""
    moved = [shape[i] for i in layout.order]
    back = sorted(range(len(moved)), key=lambda i: layout.order[i])
    return tensor.reshape(len(tensor), *moved).permute(0, *(1 + i for i in back))


@dataclass(frozen=True)
class Moments:
    """Accumulators: `means` three of (batch, others, a, b), `square` one, and the factored statistics.

    `over_b` is (batch, 3, others, a), `over_a` (batch, 3, others, b); a vector has its own squares in `over_a`, and
    nothing in `over_b`.
    """

    means: tuple[Tensor, ...]
    square: Tensor
    over_b: Tensor
    over_a: Tensor


def mapped(change: Callable[[Tensor], Tensor], moments: Moments) -> Moments:
    """Accumulators, each changed."""
    means = tuple(change(m) for m in moments.means)
    return Moments(means, change(moments.square), change(moments.over_b), change(moments.over_a))


def first_moments(param: Tensor, layout: Layout) -> Moments:
    """All from zero; `param` is (batch, others, a, b). There is no bias correction."""
    batch, others, a, b = param.shape
    rows = param.new_zeros(batch, FACTORED, others, a if layout.factored else 0)
    zeros = tuple(torch.zeros_like(param) for _ in range(MOMENTA + 1))
    return Moments(zeros[:MOMENTA], zeros[MOMENTA], rows, param.new_zeros(batch, FACTORED, others, b))


def advanced(decays: Tensor, grad: Tensor, moments: Moments, layout: Layout) -> Moments:
    """The accumulators after this gradient; `decays` (1 or batch, 7) are of the momenta, the second moment and the
    factored ones."""
    share = 1 - decays[:, :, None, None, None]
    means = tuple(torch.lerp(m, grad, share[:, k]) for k, m in enumerate(moments.means))
    squared = grad * grad
    square = torch.lerp(moments.square, squared, share[:, MOMENTA])
    squared, share = squared + 1e-30, share[:, MOMENTA + 1 :, 0]
    over_a = torch.lerp(moments.over_a, squared.mean(-2).unsqueeze(1), share)
    over_b = moments.over_b
    if layout.factored:
        over_b = torch.lerp(over_b, squared.mean(-1).unsqueeze(1), share)
    return Moments(means, square, over_b, over_a)


def time_features(steps: Tensor, features: Features) -> Tensor:
    """(..., times) of the steps that came before."""
    return torch.tanh(steps[..., None] / steps.new_tensor(features.times) - 1)


@dataclass(frozen=True)
class Factors:
    """One over the roots of factored second moments: of rows, and of columns for gradients and for momenta.

    `row` is (batch, 3, others, a, 1) or 1, `of_grad` and `of_mean` (batch, 3, others, 1, b) where b is the column axis.
    """

    a: Tensor | None
    b_of_grad: Tensor
    b_of_mean: Tensor


@dataclass(frozen=True)
class Statistics:
    """What must be known of the whole tensor before any block of it: the factors, and shared features.

    `rows` is (batch, 6, others, a) and `columns` (batch, 6, others, b), normalised; `scale` is (batch, 1, 1, 1), what
    gradients and momenta are multiplied by, or None.
    """

    factors: Factors
    rows: Tensor | None
    columns: Tensor
    scale: Tensor | None


def statistics(features: Features, moments: Moments, layout: Layout) -> Statistics:
    """From the accumulators after `advanced`."""
    scale = scale_of(moments.square.mean(WHOLE, keepdim=True)) if features.scale_free else None
    over_a, over_b = scaled(moments, scale)
    if not layout.factored:
        return Statistics(factors_of(features, over_a, over_b, layout), None, _shared(over_a, features), scale)
    row = over_b if layout.row_is_a else over_a
    factors = factors_of(features, over_a, over_b, layout, row.mean(-1, keepdim=True))
    return Statistics(factors, _shared(over_b, features), _shared(over_a, features), scale)


def scale_of(mean_square: Tensor) -> Tensor:
    """What gradients are multiplied by, of the tensor's mean second moment."""
    return torch.rsqrt(mean_square.clamp(min=1e-36))


def scaled(moments: Moments, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """The factored statistics (over a, over b) of scaled gradients."""
    if scale is None:
        return moments.over_a, moments.over_b
    return moments.over_a * (scale * scale), moments.over_b * (scale * scale)


def factors_of(
    features: Features, over_a: Tensor, over_b: Tensor, layout: Layout, row_mean: Tensor | None = None
) -> Factors:
    """One over the roots of the scaled statistics; `row_mean` (batch, 3, others, 1) is the row statistic's over its
    rows."""
    if not layout.factored:
        grad, mean = torch.rsqrt((over_a + 1e-9).clamp(min=1e-9)), torch.rsqrt(over_a + features.vector_eps)
        return Factors(None, grad.unsqueeze(-2), mean.unsqueeze(-2))
    assert row_mean is not None
    row, column = (over_b, over_a) if layout.row_is_a else (over_a, over_b)
    of_row = torch.rsqrt((row / (row_mean + 1e-9)).clamp(min=1e-9))
    of_column = torch.rsqrt(column.clamp(min=1e-9))
    of_a, of_b = (of_row, of_column) if layout.row_is_a else (of_column, of_row)
    along = of_b.unsqueeze(-2)
    return Factors(of_a.unsqueeze(-1), along, along)


def with_roots(statistic: Tensor) -> Tensor:
    """A scaled factored statistic and one over its root: (batch, 6, others, side)."""
    return torch.cat([statistic, torch.rsqrt(statistic + 1e-8)], dim=1)


def _shared(statistic: Tensor, features: Features) -> Tensor:
    """Both, normalised."""
    both = with_roots(statistic)
    mean = (both * both).mean((-2, -1), keepdim=True)
    return both * torch.rsqrt(mean + features.normaliser_eps)


@dataclass(frozen=True)
class Block:
    """Some rows of a tensor: what its dense features are made of, scaled."""

    grad: Tensor
    param: Tensor
    means: tuple[Tensor, ...]
    square: Tensor
    factors: Factors
    more: tuple[Tensor, ...]


def block_of(
    grad: Tensor, param: Tensor, moments: Moments, found: Statistics, rows: slice, more: tuple[Tensor, ...] = ()
) -> Block:
    """Rows `rows` of the axis a."""
    f, scale = found.factors, found.scale
    factors = f if f.a is None else Factors(f.a[..., rows, :], f.b_of_grad, f.b_of_mean)
    grad, means, square = (
        grad[..., rows, :],
        tuple(m[..., rows, :] for m in moments.means),
        moments.square[..., rows, :],
    )
    if scale is not None:
        grad, means, square = grad * scale, tuple(m * scale for m in means), square * (scale * scale)
    return Block(grad, param[..., rows, :], means, square, factors, tuple(m[..., rows, :] for m in more))


def dense_features(block: Block, features: Features) -> list[Tensor]:
    """(batch, others, rows, b) each, in the order of `Features.dense`, not normalised."""
    grad, means, f = block.grad, block.means, block.factors
    root = torch.rsqrt(block.square + features.second_eps)
    grads, moved = f.b_of_grad, f.b_of_mean
    if f.a is not None:
        grads = moved = f.a * f.b_of_grad
    return [
        grad,
        *([grad.clamp(-0.1, 0.1)] if features.clipped else []),
        block.param,
        *means,
        block.square,
        *(m * root for m in means),
        root,
        *(grad * grads[:, k] for k in range(FACTORED)),
        *([grad * root] if features.clipped else []),
        *(m * moved[:, k] for k, m in enumerate(means)),
        *block.more,
    ]


def sums_of_squares(block: Block, features: Features) -> Tensor:
    """(batch, dense features): the sums over these rows of the squares of what `dense_features` returns.

    Of products with the factored statistics without making them: a matrix times a vector each.
    """
    inverse = 1 / (block.square + features.second_eps)
    grad, means = block.grad * block.grad, [m * m for m in block.means]
    f = block.factors
    total = [
        _sum(grad),
        *([_sum(block.grad.clamp(-0.1, 0.1).square())] if features.clipped else []),
        _sum(block.param * block.param),
        *(_sum(m) for m in means),
        _sum(block.square * block.square),
        *(_sum(m * inverse) for m in means),
        _sum(inverse),
        *(_weighted(grad, f.a, f.b_of_grad, k) for k in range(FACTORED)),
        *([_sum(grad * inverse)] if features.clipped else []),
        *(_weighted(m, f.a, f.b_of_mean, k) for k, m in enumerate(means)),
        *(_sum(m * m) for m in block.more),
    ]
    return torch.stack(total, dim=1)


def _sum(values: Tensor) -> Tensor:
    return values.sum(WHOLE)


def _weighted(values: Tensor, a: Tensor | None, b: Tensor, k: int) -> Tensor:
    """The sum of values x a^2 x b^2."""
    along = (values @ b[:, k].square().mT)[..., 0]
    return (along if a is None else along * a[:, k, ..., 0].square()).sum((-2, -1))
