"""Build a module without storage, to look at its shapes, and at the numbers that fill whole tensors.

The meta device has no values. What a constructor fills a tensor with is noted on the way: the ones of a norm, the zeros
of a norm that adds 1 itself (Gemma's), the 0.25 of nn.PReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from windtunnel.errors import InputError

_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}
_ONES = {torch.ones, torch.ones_like, torch.Tensor.new_ones}
_ZEROS = {torch.zeros, torch.zeros_like, torch.Tensor.new_zeros, torch.Tensor.zero_}
_TIMES = {"mul", "__mul__", "__rmul__"}
_NO_VALUE = {"requires_grad_", "share_memory_", "detach_", "squeeze_", "unsqueeze_"}
_FULL = {torch.full, torch.full_like, torch.Tensor.new_full, torch.Tensor.fill_, nn.init.constant_}


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The module without storage."""
    return filled_on_meta(build)[0]


def filled_on_meta(build: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, float]]:
    """The module without storage, and by name the number that its constructor filled a whole parameter with."""
    watch = _Undrawn()
    with torch.device("meta"), watch:
        model = build()
    _check_shapes(model)
    found = {name: watch.filled.get(_storage(param)) for name, param in model.named_parameters()}
    return model, {name: value[1] for name, value in found.items() if value is not None}


def _check_shapes(model: nn.Module) -> None:
    lazy = [name for name, param in model.named_parameters() if is_lazy(param)]
    if lazy:
        raise InputError(
            f"{', '.join(lazy[:3])} of the model have no shape before a first input (a lazy layer), and shapes "
            f"are compared without one. Name the sizes, as Linear(in, out) for LazyLinear(out), or pass a dummy batch "
            f"through the model in its constructor."
        )


class _Undrawn(TorchFunctionMode):
    """Skips initial draws: on the meta device they draw nothing, and load a large part of torch to do it (1.4 s).

    `filled` holds, by storage, a tensor (so that no other takes its place) and the number that fills it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filled: dict[int, tuple[Tensor, float]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            result = args[0] if args else kwargs["tensor"]
        else:
            result = func(*args, **kwargs)
        if func in _ONES | _ZEROS | _FULL:
            self._note(result, _number(func, args, kwargs))
        elif getattr(func, "__name__", "") in _TIMES and isinstance(result, Tensor):  # LayerScale's 1e-4 * torch.ones
            self._note(result, self._product(args))
        elif _writes(func) and isinstance(written := args[0] if args else result, Tensor):
            self._note(written, None)
        return result

    def _product(self, args: Any) -> float | None:
        """Of a filled tensor and a number."""
        filled = [self.filled[_storage(a)][1] for a in args if isinstance(a, Tensor) and _storage(a) in self.filled]
        numbers = [float(a) for a in args if isinstance(a, Real)]
        return filled[0] * numbers[0] if len(filled) == len(numbers) == 1 else None

    def _note(self, tensor: Tensor, value: float | None) -> None:
        """A part that is filled, and a number that is not known, leave the whole unknown."""
        whole = tensor.is_meta and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        if whole and value is not None:
            self.filled[_storage(tensor)] = tensor, value
        elif tensor.is_meta:
            self.filled.pop(_storage(tensor), None)


def _number(func: Any, args: Any, kwargs: Any) -> float | None:
    if func not in _FULL:
        return 1.0 if func in _ONES else 0.0
    at = 2 if func is torch.Tensor.new_full else 1
    value = (
        args[at] if len(args) > at else next((kwargs[k] for k in ("fill_value", "value", "val") if k in kwargs), None)
    )
    return float(value) if isinstance(value, Real) else None


def _writes(func: Any) -> bool:
    """Whether a function changes its first argument: torch's in-place methods end in one underscore, as do a few that
    change no value."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and name not in _NO_VALUE)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
