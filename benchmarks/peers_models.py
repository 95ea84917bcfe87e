"""One small decoder, written once, and the four ways to parametrize it: plain, ours, mup's, unit-scaling's.

A tool differs by the layers it is made of, by its initial values and by its optimizer, and in nothing else. At the base
width plain, ours and mup's are the same model to the bit, so what tells them apart on a ladder is their rule alone;
unit-scaling's is another model everywhere. A newcomer would take each tool's default initial values and compare those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.scaling.adopt import SEEDS_APART

BASE, HEAD, DEPTH, CONTEXT, VOCABULARY = 32, 16, 2, 64, 256


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a decoder is made of. `tau` weighs a residual branch (only unit-scaling reads it): (index, count) -> tau."""

    linear: Callable[[int, int], nn.Module]
    readout: Callable[[int, int], nn.Module]
    embedding: Callable[[int, int], nn.Module]
    norm: Callable[[int], nn.Module]
    stack: Callable[[list[nn.Module]], nn.ModuleList]
    gelu: Callable[[Tensor], Tensor]
    attention: Callable[..., Tensor]
    add: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Callable[[Tensor], Tensor], Tensor, float], Tensor]
    tau: Callable[[int, int], float]
    loss: Callable[[Tensor, Tensor], Tensor]


def plain_residual(branch: Callable[[Tensor], Tensor], x: Tensor, tau: float) -> Tensor:
    """A residual connection as usual."""
    return x + branch(x)


def no_tau(index: int, count: int) -> float:
    """Branches as they come."""
    return 1.0


_LINEAR = partial(nn.Linear, bias=False)
PLAIN = Layers(
    linear=_LINEAR, readout=_LINEAR, embedding=nn.Embedding, norm=partial(nn.LayerNorm, elementwise_affine=False),
    stack=nn.ModuleList, gelu=F.gelu, attention=F.scaled_dot_product_attention, add=torch.add, residual=plain_residual,
    tau=no_tau, loss=F.cross_entropy,
)  # fmt: skip


