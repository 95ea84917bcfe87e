"""The pieces of windtunnel in your own training code, trackers and sweeps; each bridge is one small file.

The names resolve when they are first used, so that `windtunnel.bridge` imports no tracker and no trainer. A newcomer
would expect these to own the loop: yours stays, and each bridge adds at most five lines to it (docs/bridges.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "optimizer": ("TorchOptimizer",),
}
_HOME = {name: f"windtunnel.bridge.{home}" for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"windtunnel.bridge has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:  # for editors and type checkers, which cannot follow __getattr__
    from windtunnel.bridge.optimizer import TorchOptimizer
