"""windtunnel: foretell a large model's result from small models' runs, before the large one is trained.

The public names, resolved when they are first used: `import windtunnel`, reading a store and fitting a table of runs
import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "errors": ("InputError",),
    "ladder": ("Ladder", "Rung", "Size", "Target"),
    "recipe": ("DataShape", "Judge", "Recipe", "Site", "tuned"),
    "runs": ("Outcome", "Run", "RunSpec"),
    "store": ("Store",),
    "laws": (
        "Chinchilla", "Curve", "Observations", "PlainPowerLaw", "PowerLaw", "fit_mixture", "fit_power_schedule",
        "fit_surface", "fit_task", "read_runs",
    ),
    "forecasts": (
        "Allocation", "BestHyperparameters", "Fit", "Forecast", "Interval", "Score", "Verdict", "allocate", "backtest",
        "best_hyperparameters", "choose_schedule", "compare", "curve_of", "fit", "fit_curves", "flops_for", "forecast",
        "next_runs", "odd_rungs", "score", "smaller_ladders", "smallest_ladder", "unidentified",
    ),
    "fair": ("compare_fairly",),
    "scaling.adopt": ("adopt",),
    "tune": ("Tuning",),
    "transfers": ("compare_parametrizations", "transfer_check"),
    "study": ("Plan", "Result", "Study"),
}  # fmt: skip
_HOME = {name: f"windtunnel.{home}" for home, names in _HOMES.items() for name in names}
_ROOMS = {"bridge": "windtunnel.bridge", "checks": "windtunnel.scaling.checks", "curvature": "windtunnel.curvature",
          "data": "windtunnel.parts.data", "fair": "windtunnel.fair", "ideas": "windtunnel.ideas",
          "laws": "windtunnel.laws", "meta": "windtunnel.meta", "parts": "windtunnel.parts",
          "recipes": "windtunnel.parts.recipes",
          "scaling": "windtunnel.scaling", "searches": "windtunnel.searches",
          "worlds": "windtunnel.worlds"}  # fmt: skip

__all__ = sorted([*_HOME, *_ROOMS])


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(_ROOMS[name])
    if name not in _HOME:
        from windtunnel.errors import meant

        near = meant(name, __all__)
        raise AttributeError(f"windtunnel has no {name!r}.{near} Its public names are {', '.join(__all__)}.")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "safetensors", "cloudpickle"):
            raise ModuleNotFoundError(
                f"windtunnel.{name} trains models and needs {error.name}: pip install 'windtunnel[train]'.",
                name=error.name,
            ) from None
        raise


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:  # for editors and type checkers, which cannot follow __getattr__
    from windtunnel import bridge, curvature, fair, ideas, laws, meta, parts, scaling, searches, worlds
    from windtunnel.errors import InputError
    from windtunnel.fair import compare_fairly
    from windtunnel.forecasts import (
        Allocation,
        BestHyperparameters,
        Fit,
        Forecast,
        Interval,
        Score,
        Verdict,
        allocate,
        backtest,
        best_hyperparameters,
        choose_schedule,
        compare,
        curve_of,
        fit,
        fit_curves,
        flops_for,
        forecast,
        next_runs,
        odd_rungs,
        score,
        smaller_ladders,
        smallest_ladder,
        unidentified,
    )
    from windtunnel.ladder import Ladder, Rung, Size, Target
    from windtunnel.laws import (
        Chinchilla,
        Curve,
        Observations,
        PlainPowerLaw,
        PowerLaw,
        fit_mixture,
        fit_power_schedule,
        fit_surface,
        fit_task,
        read_runs,
    )
    from windtunnel.parts import data, recipes
    from windtunnel.recipe import DataShape, Judge, Recipe, Site, tuned
    from windtunnel.runs import Outcome, Run, RunSpec
    from windtunnel.scaling import checks
    from windtunnel.scaling.adopt import adopt
    from windtunnel.store import Store
    from windtunnel.study import Plan, Result, Study
    from windtunnel.transfers import compare_parametrizations, transfer_check
    from windtunnel.tune import Tuning
