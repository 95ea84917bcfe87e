"""A study file whose `study` is a MetaTraining: what `windtunnel plan` and `windtunnel run` do with it.

Checkpoints and weights lie in the store's own folder, under meta/. A newcomer would give meta-training a verb of its
own; it is a question with an answer that goes on where it stopped, which is what `run` does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.cli.progress import bar
from windtunnel.cli.shared import open_store, print_json
from windtunnel.errors import InputError

if TYPE_CHECKING:
    from windtunnel.meta import MetaTraining

LINE_SECONDS = 30.0  # between lines where nobody looks at the terminal


def is_meta(study: Any) -> bool:
    """Whether this is a meta-training, without importing what trains it."""
    return type(study).__name__ == "MetaTraining" and hasattr(study, "outer_steps")


def planned(study: MetaTraining, args: argparse.Namespace) -> int:
    """Print what it would take and where it stands."""
    from windtunnel.train.checkpoint import newest_facts

    done = int(newest_facts(_folder(study, args)).get("step", 0))
    steps = study.inner_steps()
    said = {
        "key": study.key, "tasks": [task.name for task in study.tasks], "outer_steps": study.outer_steps,
        "outer_steps_done": done, "inner_steps": steps, "folder": str(_folder(study, args)),
    }  # fmt: skip
    if args.json:
        print_json(said)
    else:
        print(
            f"meta-training {study.key} on {', '.join(said['tasks'])}: {study.outer_steps:,} outer steps, {done:,} done"
        )
        print(f"{steps:,} inner steps in all, {2 * study.pairs} particles a task in truncations of {study.truncation}")
        print(f"checkpoints and weights: {said['folder']}")
    return 0


def executed(study: MetaTraining, args: argparse.Namespace) -> int:
    """Meta-train, or go on; then print where the weights are, and the matrix if the file has one."""
    folder = _folder(study, args)
    open_store(args).begin()
    place = folder / "weights.safetensors"
    with _Shown(study) as shown:
        weights = study.run(folder, report=shown)
    assert weights is not None
    weights.save(place)
    filled = study.judged(weights, args.store) if study.matrix is not None else None
    made = weights.card.made
    if args.json:
        found = {"weights": str(place), "hash": weights.hash, "card": weights.card.to_json()}
        print_json(found | ({"matrix": filled.to_json()} if filled is not None else {}))
        return 0
    print(f"\nmeta-loss at the end: {made['last_meta_loss']:.4f} nats, {made['inner_steps']:,} inner steps")
    if filled is not None:
        print(f"\n{filled}\n")
    print(f"weights: {place} ({weights.hash})")
    return 0


def _folder(study: MetaTraining, args: argparse.Namespace) -> Path:
    if "://" in args.store:
        raise InputError(f"Meta-training keeps its checkpoints in a local folder; --store is {args.store}.")
    return Path(args.store) / "meta" / study.key


class _Shown:
    """Progress on standard error: a bar where somebody looks, else a line now and then."""

    def __init__(self, study: MetaTraining) -> None:
        self.study, self.bar, self.task, self.last = study, None, None, 0.0

    def __enter__(self) -> _Shown:
        if sys.stderr.isatty():
            self.bar = bar(transient=False)
            self.bar.start()
            self.task = self.bar.add_task("meta-training", total=self.study.outer_steps)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
        if kind is KeyboardInterrupt:
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)

    def __call__(self, now: Any) -> None:
        said = f"meta-loss {now.loss:.4f}, {now.inner_steps / max(now.seconds, 1e-9):,.0f} inner steps/s"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=now.step, description=said)
        elif time.monotonic() - self.last > LINE_SECONDS or now.step == now.steps:
            self.last = time.monotonic()
            print(f"{now.step} of {now.steps} outer steps, {said}", file=sys.stderr, flush=True)
