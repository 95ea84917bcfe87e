"""The four ways in which benchmarks/engine.py trains a sweep: packs, Optuna, Ray Tune and a loop; one process each."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from typing import Any

import torch

import windtunnel as wt
from benchmarks.engine import MEMBERS, pack_of, plain
from windtunnel.launch.here import Here

CORES = len(os.sched_getaffinity(0))


def train(width: int, member: int, steps: int, precision: str) -> float:
    """One member by the plain loop; the last loss."""
    torch.set_num_threads(1)
    step = plain(width, member, 2.0 ** (-9 + member % 4), precision)
    loss = float("nan")
    for i in range(steps):
        loss = step(i)
    return loss


def windtunnel(width: int, steps: int, precision: str) -> None:
    """Packs, as wide as the launcher says, in as many workers as cores."""
    whole = pack_of(width, MEMBERS, steps, precision)
    launcher, store = Here(devices=CORES), wt.Store(tempfile.mkdtemp(prefix="engine-"))
    rows = launcher.pack_rows(MEMBERS, store, whole.size().total)
    launcher([whole.part(range(i, min(i + rows, MEMBERS))) for i in range(0, MEMBERS, rows)], store)


def optuna(width: int, steps: int, precision: str) -> None:
    """As many processes as cores, each asking one study for its next member; made beforehand, as Optuna needs it."""
    file = tempfile.mktemp(prefix="engine-optuna-")
    study = _study(file, new=True)
    for member in range(MEMBERS):
        study.enqueue_trial({"member": member})
    asked = ["--width", str(width), "--steps", str(steps), "--precision", precision, "--file", file]
    command = [sys.executable, "-m", "benchmarks.engine_ways", "optuna-worker", *asked]
    workers = [subprocess.Popen(command) for _ in range(CORES)]
    if any([worker.wait() for worker in workers]):
        raise SystemExit("an Optuna worker failed")


def optuna_worker(width: int, steps: int, precision: str, file: str) -> None:
    """An even share of the members, whichever the study hands out."""
    _study(file).optimize(
        lambda trial: train(width, trial.suggest_int("member", 0, MEMBERS - 1), steps, precision),
        n_trials=MEMBERS // CORES,
    )


def _study(file: str, new: bool = False) -> Any:
    import optuna as library
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    library.logging.set_verbosity(library.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(file))
    return (library.create_study if new else library.load_study)(study_name="sweep", storage=storage)


def ray(width: int, steps: int, precision: str) -> None:
    """Ray Tune, a core a member."""
    import ray as library
    from ray import tune

    library.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(lambda config: {"loss": train(width, config["member"], steps, precision)}, {"cpu": 1}),
        param_space={"member": tune.grid_search(list(range(MEMBERS)))},
        run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(prefix="engine-ray-"), verbose=0),
    )
    if tuner.fit().errors:
        raise SystemExit("a Ray Tune member failed")


def loop(width: int, steps: int, precision: str) -> None:
    """One member after another, with all the cores that torch takes by itself."""
    torch.set_num_threads(CORES)
    for member in range(MEMBERS):
        step = plain(width, member, 2.0 ** (-9 + member % 4), precision)
        for i in range(steps):
            step(i)


def main() -> None:
    """Train the sweep one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("windtunnel", "optuna", "optuna-worker", "ray", "loop"))
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--file")
    args = parser.parse_args()
    if args.way == "optuna-worker":
        optuna_worker(args.width, args.steps, args.precision, args.file)
        return
    {"windtunnel": windtunnel, "optuna": optuna, "ray": ray, "loop": loop}[args.way](
        args.width, args.steps, args.precision
    )


if __name__ == "__main__":
    main()
