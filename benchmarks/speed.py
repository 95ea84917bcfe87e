"""How long does one fit with 500 replicates take, on one core, beside two other packages?

    pip install "windtunnel[bench]" && python -m benchmarks.speed        # writes benchmarks/results/speed.json

100 runs on a grid of parameters and tokens, drawn from Chinchilla's law with 1 % noise; everything is measured in one
process on one core. A newcomer would compare one fit with one fit: what costs is the doubt, so replicates are equal.
chinchilla has none, so its data are resampled for it; it is timed from one start a replicate (its own best fit, the
quickest way to use it) and, scaled from 32, from the 3,125 starts that its documentation shows, 5 along each axis. Its
plot is not counted.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.common import write
from windtunnel.forecasts import fit
from windtunnel.laws import Observations
from windtunnel.laws.chinchilla import Chinchilla
from windtunnel.laws.fitting import fit_law

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}  # 2203.15556, table A.3
NOISE, REPLICATES, TURNS = 0.01, 500, 5
STATED = {"E": (1, 2), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}  # its README
BARS = {"seconds": 1.0, "times_faster": 5.0}


def runs(seed: int = 0) -> Observations:
    """Ten sizes by ten horizons."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(5e7, 1e9, 10), np.geomspace(1e9, 5e10, 10)))
    t = TRUTH
    loss = t["E"] + t["A"] * n ** -t["alpha"] + t["B"] * d ** -t["beta"]
    noise = np.exp(NOISE * np.random.default_rng(seed).standard_normal(100))
    return Observations(loss=loss * noise, params=n, tokens=d, flops=6 * n * d)


def seconds(call: Callable[[], Any], turns: int = TURNS) -> dict[str, Any]:
    """Median, least and most seconds of several turns, after one that is not counted."""
    call()
    taken = []
    for _ in range(turns):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    low, middle, high = np.quantile(taken, [0, 0.5, 1]).round(4).tolist()
    return {"seconds": middle, "least": low, "most": high, "turns": turns}


def ours(o: Observations) -> Iterator[tuple[str, dict[str, Any]]]:
    """One law, as the others fit; and all laws with their backtests, weights and draws."""
    law = Chinchilla()
    found = fit_law(law, o, draws=REPLICATES, seed=0)
    yield (
        "windtunnel, one law",
        seconds(lambda: fit_law(law, o, draws=REPLICATES, seed=0).draws) | told(found.parameters()),
    )
    whole = fit(o, draws=REPLICATES)
    stated = {"laws": len(whole.shares()), "members": len(whole.laws), "backtests": whole.backtest.cuts}
    yield (
        "windtunnel, all laws and backtests",
        seconds(lambda: [law.draws for law in fit(o, draws=REPLICATES).laws]) | stated,
    )


def chinchilla(o: Observations) -> Iterator[tuple[str, dict[str, Any]]]:
    """`chinchilla`: resampled rows, one start each; and its documented grid of starts on all rows."""
    package = importlib.import_module("chinchilla")
    asked, generator = 20, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:

        def fitted(grid: dict[str, Any], index: np.ndarray) -> dict[str, float]:
            cc = package.Chinchilla(folder, param_grid=grid, log_level=40)
            cc.visualizer.optim = lambda *_, **__: None
            columns = {"C": o.flops, "N": o.params, "D": o.tokens, "loss": o.loss}
            cc.database.df = importlib.import_module("pandas").DataFrame({k: v[index] for k, v in columns.items()})
            cc.fit(parallel=False)
            return {name: float(getattr(cc, name)) for name in TRUTH}

        grid = {name: np.linspace(low, high, 2) for name, (low, high) in STATED.items()}
        start = time.perf_counter()
        best = fitted(grid, np.arange(len(o)))
        whole = time.perf_counter() - start
        warm = {"E": best["E"], "a": np.log(best["A"]), "b": np.log(best["B"])} | {
            k: best[k] for k in TRUTH if k.islower()
        }
        one = {name: np.array([value]) for name, value in warm.items()}
        rows = [generator.integers(0, len(o), len(o)) for _ in range(asked)]
        taken = seconds(lambda: [fitted(one, index) for index in rows], turns=3)
        scaled = {k: round(v * REPLICATES / asked, 3) for k, v in taken.items() if k != "turns"}
        yield "chinchilla, one start a replicate", scaled | {"turns": 3, "measured_replicates": asked} | told(best)
        cost = round(whole * REPLICATES * 5**5 / 2**5, 0)
        yield "chinchilla, its documented starts", {"seconds": cost, "measured_replicates": 1, "measured_starts": 2**5}


def simple_scaling_laws(o: Observations) -> Iterator[tuple[str, dict[str, Any]]]:
    """`simple-scaling-laws`: its separable power law with as many draws."""
    package, frames = importlib.import_module("simple_scaling_laws"), importlib.import_module("polars")
    table = frames.DataFrame({
        "training_run_id": [f"run {i}" for i in range(len(o))], "test_set_id": ["one"] * len(o),
        "model_size__n_params": o.params, "dataset_size__n_tokens": o.tokens, "test_loss__nats": o.loss,
    })  # fmt: skip
    call = lambda: package.fit(table, law="separable-power", n_draws=REPLICATES, seed=0)  # noqa: E731
    found = call().params("test_loss__nats")
    yield "simple-scaling-laws", seconds(call, turns=3) | told({k: float(found[k]) for k in TRUTH})


def told(parameters: dict[str, float]) -> dict[str, Any]:
    """Parameters in four digits: all must have found the same law."""
    return {"parameters": {name: float(f"{value:.4g}") for name, value in parameters.items()}}


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    o = runs()
    rows = dict(ours(o))
    for name, package in (("chinchilla", chinchilla), ("simple-scaling-laws", simple_scaling_laws)):
        try:
            rows |= dict(package(o))
            rows |= {f"{name} version": {"version": version(name)}}
        except ImportError as error:
            rows[name] = {"missing": f"{error}; pip install 'windtunnel[bench]' (simple-scaling-laws: Python >= 3.12)"}
    one = rows["windtunnel, one law"]["seconds"]
    faster = {k: round(row["seconds"] / one, 1) for k, row in rows.items() if "seconds" in row and "wind" not in k}
    for name, row in rows.items():
        print(f"{name:36s}", row)
    print("times faster, one law:", faster)
    print(
        write("speed", {"runs": len(o), "replicates": REPLICATES, "rows": rows, "times_faster": faster, "bars": BARS})
    )


if __name__ == "__main__":
    main()
