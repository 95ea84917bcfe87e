"""Attention that a pack can batch.

Attention has no weights, so the member axis of a pack folds into the examples axis exactly. torch's `vmap` has no
batching rule for the CPU's fused kernel and loops over members (a warning says so); the two functions here state the
fold, and `FoldedAttention` puts them in the place of torch's within a network that we did not write. On other devices
torch's own attention is used. The kernel's backward pass takes six to ten times as long in bfloat16 as in float32
(measured, 64 tokens, heads of 16), so it is given float32 there too.

Only attention is worth it: the same was tried for the norm, the rotary turn and the gate, and the Python cost of a
custom function outweighed the saved passes over memory (measured: pack of 3, width 16 to 48, plain operations took 0.7
of the time).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head width) + causal mask) v over (examples, heads, tokens, head width)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _attention(query, key, value, True, None)


class FoldedAttention(TorchFunctionMode):
    """Inside, torch's attention without a mask of its own or dropout is one that a pack can batch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and (found := _folding(*args, **kwargs)) is not None:
            return found
        return func(*args, **kwargs)


def _folding(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor | None:  # fmt: skip
    """What torch's function of these arguments gives; None where it has to do it itself."""
    plain = attn_mask is None and not dropout_p and query.dim() == key.dim() == 4 and key.shape == value.shape
    if not plain or query.device.type != "cpu" or query.dtype not in (torch.float32, torch.bfloat16):
        return None
    if enable_gqa and query.shape[1] != key.shape[1]:
        key, value = (t.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for t in (key, value))
    if query.shape[:2] != key.shape[:2] or query.shape[-1] != key.shape[-1]:  # left to broadcast
        return None
    return _attention(query, key, value, is_causal, scale).to(query.dtype)


def _attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> Tensor:
    in_float32 = (t.float() if t.dtype is torch.bfloat16 else t for t in (query, key, value))
    return _Attention.apply(*in_float32, causal, scale)[0]


def _folded(function: Any, members: int, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> Any:
    """Call a function of four-axis tensors and two settings with the member axis folded into the first."""
    moved = [
        tensor.expand(members, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
        for tensor, axis in zip(inputs[:-2], in_dims, strict=False)
    ]
    outputs = function.apply(*(t.reshape(-1, *t.shape[2:]) for t in moved), *inputs[-2:])
    return tuple(t.reshape(members, -1, *t.shape[1:]) for t in outputs), tuple(0 for _ in outputs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
        return _attend(query, key, value, 0.0, causal, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.causal, ctx.scale = inputs[3:]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *_AttentionBackward.apply(grads[0], *ctx.saved_tensors, ctx.causal, ctx.scale), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _folded(_Attention, info.batch_size, in_dims, inputs)


class _AttentionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norm: Tensor, causal: bool,
        scale: float | None,
    ) -> Any:  # fmt: skip
        return _attend_backward(grad.contiguous(), query, key, value, out, norm, 0.0, causal, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("causal_attention is differentiable once; second derivatives are not provided.")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _folded(_AttentionBackward, info.batch_size, in_dims, inputs)
