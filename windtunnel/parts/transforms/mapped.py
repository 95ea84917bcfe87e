"""Networks whose matrices pass through a map before they are used: ternary, standardised, squashed, sparse.

What is trained stays an ordinary tensor of the same shape, so sites, widths and packs know nothing of it. A newcomer
would map the readout and the embedding too: by default they stay as they are, for every paper here leaves them alone.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from windtunnel.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Every linear layer and convolution whose name matches `where`, but the last, uses `through(weight)`.

    `through` is a part: a frozen dataclass that is called with a weight (out, in, ...) and returns one of its shape.
    Raises InputError where no layer matches.
    """

    through: Any
    where: str = "*"

    def __call__(self, model: nn.Module) -> nn.Module:
        """The module with its layers replaced by ones that share their tensors, under the same names."""
        layers = {n: m for n, m in model.named_modules() if type(m) in _KINDS}
        chosen = [n for n in list(layers)[:-1] if fnmatch.fnmatch(n, self.where)]
        if not chosen:
            raise InputError(
                f"No layer before the last matches {self.where!r}; the linear layers and convolutions of "
                f"{type(model).__name__} are {', '.join(layers) or 'none'}."
            )
        for name in chosen:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _KINDS[type(layers[name])](layers[name], self.through))
        return model


class MappedLinear(nn.Linear):
    """A linear layer that uses `through(weight)`."""

    def __init__(self, layer: nn.Linear, through: Callable[[Tensor], Tensor]) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias, self.through = layer.weight, layer.bias, through

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.through(self.weight), self.bias)


class MappedConv2d(nn.Conv2d):
    """A convolution that uses `through(weight)`."""

    def __init__(self, layer: nn.Conv2d, through: Callable[[Tensor], Tensor]) -> None:
        super().__init__(
            layer.in_channels, layer.out_channels,
            layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # pyright: ignore[reportArgumentType]
            layer.groups, layer.bias is not None, layer.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias, self.through = layer.weight, layer.bias, through

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.through(self.weight), self.bias)


_KINDS: dict[type[nn.Module], Any] = {nn.Linear: MappedLinear, nn.Conv2d: MappedConv2d}
