"""Kill a study, or one of its workers, with SIGKILL at random moments, and compare it with an undisturbed one.

A study that is killed is run again, and its workers must notice by themselves; a worker that is killed must be replaced
while the study goes on. The study checkpoints ten times a second, so that kills also land inside checkpoints. A
newcomer would compare losses within a tolerance; here every recorded number must have the same bits.

    python -m benchmarks.kill --kills 330 --seed 0 --out round.json    # benchmarks/results/kill.json holds some rounds
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import windtunnel as wt

# A worker polls nothing: it blocks on its pipe and leaves when that closes, so this is generous even on a busy machine.
WORKERS_MAY_LIVE = 20.0

STUDY = '''\
"""Written by benchmarks/kill.py."""
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import Lion
from windtunnel.train import loop

loop.train.__kwdefaults__["checkpoint_seconds"] = 0.1  # workers import this file with the part below


class OftenSaved(Lion):
    """Lion, defined here so that workers import this file."""


def lion(base):
    """Lion in place of AdamW."""
    return base.but(optimizer=OftenSaved())


data = wt.data.text({corpus!r}, context=16, validation=0.2)
study = wt.Study(
    name="killed",
    base=wt.recipes.transformer_mup_adamw(data=data).but(batch=FixedBatch(examples=4)),
    ideas=[lion],
    ladder=wt.Ladder.widths({widths}, depth=1, tokens={tokens}, head_width=8, seeds=2),
    target=wt.Target(rung=wt.Rung(width=48, depth=1, heads=6, tokens={tokens})),
    tuning=wt.Tuning(points=3, seeds=1),
    judge=wt.Judge(data=data, tokens=256, evaluations=2),
    train_target=True,
    half_width={half_width},
)
'''
WIDTHS, TO_BUY = (8, 12, 16), (8, 12, 16, 24, 32, 40)  # of a ladder; of one that is bought size by size


NO_LOCKS = """
from benchmarks.crowd import without_locks

without_locks()  # in the study's process and, for they import this file, in its workers
"""


@dataclass
class Tally:
    """What the kills did. `differences` is empty when every killed study ended as the undisturbed one."""

    kills: int = 0
    of_studies: int = 0
    of_workers: int = 0
    studies: int = 0
    runs: int = 0
    seconds_undisturbed: float = 0.0
    with_a_checkpoint: int = 0  # kills while a pack in flight had one
    inside_a_write: int = 0  # kills that left a record or checkpoint half-written
    after_records: list[int] = field(default_factory=list)  # runs recorded when a study was killed
    given_up: int = 0  # times that a study stopped with its sentence after three deaths of workers on one pack
    workers_seen: int = 0
    workers_left: int = 0
    differences: list[str] = field(default_factory=list)


def torment(
    folder: Path,
    *,
    kills: int,
    seed: int,
    corpus: str | None = None,
    tokens: int = 3072,
    locks: bool = True,
    half_width: float | None = None,
    told: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Kill a study `kills` times and say what differed; a study that ends too soon for a kill is followed by another.

    `corpus` None is the standard library's source; `locks` False lets every lock be refused, as some network mounts do,
    where the hidden rests of dead processes stay. With a `half_width` the study buys a longer ladder size by size.
    Everything is written under `folder`; `told` hears of each study.
    """
    draw, tally = random.Random(seed), Tally()
    file = folder / "killed_study.py"
    file.write_text(study_text(corpus, tokens, half_width) + ("" if locks else NO_LOCKS))
    started = time.monotonic()
    _to_the_end(file, folder / "undisturbed", devices=1)
    tally.seconds_undisturbed = time.monotonic() - started
    truth = numbers(folder / "undisturbed")
    tally.runs = len(truth)
    while tally.kills < kills:
        store = folder / f"disturbed-{tally.studies}"
        while tally.kills < kills and _killed(file, store, draw, tally, kills):
            pass
        _to_the_end(file, store, devices=draw.choice((1, 2)))
        tally.studies += 1
        tally.differences += compared(truth, store) if locks else differing(truth, store)
        told(tally)
    return tally


def study_text(corpus: str | None, tokens: int, half_width: float | None = None) -> str:
    """The study's file."""
    widths = WIDTHS if half_width is None else TO_BUY
    return STUDY.format(corpus=corpus, tokens=tokens, half_width=half_width, widths=widths)


def numbers(store: Path) -> dict[str, Any]:
    """Key to every number that a run's training decided."""
    found = {}
    for run in wt.Store(store).runs():
        curve = {name: values.tobytes().hex() for name, values in run.curve.items()}
        found[run.key] = [str(run.outcome), run.loss, dict(run.metrics), curve]
    return found


def differing(truth: dict[str, Any], store: Path) -> list[str]:
    """How the runs of a store differ from the undisturbed numbers."""
    found = numbers(store)
    wrong = [f"{key} is missing" for key in truth.keys() - found.keys()]
    wrong += [f"{key} is not in the undisturbed study" for key in found.keys() - truth.keys()]
    return wrong + [f"{key} has other numbers" for key in truth.keys() & found.keys() if truth[key] != found[key]]


