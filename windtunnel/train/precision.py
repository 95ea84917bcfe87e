"""In which precision matrix products are computed; weights, norms, losses and optimizer states stay float32.

It is how runs are trained, not what was asked, so it is no part of a run's key; the record says which it was. bfloat16
is torch's autocast. A newcomer would cast the whole model: the residual stream then loses an eighth bit at every block.
Rotations written with complex numbers have no bfloat16 form and are computed in float32. torch's attention is given one
type, which autocast does not do under vmap: float32 on a CPU, whose kernel's backward pass takes six to ten times as
long in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from windtunnel.errors import InputError

PRECISIONS = ("float32", "bfloat16")  # from high to low


def check_precision(precision: str) -> None:
    """Raise InputError for one that is not known."""
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}.")


@contextmanager
def computed_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute what runs inside in a precision."""
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16), _BesideAutocast():
        yield


class _BesideAutocast(TorchFunctionMode):
    """What autocast leaves in a type that torch's function does not take."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.view_as_complex and args and args[0].dtype is torch.bfloat16:
            args = (args[0].float(), *args[1:])
        elif func is F.scaled_dot_product_attention:
            args, kwargs = tuple(map(_of_attention, args)), {name: _of_attention(a) for name, a in kwargs.items()}
        return func(*args, **kwargs)


def _of_attention(given: Any) -> Any:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        return given
    return given.float() if given.device.type == "cpu" else given.bfloat16()
