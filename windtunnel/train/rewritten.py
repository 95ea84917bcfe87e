"""Operations that a recorded step has written out otherwise, so that the compiler can join them with their neighbours.

Each entry takes an operation of torch's by the same arguments and gives the same numbers, to rounding, or
NotImplemented where the operation itself is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# In float32 the CPU's fused attention is as fast as any; in bfloat16 its products written out take 0.4 to 0.9 of its
# time as long as the scores stay in the cache, and up to twice its time where they do not (measured, heads of 16 to 64,
# 16 to 512 tokens, with 32 MiB of cache).
MOST_SCORES = 1 << 22


def rewritten(precision: str) -> Mapping[Any, Callable[..., Any]]:
    """torch's operation to what a step computed in this precision has in its place."""
    aten = torch.ops.aten
    found: dict[Any, Callable[..., Any]] = {aten.scatter_add.default: _one_place_a_row}
    if precision == "bfloat16":
        found[aten._scaled_dot_product_flash_attention_for_cpu.default] = _attention
        found[aten._scaled_dot_product_flash_attention_for_cpu_backward.default] = _attention_backward
    return found


def _one_place_a_row(values: Tensor, dim: int, index: Tensor, added: Tensor) -> Any:
    """Cross-entropy's gradient has one entry in every row of logits. As a comparison, not a scatter into zeros, it is
    joined with the softmax's gradient and never stored: the same digits, a third less time (measured, 256 classes)."""
    one = [1 if d == dim % values.dim() else n for d, n in enumerate(values.shape)]
    if list(index.shape) != one or added.shape != index.shape:
        return NotImplemented
    places = torch.arange(values.shape[dim], dtype=torch.int32, device=values.device)
    places = places.view([-1 if d == dim % values.dim() else 1 for d in range(values.dim())])
    return values + torch.where(places == index.int(), added, 0.0)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False, *,
    attn_mask: Tensor | None = None, scale: float | None = None,
) -> Any:  # fmt: skip
    """(examples, heads, tokens, head width) to the same and the logarithm of the softmax's denominator."""
    if not _short(query, key, dropout_p, is_causal, attn_mask):
        return NotImplemented
    scores = _scores(query, key, scale)
    largest = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - largest)
    total = weights.sum(-1, keepdim=True)
    out = _product(weights / total, value).to(query.dtype)
    return out, (largest + total.log()).squeeze(-1)


def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norm: Tensor, dropout_p: float,
    is_causal: bool, *, attn_mask: Tensor | None = None, scale: float | None = None,
) -> Any:  # fmt: skip
    if not _short(query, key, dropout_p, is_causal, attn_mask):
        return NotImplemented
    weights = torch.exp(_scores(query, key, scale) - norm.unsqueeze(-1))
    of_weights = _product(grad, value.mT)
    of_scores = weights * (of_weights - (grad * out).sum(-1, keepdim=True)) * _scale(query, scale)
    found = _product(of_scores, key), _product(of_scores.mT, query), _product(weights.mT, grad)
    return tuple(each.to(query.dtype) for each in found)


def _short(query: Tensor, key: Tensor, dropout_p: float, is_causal: bool, attn_mask: Tensor | None) -> bool:
    examples, heads, tokens, _ = query.shape
    plain = is_causal and attn_mask is None and dropout_p == 0.0 and query.shape == key.shape
    return plain and examples * heads * tokens * tokens <= MOST_SCORES


def _scores(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    """What the softmax is taken of, minus infinity for tokens that come later."""
    place = torch.arange(query.shape[-2], device=query.device)
    return torch.where(place[:, None] >= place, _product(query * _scale(query, scale), key.mT), -torch.inf)


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _product(one: Tensor, other: Tensor) -> Tensor:
    """A matrix product of bfloat16, as float32."""
    return torch.matmul(one.bfloat16(), other.bfloat16()).float()
