"""A modern pre-norm decoder: rotary positions, causal attention, gated or plain MLP, tied or untied readout.

A plain `nn.Module` built from a Rung; it knows nothing of parametrization, initial sizes or packs. A newcomer would
look for muP in here: every multiplier lives in the ScaleTable, outside the model. Heads keep their width when the model
grows, so the attention scale stays 1/sqrt(head width).

Legend: b examples, t tokens, d width, h heads, k head width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.parts.models.attention import causal_attention
from windtunnel.recipe import DataShape


class SwiGLU(nn.Module):
    """Gated MLP, down(silu(gate x) * up x) (2002.05202), hidden width 8/3 d rounded to a multiple of 8 if not given."""

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or self.hidden(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    @staticmethod
    def hidden(width: int) -> int:
        return max(8, round(width * 8 / 3 / 8) * 8)

    @classmethod
    def params(cls, width: int) -> int:
        return 3 * width * cls.hidden(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GELU(nn.Module):
    """Plain MLP, down(gelu(up x)), hidden width 4 d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    @classmethod
    def params(cls, width: int) -> int:
        return 8 * width * width

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class RMSNorm(nn.Module):
    """x / rms(x), times a trainable gain if `elementwise_affine` (1910.07467)."""

    def __init__(self, width: int, elementwise_affine: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return y if self.weight is None else y * self.weight


class Attention(nn.Module):
    """Causal self-attention with rotary positions; `kv_groups` query heads share one key and value head."""

    def __init__(self, width: int, heads: int, kv_groups: int, context: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, heads // kv_groups, width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, self.kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, self.kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.register_buffer("turns", _turns(self.head_width, context), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        turns: Tensor = self.turns[:t]  # type: ignore[index]
        q = rotary(self.query(x).view(b, t, self.heads, self.head_width), turns).transpose(1, 2)
        k = rotary(self.key(x).view(b, t, self.kv_heads, self.head_width), turns).transpose(1, 2)
        v = self.value(x).view(b, t, self.kv_heads, self.head_width).transpose(1, 2)
        if self.kv_heads != self.heads:
            k, v = (s.repeat_interleave(self.heads // self.kv_heads, dim=1) for s in (k, v))
        return self.out(causal_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, rung: Rung, part: Transformer, context: int) -> None:
        super().__init__()
        self.attention_norm = part.norm(rung.width, elementwise_affine=part.gains)
        self.attention = Attention(rung.width, rung.heads, part.kv_groups, context)
        self.mlp_norm = part.norm(rung.width, elementwise_affine=part.gains)
        self.mlp = part.mlp(rung.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Tokens (b, t) to logits (b, t, v)."""

    def __init__(self, rung: Rung, part: Transformer, data: DataShape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(data.classes, rung.width)
        self.blocks = nn.ModuleList(Block(rung, part, data.tokens_per_example) for _ in range(rung.depth))
        self.norm = part.norm(rung.width, elementwise_affine=part.gains)
        self.readout = nn.Linear(rung.width, data.classes, bias=False)
        if part.tied:
            self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """The decoder at any rung.

    `norm` is RMSNorm or nn.LayerNorm; `gains` makes it trainable (off by default: trainable gains broke learning
    rate transfer in 2404.05728). `mlp` is SwiGLU, GELU or Experts(...). `kv_groups` query heads share one key and value
    head.
    """

    norm: Any = RMSNorm
    gains: bool = False
    mlp: Any = SwiGLU
    tied: bool = False
    kv_groups: int = 1

    @property
    def roles(self) -> Mapping[str, str]:
        """Roles that shapes cannot tell, by pattern of tensor names: a router's."""
        return getattr(self.mlp, "roles", {})

    def build(self, rung: Rung, data: DataShape) -> nn.Module:
        """A fresh module; its initial values are torch's and will be replaced by the parametrization's."""
        if rung.heads % self.kv_groups or (rung.width // rung.heads) % 2:
            raise InputError(
                f"A transformer of width {rung.width} with {rung.heads} heads and kv_groups={self.kv_groups} cannot be "
                f"built: heads must be a multiple of kv_groups, and the head width even for rotary positions."
            )
        return Decoder(rung, self, data)

    def size(self, rung: Rung, data: DataShape) -> Size:
        """Exact counts by formula; equals a count of the built module's tensors."""
        d, table = rung.width, data.classes * rung.width
        attention = 2 * d * d + 2 * d * d // self.kv_groups
        norms = 0 if not self.gains else (2 if self.norm is nn.LayerNorm else 1) * d * (2 * rung.depth + 1)
        weights = rung.depth * (attention + self.mlp.params(d))
        idle = rung.depth * self.mlp.idle(d) if hasattr(self.mlp, "idle") else 0
        matmul = weights + table - idle
        return Size(
            embedding=table,
            non_embedding=weights + norms + (0 if self.tied else table),
            tied=self.tied,
            idle=idle,
            # per token and layer: q k^T and its product with v, 2 matmuls of 2 t d, times 3 for the backward pass
            flops_per_token=6.0 * matmul + 12.0 * rung.depth * d * data.tokens_per_example,
        )


def rotary(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of (..., t, h, k) by its position's angle (2104.09864)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(turns)).flatten(-2)


def _turns(head_width: int, context: int) -> Tensor:
    """Cosine and sine of every position's angles, (context, 1, head_width / 2, 2)."""
    # always on the CPU, so that a model on the meta device still gets true values when it is moved
    frequency = 10000.0 ** (-torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / head_width)
    angle = torch.outer(torch.arange(context, dtype=torch.float64, device="cpu"), frequency)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float().unsqueeze(1)