class Block(nn.Module):
    """Causal attention and an MLP of four times the width, each after a norm."""

    def __init__(self, layers: Layers, width: int, index: int):
        super().__init__()
        self.heads, self.gelu, self.mix, self.residual = width // HEAD, layers.gelu, layers.attention, layers.residual
        self.taus = tuple(layers.tau(2 * index + half, 2 * DEPTH) for half in (0, 1))
        self.first, self.second = layers.norm(width), layers.norm(width)
        self.qkv, self.out = layers.linear(width, 3 * width), layers.linear(width, width)
        self.up, self.down = layers.linear(width, 4 * width), layers.linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.first(x)).view(b, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        return self.out(self.mix(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d))

    def think(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(self.second(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.residual(self.attend, x, self.taus[0])
        return self.residual(self.think, x, self.taus[1])


class GPT(nn.Module):
    """A pre-norm decoder of two blocks over bytes; no biases and no gains, as unit-scaling recommends.

    `part` makes one more module of the given width, whose output is added before the readout.
    """

    def __init__(self, width: int, layers: Layers = PLAIN, part: Callable[[int], nn.Module] | None = None):
        super().__init__()
        self.add = layers.add
        self.token, self.position = layers.embedding(VOCABULARY, width), layers.embedding(CONTEXT, width)
        self.blocks = layers.stack([Block(layers, width, index) for index in range(DEPTH)])
        self.part = part(width) if part else None
        self.norm, self.head = layers.norm(width), layers.readout(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.add(self.token(tokens), self.position(torch.arange(tokens.shape[1])))
        for block in self.blocks:
            x = block(x)
        if self.part is not None:
            x = x + self.part(x)
        return self.head(self.norm(x))


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A way to parametrize the decoder: its layers, a ready model of a width and seed, and an AdamW for it.

    `build(width)` is the bare model; `ready(build, width, seed)` gives it its initial values and what else the tool
    asks for. `start` is log2 of the learning rate around which its search begins at the base width.
    """

    name: str
    layers: Layers
    ready: Callable[[Callable[[int], nn.Module], int, int], Any]
    adamw: Callable[..., torch.optim.Optimizer]
    start: int

    def build(self, width: int, part: Callable[[int], nn.Module] | None = None) -> nn.Module:
        """The bare decoder."""
        return GPT(width, self.layers, part)

    def made(self, width: int, seed: int = 0) -> tuple[nn.Module, Any]:
        """The ready decoder and what the optimizer needs to know beside it."""
        return self.ready(self.build, width, seed)


# plain


def plain_ready(build: Callable[[int], nn.Module], width: int, seed: int) -> tuple[nn.Module, None]:
    """The standard parametrization: matrices 1/sqrt(fan-in), tables 1."""
    model = build(width)
    for number, param in enumerate(model.parameters()):
        torch.manual_seed(seed * SEEDS_APART + number)
        is_table = number < 2
        if is_table or param.ndim == 2:
            nn.init.normal_(param, std=1.0 if is_table else param.shape[1] ** -0.5)
    return model, None


def plain_adamw(model: nn.Module, beside: None, lr: float, **more: Any) -> torch.optim.Optimizer:
    """One learning rate for all tensors."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, **more)


# ours


def our_ready(
    build: Callable[[int], nn.Module], width: int, seed: int, optimizer: Any = torch.optim.AdamW
) -> tuple[nn.Module, Any]:
    """The plain model, adopted; beside it the scales."""
    scales = wt.adopt(build, base=BASE, target=width, optimizer=optimizer)
    model = build(width)
    scales.initialize(model, seed=seed)
    return scales.attach(model), scales


def our_adamw(model: nn.Module, scales: Any, lr: Any, **more: Any) -> torch.optim.Optimizer:
    """Groups by name."""
    return torch.optim.AdamW(scales.groups(model, lr, eps=1e-8), weight_decay=0.0, **more)


# mup


def mup_ready(build: Callable[[int], nn.Module], width: int, seed: int) -> tuple[nn.Module, None]:
    """Base shapes from widths 32 and 64, then mup.init, as its README says."""
    mup: Any = import_module("mup")
    model = build(width)
    mup.set_base_shapes(model, build(BASE), delta=build(2 * BASE))
    for number, param in enumerate(model.parameters()):
        torch.manual_seed(seed * SEEDS_APART + number)
        is_table = number < 2
        if is_table:
            mup.init.normal_(param, std=1.0)
        elif param.ndim == 2:
            mup.init.kaiming_normal_(param, nonlinearity="linear")
    return model, None


def mup_adamw(model: nn.Module, beside: None, lr: Any, **more: Any) -> torch.optim.Optimizer:
    """MuAdamW."""
    return import_module("mup").MuAdamW(model.parameters(), lr=lr, weight_decay=0.0, **more)


# unit-scaling


def unit_layers() -> Layers:
    """unit-scaling's own layers and functions, each in the place of the plain one, as its demo notebook does."""
    uu: Any = import_module("unit_scaling")
    functions: Any = import_module("unit_scaling.functional")
    return Layers(
        linear=uu.Linear, readout=uu.LinearReadout, embedding=uu.Embedding, norm=uu.LayerNorm, stack=uu.DepthModuleList,
        gelu=functions.gelu, attention=functions.scaled_dot_product_attention, add=functions.add,
        residual=functions.residual_apply, tau=uu.transformer_residual_scaling_rule(), loss=functions.cross_entropy,
    )  # fmt: skip


def unit_ready(build: Callable[[int], nn.Module], width: int, seed: int) -> tuple[nn.Module, None]:
    """Its constructors draw the initial values."""
    torch.manual_seed(seed)
    return build(width), None


def unit_adamw(model: nn.Module, beside: None, lr: Any, **more: Any) -> torch.optim.Optimizer:
    """unit_scaling.optim.AdamW."""
    return import_module("unit_scaling").optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, **more)


def tools() -> dict[str, Tool]:
    """The four, by name. Searches begin at 2^-6, where mup's optimum lay in an earlier ladder; unit-scaling's at 2^0,
    the optimum of its demo notebook."""
    readout = partial(import_module("mup").MuReadout, bias=False)
    found = (
        Tool(name="plain", layers=PLAIN, ready=plain_ready, adamw=plain_adamw, start=-6),
        Tool(name="ours", layers=PLAIN, ready=our_ready, adamw=our_adamw, start=-6),
        Tool(name="mup", layers=replace(PLAIN, readout=readout), ready=mup_ready, adamw=mup_adamw, start=-6),
        Tool(name="unit-scaling", layers=unit_layers(), ready=unit_ready, adamw=unit_adamw, start=0),
    )
    return {tool.name: tool for tool in found}
