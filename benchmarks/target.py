"""The loop of one large target: tokens a second, and the share of the measured matrix-product rate that training uses.

On a GPU a decoder of 300M parameters in bfloat16; without one a tiny decoder in float32, which prints the same figures
and says nothing of a GPU. Every step is timed with its data, update and the logging of its loss. A newcomer would count
a data sheet's peak or leave out the slow first steps without saying so: here the peak is measured, and the first steps
(kernels chosen, blocks compiled) are given apart.

    torchrun --nproc-per-node N -m benchmarks.target [--steps 30] [--plain] [--compiled]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import windtunnel as wt
from benchmarks import common
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import DataShape, Judge
from windtunnel.runs import RunSpec
from windtunnel.train.pack import Pack
from windtunnel.train.ranks import Ranks, joined, launched
from windtunnel.train.sharded import ShardedEngine
from windtunnel.train.sharded_checkpoint import Saver
from windtunnel.train.sharded_record import How

WARM = 5  # steps that are not in the rate


@dataclass(frozen=True)
class Noise:
    """Random tokens: what is timed does not depend on them."""

    classes: int
    context: int
    repeat: bool = True

    def shape(self) -> DataShape:
        return DataShape(
            classes=self.classes, tokens_per_example=self.context, train_tokens=10**12, example_shape=(self.context,)
        )

    def fingerprint(self) -> str:
        return f"noise {self.classes} {self.context}"

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = np.random.default_rng((seed, step)).integers(self.classes, size=(size, self.context + 1))
        return drawn[:, :-1], drawn[:, 1:]

    def held_out(self, *, size: int, tokens: int) -> Any:
        yield self.batch(seed=10**6, step=0, size=1)


def asked(large: bool, steps: int, batch: int) -> Pack:
    """The run whose loop is timed: GPT-3's medium size with a vocabulary of 32k, or a tiny one."""
    data = Noise(32768, 2048) if large else Noise(256, 64)
    size: dict[str, int] = {"width": 1024, "depth": 20, "heads": 8} if large else {"width": 64, "depth": 2, "heads": 4}
    rung = wt.Rung(**size, tokens=steps * batch * data.context, batch=batch)
    base = rung.but(width=rung.width // 4, heads=rung.heads // 4)
    recipe = wt.recipes.transformer_mup_adamw(data=data).but(optimizer=AdamW(lr=1e-3), batch=FixedBatch(examples=batch))
    judge = Judge(data=data, tokens=data.context, evaluations=1)
    spec = RunSpec(
        recipe=recipe.describe(), rung=rung, hyperparameters={}, seed=0, judge=judge.describe(), base_rung=base
    )
    return Pack(recipe=recipe, specs=(spec,), judge=judge)


def timed(pack: Pack, ranks: Ranks, how: How, steps: int) -> dict[str, Any]:
    """Seconds of every step, and what follows from their median."""
    began = time.perf_counter()
    engine = ShardedEngine(pack, ranks, how)
    built, curves, seconds = time.perf_counter() - began, engine.resumed(None), []
    for _ in range(steps):
        began = time.perf_counter()
        engine.advance(curves)  # ends with the loss on the host, so the device is done with the step before
        seconds.append(time.perf_counter() - began)
    step = statistics.median(seconds[WARM:])
    flops = engine.size.training_flops(engine.tokens_per_step) / step
    return {
        "params": engine.size.total, "tokens_a_step": engine.tokens_per_step, "precision": pack.precision,
        "compiled": how.compiled, "pieces": how.pieces, "processes": ranks.world, "seconds_to_build": round(built, 2),
        "seconds_of_first_steps": [round(s, 3) for s in seconds[:WARM]], "seconds_a_step": step,
        "n": len(seconds[WARM:]), "tokens_a_second": engine.tokens_per_step / step, "flops_a_second": flops,
        "measured_peak": engine.peak, "share_of_measured_peak": flops / (engine.peak * ranks.world),
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if ranks.device.type == "cuda" else None,
        "last_loss": curves.train_loss[-1], "checkpoint": checkpointed(engine, ranks),
    }  # fmt: skip


def checkpointed(engine: ShardedEngine, ranks: Ranks) -> dict[str, float]:
    """What one checkpoint costs: how long training stands still for it, and how long it is written beside."""
    with tempfile.TemporaryDirectory() as mine:
        folder = Path(ranks.told(mine))
        saver = Saver(folder, ranks, 0.0)
        for step in range(3):  # the last one is told: the first makes what is made once
            began = time.perf_counter()
            saver.start(step, engine.update.tensors(), {})
            stopped = time.perf_counter() - began
            saver.finish()
            written = time.perf_counter() - began
        ranks.told()
        size = sum(path.stat().st_size for path in folder.glob("*-000000002-*/*"))
        ranks.told()
    return {"seconds_stopped": stopped, "seconds_until_written": written, "gib": size / 2**30}


def main() -> None:
    parser = argparse.ArgumentParser(description="time the loop of one large target")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, help="examples a step (GPU: 32 of 2048 tokens; CPU: 8 of 64)")
    parser.add_argument("--pieces", type=int, help="parts that a process cuts its share into (GPU: 2, CPU: 1)")
    parser.add_argument("--plain", action="store_true", help="float32 on a GPU too")
    parser.add_argument("--compiled", action="store_true", help="compile each block")
    parser.add_argument("--out", default="target", help="name of the result file")
    args = parser.parse_args()
    if not launched():
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    with joined() as ranks:
        large = ranks.device.type == "cuda"
        precision, pieces = "bfloat16" if large and not args.plain else "float32", args.pieces or (2 if large else 1)
        how = How(pieces=pieces, compiled=args.compiled)
        pack = replace(asked(large, args.steps, args.batch or (32 if large else 8)), precision=precision)
        found = timed(pack, ranks, how, args.steps)
        if ranks.rank == 0:
            found["device"] = torch.cuda.get_device_name() if large else "cpu"
            print(common.write(args.out, {"target": found}))
            print("\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
