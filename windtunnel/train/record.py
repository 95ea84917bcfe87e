"""The record of a run that was trained: its curves and end, versions, the text of every file its parts are written in.

Importing this file must not import torch: what only names versions stays quick.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.meaning import source_of
from windtunnel.recipe import Recipe
from windtunnel.runs import Cost, Outcome, Run

if TYPE_CHECKING:
    import torch

    from windtunnel.train.pack import Pack


def recorded(
    pack: Pack,
    member: int,
    *,
    train_loss: Sequence[float] | np.ndarray,
    judged: Iterable[tuple[int, float, float]],
    why: str | None,
    cost: Cost,
    created: str,
    metrics: Mapping[str, float] | None = None,
) -> Run:
    """The Run of a member: a loss a step, and (step, loss, accuracy) of each judgement, NaN where none was due (or a
    judge's own loss has no hits).

    `why` says why it diverged; None or empty: it finished. `metrics` are what probes measured.
    """
    spec, tokens_per_step = pack.specs[member], pack.tokens_per_step()
    steps, done = np.arange(1, len(train_loss) + 1), [each for each in judged if math.isfinite(each[1])]
    judged_steps = np.array([step for step, _, _ in done], dtype=np.int64)
    return Run(
        key=spec.key,
        spec=spec,
        outcome=Outcome.DIVERGED if why else Outcome.FINISHED,
        message=why or "",
        loss=None if why else float(done[-1][1]),
        metrics={} if why else {**_accuracy(done[-1][2]), **(metrics or {})},
        size=pack.size(),
        cost=cost,
        curve={
            "step": steps,
            "tokens": np.minimum(steps * tokens_per_step, spec.rung.tokens),
            "train_loss": np.asarray(train_loss),
            "judged_tokens": np.minimum(judged_steps * tokens_per_step, spec.rung.tokens),
            "judged_loss": np.array([loss for _, loss, _ in done]),
        },
        created=created,
        versions=versions(),
        labels=dict(pack.labels[member]) if pack.labels else {},
        source=written_sources(pack.recipe_of(member)),
    )


def _accuracy(share: float) -> dict[str, float]:
    return {"accuracy": float(share)} if math.isfinite(share) else {}


def tokens_done(pack: Pack, member: int, train_loss: Sequence[float] | np.ndarray) -> int:
    """Tokens of the steps whose loss was finite, cut at the horizon."""
    return min(int(np.isfinite(train_loss).sum()) * pack.tokens_per_step(), pack.specs[member].rung.tokens)


def device_name(device: torch.device) -> str:
    """A GPU's own name, else the device's kind."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in ("windtunnel", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def written_sources(recipe: Recipe) -> dict[str, str]:
    """File name to text for the parts that are not of an installed library."""
    found: dict[str, str] = {}
    for piece in recipe.pieces():
        source: Any = source_of(piece)
        if source is not None:
            found[source[0]] = source[1]
    return found