def compared(truth: dict[str, Any], store: Path) -> list[str]:
    """How a store differs from the undisturbed numbers, and what half-written things lie in it."""
    wrong = differing(truth, store)
    wrong += [f"{path.name} was left in {path.parent.name}/" for path in _hidden(store)]
    wrong += [f"{path.name} was left of a pack" for path in (store / "packs").glob("*")]
    forecasts = wt.Store(store).forecasts()
    if len(forecasts) != 2:
        wrong.append(f"{len(forecasts)} forecasts instead of 2")
    return [f"{store.name}: {what}" for what in wrong]


def _hidden(store: Path) -> list[Path]:
    folders = [store, *(store / name for name in ("runs", "checks", "forecasts", "packs")), *store.glob("packs/*/")]
    return [path for folder in folders for path in folder.glob(".*")]


def _start(file: Path, store: Path, devices: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "windtunnel", "run", str(file), "--store", str(store), "--devices", str(devices)]
    with open(file.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment())


def environment() -> dict[str, str]:
    """This process's environment, in which windtunnel is imported from where it is imported here."""
    here = str(Path(wt.__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}


def _to_the_end(file: Path, store: Path, devices: int) -> None:
    ended(_start(file, store, devices), file)


def ended(study: subprocess.Popen[bytes], file: Path) -> None:
    """Wait for a study's end. Raises RuntimeError, with the last of its log, where that is not a good one."""
    code = study.wait()
    if code not in (0, 3):  # 3: done, though a forecast fails its own backtest; the study here is far too small for one
        raise RuntimeError(f"the study ended with code {code}:\n{file.with_suffix('.log').read_text()[-2000:]}")


def _killed(file: Path, store: Path, draw: random.Random, tally: Tally, kills: int) -> bool:
    """Start the study and kill workers and at last the study at random moments; False if it ended by itself."""
    process = _start(file, store, devices=draw.choice((1, 2, 2)))
    moment = draw.uniform(0.1, 0.6) * tally.seconds_undisturbed
    while True:
        try:
            code = process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            pass
        else:
            return _gave_up(code, file, tally)
        workers = _children(process.pid)
        last = not workers or draw.random() < 0.4 or tally.kills + 1 >= kills
        victim = process.pid if last else draw.choice(sorted(workers))
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        tally.kills += 1
        tally.inside_a_write += bool(_hidden(store))
        tally.with_a_checkpoint += any(store.glob("packs/*/step-*"))
        if last:
            process.wait()
            tally.of_studies += 1
            tally.after_records.append(len(list((store / "runs").glob("[0-9a-f]*"))))
            tally.workers_seen += len(workers)
            tally.workers_left += len(_outlived(workers))
            return True
        tally.of_workers += 1
        moment = draw.uniform(0.5, 4.0)


def _gave_up(code: int, file: Path, tally: Tally) -> bool:
    """Whether a study that ended has more to do: it stops with a sentence when workers die again and again."""
    if code in (0, 3):
        return False
    if code == 2 and "3 times" in file.with_suffix(".log").read_text()[-600:]:
        tally.given_up += 1
        return True
    raise RuntimeError(f"the study ended with code {code}:\n{file.with_suffix('.log').read_text()[-2000:]}")


def _children(pid: int) -> dict[int, str]:
    """Processes started by a process, with their starting times (a number may be used again)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        facts = _facts(int(entry.name))
        if facts is not None and facts[0] == pid:
            found[int(entry.name)] = facts[1]
    return found


def _facts(pid: int) -> tuple[int, str] | None:
    """Parent and starting time of a process that is not a zombie, None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[1]), fields[19])


def _outlived(workers: dict[int, str]) -> list[int]:
    """Workers that are still there after a while."""
    deadline = time.monotonic() + WORKERS_MAY_LIVE
    left = list(workers)
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if (facts := _facts(pid)) is not None and facts[1] == workers[pid]]
        time.sleep(0.05)
    return left


def main() -> int:
    parser = argparse.ArgumentParser(
        description="kill a study at random moments and compare it with an undisturbed one"
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", help="folder of text to train on (default: the standard library's source)")
    parser.add_argument("--no-locks", action="store_true", help="as on a network mount without a lock service")
    parser.add_argument("--half-width", type=float, help="of a study that buys a longer ladder size by size")
    parser.add_argument("--out", metavar="RESULT.json", help="where the counts are written")
    args = parser.parse_args()

    def keep(tally: Tally) -> None:
        if args.out:
            Path(args.out).write_text(json.dumps({"seed": args.seed, **asdict(tally)}, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        tally = torment(
            Path(folder), kills=args.kills, seed=args.seed, corpus=args.corpus, locks=not args.no_locks,
            half_width=args.half_width, told=keep,
        )  # fmt: skip
    print(
        f"{tally.kills} kills ({tally.of_workers} of workers) over {tally.studies} studies of {tally.runs} runs, "
        f"{tally.with_a_checkpoint} with a checkpoint, {tally.inside_a_write} inside a write; {tally.workers_left} of "
        f"{tally.workers_seen} workers outlived their study; {len(tally.differences)} differences"
    )
    print("\n".join(tally.differences))
    return 1 if tally.differences or tally.workers_left else 0


if __name__ == "__main__":
    sys.exit(main())
