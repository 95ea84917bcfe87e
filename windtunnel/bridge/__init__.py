"""The pieces of windtunnel in your own training code, trackers and sweeps; each bridge is one small file.

The names resolve when they are first used, so that `windtunnel.bridge` imports no tracker and no trainer. A newcomer
would expect these to own the loop: yours stays, and each bridge adds at most five lines to it (docs/bridges.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "foreign": ("ForeignRun", "bring_runs", "foreign_runs", "observations_of"),
    "following": ("Following",),
    "mirror": ("Mirror", "Tracker"),
    "pruning": ("ForecastPruner",),
}
_WITH_THEIR_LIBRARY = {  # not in __all__: `import *` must not need every tracker and trainer there is
    "from_mlflow": ("bring_mlflow",),
    "from_wandb": ("bring_wandb",),
    "huggingface": ("FollowTrainer",),
    "lightning": ("FollowLightning",),
    "local": ("LocalSteps",),
    "optimizer": ("TorchOptimizer",),
    "to_aim": ("ToAim",),
    "to_mlflow": ("ToMLflow",),
    "to_tensorboard": ("ToTensorBoard",),
    "to_trackio": ("ToTrackio",),
    "to_wandb": ("ToWandB",),
}
_HOME = {name: f"windtunnel.bridge.{home}" for home, names in (_HOMES | _WITH_THEIR_LIBRARY).items() for name in names}
_PACKAGE = {"mlflow": "mlflow-skinny sqlalchemy alembic"}  # what to install for a module, where the names differ

__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"windtunnel.bridge has no {name!r}; it has {', '.join(sorted(_HOME))}.")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        if library in ("", "windtunnel"):
            raise
        raise ModuleNotFoundError(
            f"windtunnel.bridge.{name} needs {library}: pip install {_PACKAGE.get(library, library)}", name=library
        ) from None


def __dir__() -> list[str]:
    return sorted(_HOME)


if TYPE_CHECKING:  # for editors and type checkers, which cannot follow __getattr__
    from windtunnel.bridge.following import Following
    from windtunnel.bridge.foreign import ForeignRun, bring_runs, foreign_runs, observations_of
    from windtunnel.bridge.from_mlflow import bring_mlflow
    from windtunnel.bridge.from_wandb import bring_wandb
    from windtunnel.bridge.huggingface import FollowTrainer
    from windtunnel.bridge.lightning import FollowLightning
    from windtunnel.bridge.local import LocalSteps
    from windtunnel.bridge.mirror import Mirror, Tracker
    from windtunnel.bridge.optimizer import TorchOptimizer
    from windtunnel.bridge.pruning import ForecastPruner
    from windtunnel.bridge.to_aim import ToAim
    from windtunnel.bridge.to_mlflow import ToMLflow
    from windtunnel.bridge.to_tensorboard import ToTensorBoard
    from windtunnel.bridge.to_trackio import ToTrackio
    from windtunnel.bridge.to_wandb import ToWandB
