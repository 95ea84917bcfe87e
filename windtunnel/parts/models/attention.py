"""Causal attention that a pack can batch.

Attention has no weights, so the member axis of a pack folds into the examples axis exactly. torch's `vmap` has no
batching rule for the CPU's fused kernel and loops over members (a warning says so); the two functions here state the
fold. On other devices torch's own attention is used. The kernel's backward pass takes six to ten times as long in
bfloat16 as in float32 (measured, 64 tokens, heads of 16), so it is given float32 there too.

Only attention is worth it: the same was tried for the norm, the rotary turn and the gate, and the Python cost of a
custom function outweighed the saved passes over memory (measured: pack of 3, width 16 to 48, plain operations took 0.7
of the time).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head width) + causal mask) v over (examples, heads, tokens, head width)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _Attention.apply(*(t.float() if t.dtype is torch.bfloat16 else t for t in (query, key, value)))[0]


def _folded(function: Any, members: int, in_dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> Any:
    """Call a function of four-axis tensors with the member axis folded into the first."""
    moved = [
        tensor.expand(members, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
        for tensor, axis in zip(inputs, in_dims, strict=True)
    ]
    outputs = function.apply(*(t.reshape(-1, *t.shape[2:]) for t in moved))
    return tuple(t.reshape(members, -1, *t.shape[1:]) for t in outputs), tuple(0 for _ in outputs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return _attend(query, key, value, 0.0, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _AttentionBackward.apply(grads[0], *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> Any:
        return _folded(_Attention, info.batch_size, in_dims, inputs)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norm: Tensor) -> Any:
        return _attend_backward(grad.contiguous(), query, key, value, out, norm, 0.0, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("causal_attention is differentiable once; second derivatives are not provided.")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> Any:
        return _folded(_AttentionBackward, info.batch_size, in_dims, inputs)
