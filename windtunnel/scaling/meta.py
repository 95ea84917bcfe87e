"""Build a module without storage, to look at its shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The module without storage."""
    with torch.device("meta"), _Undrawn():
        return build()


class _Undrawn(TorchFunctionMode):
    """Skips initial draws: on the meta device they draw nothing, and load a large part of torch to do it (1.4 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
