"""What benchmarks share: the machine and versions in every result file, writing it, and runs from a store."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from windtunnel.ladder import Rung
    from windtunnel.recipe import Judge, Recipe
    from windtunnel.runs import Run

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What ran the benchmark: processor, cores, versions, date."""
    from windtunnel.train.record import versions

    model = next((line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), "unknown")
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": model, "cores": cores, "system": platform.platform(terse=True), "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def write(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json with the machine it was measured on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine()} | result, indent=1) + "\n")
    return path


def runs_of(
    place: str, recipe: Recipe, rung: Rung, judge: Judge, asked: Sequence[tuple[float, int]],
    *, base: Rung, study: str, stored: bool,
) -> list[Run]:  # fmt: skip
    """Runs of one rung by learning rate and seed from the store at `place`, trained if it lacks them; with `stored`,
    only those that are there. Rates are those of the rung `base`."""
    import torch

    from windtunnel.launch.one import execute
    from windtunnel.runs import RunSpec
    from windtunnel.store import Store
    from windtunnel.train.pack import Pack

    store, described, judged = Store(place), recipe.describe(), judge.describe()
    specs = [
        RunSpec(recipe=described, rung=rung, hyperparameters={"lr": lr}, seed=seed, judge=judged, base_rung=base)
        for lr, seed in asked
    ]
    if not stored:
        label = {"study": study, "idea": "", "stage": ""}
        pack = Pack(recipe=recipe, specs=tuple(specs), judge=judge, labels=(label,) * len(specs))
        execute(pack, store, device=torch.device("cpu"))
    return [store.get(spec.key) for spec in specs if spec.key in store]


def train_or_tell(about: str | None) -> str:
    """Which of its two acts a benchmark was asked for, train or told; on one thread."""
    import torch

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("train", "told"))
    torch.set_num_threads(1)
    return str(parser.parse_args().act)


def interval(values: Sequence[float] | np.ndarray, level: float = 0.9) -> dict[str, float]:
    """Mean over repetitions and its interval (Student's t); the mean alone of one value or if one is not finite."""
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    middle = float(x.mean())
    if len(x) < 2 or not np.isfinite(x).all():
        return {"mean": middle, "n": len(x)}
    half = float(t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    return {"mean": middle, "low": middle - half, "high": middle + half, "n": len(x)}


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
