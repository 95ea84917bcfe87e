"""Dropout: outputs set to zero at random while training, the rest made larger by as much (1207.0580).

Its noise is a function of the run's seed, the step and the place in the network, mixed out of counters, so that a pack
equals its members alone and a resumed run goes on with the same masks. A newcomer would use torch's own: it draws from
one stream for all members.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from windtunnel.errors import InputError
from windtunnel.recipe import is_open

WORD = 0xFFFFFFFF
NONE = -1  # the noise of a network that nobody trains: nothing is dropped


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """A share `rate` of the outputs of every module whose name matches one of `where` is dropped while training.

    The default is where residual branches of the stock transformer end. `rate` may be tuned(low, high). Raises
    InputError for a rate outside [0, 1) and where no module matches.
    """

    rate: float = 0.1
    where: tuple[str, ...] = ("*.attention.out", "*.mlp.down")
    needs = ("noise",)

    def __post_init__(self) -> None:
        if not is_open(self) and not 0 <= self.rate < 1:
            raise InputError(f"Dropout rate is {self.rate}; it is a share of the outputs, so give 0 <= rate < 1.")

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module with its outputs dropped; its tensors and their names stay."""
        names = [name for name, _ in model.named_modules() if any(fnmatch.fnmatch(name, w) for w in self.where)]
        if not names:
            raise InputError(
                f"No module of {type(model).__name__} matches {' or '.join(map(repr, self.where))}, so nothing would "
                f"be dropped; it has {', '.join(n for n, m in model.named_modules() if n and not list(m.children()))}."
            )
        for place, name in enumerate(names):
            module = model.get_submodule(name)
            module.add_module("dropped", Dropped(self.rate, place))
            module.register_forward_hook(_drop)
        return model


class Dropped(nn.Module):
    """Drops a share of what it is given while training."""

    noise: Tensor

    def __init__(self, rate: float, place: int) -> None:
        super().__init__()
        self.rate, self.place = rate, place
        self.register_buffer("noise", torch.tensor(NONE, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        bits = mixed(torch.arange(x.numel(), device=x.device).view(x.shape) + mixed(self.noise + self.place * 7919))
        kept = (bits >= int(self.rate * 2**32)) | (self.noise == NONE)
        scale = torch.where(self.noise == NONE, 1.0, 1 / (1 - self.rate)).to(x.dtype)
        return x * (kept.to(x.dtype) * scale)


def mixed(counter: Tensor) -> Tensor:
    """Whole numbers to 32 bits that look random: the integer hash `lowbias32` (measured: see its test)."""
    x = counter & WORD
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & WORD
    return x ^ (x >> 16)


def normal(noise: Tensor, count: int) -> Tensor:
    """Standard normal numbers (count,) of a step's noise (Box and Muller's way)."""
    one, other = (mixed(torch.arange(count, device=noise.device) + mixed(noise + k)).double() / 2**32 for k in (11, 23))
    return ((-2 * (one + 2**-33).log()).sqrt() * (2 * torch.pi * other).cos()).float()


def _drop(module: Any, inputs: Any, output: Tensor) -> Tensor:
    return module.dropped(output)
