"""Kill a rank of torchrun with SIGKILL at random moments while it trains a target over two processes; compare with a
training that was not disturbed: every recorded number must have the same bits.

torchrun starts all ranks again after a death, and they go on from the newest whole checkpoint. A newcomer would kill
torchrun itself; that is `--kills` of benchmarks/kill.py. Here one of its children dies and nobody types a command.

    python -m benchmarks.kill_torchrun --kills 20 --seed 0
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.kill import differing, environment, numbers

STUDY = '''\
"""Written by benchmarks/kill_torchrun.py."""
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.train.sharded_record import How

How.__init__.__kwdefaults__["checkpoint_seconds"] = 0.2
data = wt.data.text({corpus!r}, context=16, validation=0.2)
base = wt.recipes.transformer_mup_adamw(data=data).but(batch=FixedBatch(examples=4), optimizer=AdamW(lr=0.01))
study = wt.Study(
    name="killed",
    base=base,
    ladder=wt.Ladder.widths((8, 12, 16), depth=1, tokens=1024, head_width=8, seeds=1),
    target=wt.Target(rung=wt.Rung(width=32, depth=2, heads=4, tokens={tokens})),
    judge=wt.Judge(data=data, tokens=256, evaluations=2),
    train_target=True,
)
'''


@dataclass
class Tally:
    """What the kills did. `differences` is empty when every disturbed training ended as the undisturbed one."""

    kills: int = 0
    studies: int = 0
    processes: int = 2
    killed_rank: list[int] = field(default_factory=list)
    resumed_from: list[int] = field(default_factory=list)  # steps of the newest whole checkpoint when a rank was killed
    seconds_undisturbed: float = 0.0
    differences: list[str] = field(default_factory=list)


def torment(folder: Path, *, kills: int, seed: int, corpus: str | None = None, tokens: int = 64 * 300) -> Tally:
    """Kill ranks `kills` times over as many studies as that takes, and say what differed."""
    draw, tally = random.Random(seed), Tally()
    file = folder / "killed_study.py"
    file.write_text(STUDY.format(corpus=corpus, tokens=tokens))
    began = time.monotonic()
    _ended(_start(file, folder / "undisturbed", restarts=0), file)
    tally.seconds_undisturbed = round(time.monotonic() - began, 1)
    truth = numbers(folder / "undisturbed")
    while tally.kills < kills:
        store = folder / f"disturbed-{tally.studies}"
        _disturbed(file, store, draw, tally, min(3, kills - tally.kills))
        tally.studies += 1
        tally.differences += compared(truth, store)
    return tally


def compared(truth: dict[str, Any], store: Path) -> list[str]:
    """How a store differs from the undisturbed numbers."""
    left = [f"{path.name} was left in packs/" for path in (store / "packs").glob("*/")]
    return [f"{store.name}: {what}" for what in differing(truth, store) + left]


def _disturbed(file: Path, store: Path, draw: random.Random, tally: Tally, kills: int) -> None:
    """One study under torchrun, of which a rank is killed up to `kills` times while the target is trained."""
    process, step = _start(file, store, restarts=kills + 1), 0
    for _ in range(kills):
        if not _trains(store, process, step):
            break
        time.sleep(draw.uniform(0.0, 3.0))  # also between checkpoints, and while one is written
        step, rank = _newest(store), draw.randrange(2)
        if step and process.poll() is None and _kill(process.pid, rank):
            tally.kills += 1
            tally.killed_rank.append(rank)
            tally.resumed_from.append(step)
    _ended(process, file)


def _start(file: Path, store: Path, restarts: int) -> subprocess.Popen[bytes]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "windtunnel", "run", str(file), "--on", "torchrun", "--store", str(store)]
    with open(file.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*torchrun, "--max-restarts", str(restarts), *command],
            stdout=log, stderr=log, env=environment() | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def _ended(process: subprocess.Popen[bytes], file: Path) -> None:
    if process.wait(timeout=600):
        raise RuntimeError(
            f"torchrun ended with code {process.returncode}:\n{file.with_suffix('.log').read_text()[-3000:]}"
        )


def _trains(store: Path, process: subprocess.Popen[bytes], step: int) -> bool:
    """Wait for a whole checkpoint of the target after a step; False if the study ended first."""
    while process.poll() is None:
        if _newest(store) > step:
            return True
        time.sleep(0.05)
    return False


def _newest(store: Path) -> int:
    found = [int(path.parent.name.split("-")[1]) for path in (store / "packs").glob("*/sharded-*/manifest.json")]
    return max(found, default=0)


def _kill(torchrun: int, rank: int) -> bool:
    """SIGKILL the child of torchrun that has a rank; False if there is none now."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            own = re.search(rb"(?:^|\0)RANK=(\d+)", (entry / "environ").read_bytes())
        except OSError:
            continue
        if parent == torchrun and own is not None and int(own[1]) == rank:
            os.kill(int(entry.name), signal.SIGKILL)
            return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description="kill ranks of torchrun and compare with an undisturbed training")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = torment(Path(folder), kills=args.kills, seed=args.seed)
    print(common.write("kill_torchrun", {"seed": args.seed, **asdict(tally)}))
    print(
        f"{tally.kills} kills over {tally.studies} studies while the target was trained; {len(tally.differences)} "
        f"differences"
    )
    print("\n".join(tally.differences))
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main())
