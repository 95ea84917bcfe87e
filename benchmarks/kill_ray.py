"""Kill a study's Ray workers, its cluster's head and the study itself at random moments, and compare it with one that
was left in peace.

All kills are SIGKILL. A worker's death must not be noticed by the user at all; after the head's or the study's own
the same command is given again. The study checkpoints ten times a second, so that kills also land between checkpoints.
Every recorded number must have the same bits, no record may be written twice, and nothing may outlive a study.

    python -m benchmarks.kill_ray --kills 100 --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.common import write
from benchmarks.kill import compared, ended, environment, numbers

STUDY = '''\
"""Written by benchmarks/kill_ray.py."""
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW, Lion
from windtunnel.train import loop

loop.train.__kwdefaults__["checkpoint_seconds"] = 0.1  # workers import this file with the parts below


class Often(AdamW):
    """AdamW, defined here so that workers import this file."""


class OftenLion(Lion):
    """Lion, defined here so that workers import this file."""


def lion(base):
    """Lion in place of AdamW."""
    return base.but(optimizer=OftenLion())


data = wt.data.text({corpus!r}, context=16, validation=0.2)
study = wt.Study(
    name="killed",
    base=wt.recipes.transformer_mup_adamw(data=data).but(batch=FixedBatch(examples=4), optimizer=Often()),
    ideas=[lion],
    ladder=wt.Ladder.widths((8, 12, 16), depth=1, tokens={tokens}, head_width=8, seeds=2),
    target=wt.Target(rung=wt.Rung(width=48, depth=1, heads=6, tokens={tokens})),
    tuning=wt.Tuning(points=3, seeds=1),
    judge=wt.Judge(data=data, tokens=256, evaluations=2),
    train_target=True,
)
'''
# A worker is killed about so often; the head and the study now and then, for starting again takes most of a minute.
SHARES = {"worker": 0.88, "head": 0.06, "study": 0.06}
KILLS_A_STUDY = 15  # then it is left to finish, and compared
MAY_LIVE = 30.0  # seconds in which what a killed study started must be gone (measured: 0.2 to 4)
HEAD_NOTICED = 120.0  # seconds in which a study must end whose head is dead (measured: 23)


@dataclass
class Tally:
    """What the kills did. `differences` is empty when every study ended as the undisturbed one."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SHARES, 0))
    studies: int = 0
    runs: int = 0
    runs_compared: int = 0
    records_checked: int = 0  # found when something was killed, and again at the end
    kills_in_flight: int = 0  # with at least one checkpoint on disk
    gave_up: int = 0  # studies that stopped because five workers in a row were killed before they got anywhere
    seconds: float = 0.0
    seconds_until_head_noticed: list[float] = field(default_factory=list)
    seconds_until_study_gone: list[float] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def torment(
    folder: Path,
    *,
    kills: int,
    seed: int,
    between: float = 10.0,
    corpus: str | None = None,
    tokens: int = 6144,
    keep: bool = False,
) -> Tally:
    """Kill until `kills` is reached, finish, and say what differed. Everything is written under `folder`.

    `between` is the most seconds from one kill to the next: a worker needs 3 to begin to train, 20 where the machine
    is busy; if most kills come earlier than that, studies give up. `corpus` None is the standard library's source; with
    `keep` the result file is written after each study.
    """
    draw, tally, started = random.Random(seed), Tally(), time.monotonic()
    file = folder / "killed_study.py"
    file.write_text(STUDY.format(corpus=corpus, tokens=tokens))
    ended(_start(file, folder / "undisturbed", "here"), file)
    truth = numbers(folder / "undisturbed")
    tally.runs = len(truth)
    while sum(tally.kills.values()) < kills:
        store = folder / f"disturbed-{tally.studies}"
        seen: dict[str, str] = {}
        until = min(kills, sum(tally.kills.values()) + KILLS_A_STUDY)
        while not _once(file, store, draw, tally, until, between, seen):
            pass
        tally.studies += 1
        tally.runs_compared += len(truth)
        tally.records_checked += len(seen)
        tally.differences += compared(truth, store)
        tally.differences += [
            f"{store.name}: {key} was rewritten" for key, is_ in seen.items() if _digests(store)[key] != is_
        ]
        tally.seconds = round(time.monotonic() - started)
        if keep:
            write("kill_ray", {"seed": seed, **asdict(tally)})
    return tally


def _once(
    file: Path, store: Path, draw: random.Random, tally: Tally, until: int, between: float, seen: dict[str, str]
) -> bool:
    """Start the study and kill around in it; whether it came to its end."""
    study = _start(file, store, "ray")
    while True:
        with suppress(subprocess.TimeoutExpired):
            study.wait(draw.uniform(0.2, between))
            if study.returncode == 2 and "workers in a row died" in _last_line(file):
                tally.gave_up += 1
                return False
            ended(study, file)
            return True
        if sum(tally.kills.values()) >= until:
            continue
        what = draw.choices(list(SHARES), list(SHARES.values()))[0]
        below = _below(study.pid)
        victims = {
            "worker": [pid for pid, name in below.items() if name.startswith("ray::windtunnel")],
            "head": [pid for pid, name in below.items() if "gcs_server" in name.split(" ")[0]],
            "study": [study.pid],
        }[what]
        if not victims:
            continue
        seen |= {key: is_ for key, is_ in _digests(store).items() if key not in seen}
        tally.kills_in_flight += any((store / "packs").glob("*/step-*"))
        with suppress(ProcessLookupError):
            os.kill(draw.choice(victims), signal.SIGKILL)
            tally.kills[what] += 1
        if what == "head":
            _head_noticed(study, file, tally)
            return False
        if what == "study":
            study.wait()
            _gone(below, tally)
            return False


def _head_noticed(study: subprocess.Popen[bytes], file: Path, tally: Tally) -> None:
    began = time.monotonic()
    code = study.wait(HEAD_NOTICED)
    tally.seconds_until_head_noticed.append(round(time.monotonic() - began, 2))
    said = _last_line(file)
    if code != 2 or "run again" not in said:
        tally.differences.append(f"after the head's death the study ended with code {code}: {said}")


def _gone(below: dict[int, str], tally: Tally) -> None:
    """Wait until all processes of a killed study are gone."""
    began = time.monotonic()
    while time.monotonic() - began < MAY_LIVE and any(_name(pid) == name for pid, name in below.items()):
        time.sleep(0.05)
    tally.seconds_until_study_gone.append(round(time.monotonic() - began, 2))
    tally.differences += [f"{name} outlived its study" for pid, name in below.items() if _name(pid) == name]


def _start(file: Path, store: Path, on: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "windtunnel",
        "run",
        str(file),
        "--store",
        str(store),
        "--on",
        on,
        "--devices",
        "2",
    ]
    without = {name: value for name, value in environment().items() if name != "RAY_ADDRESS"}
    with open(file.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=without)


def _last_line(file: Path) -> str:
    return file.with_suffix(".log").read_text().strip().splitlines()[-1]


def _digests(store: Path) -> dict[str, str]:
    files = (store / "runs").glob("[0-9a-f]*/run.json")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _below(pid: int) -> dict[int, str]:
    """All processes that descend from one, with their command lines."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new := {child for child, parent in parents.items() if parent in new} - found:
        found |= new
    return {child: _name(child) for child in found if _name(child)}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="kill Ray workers, heads and studies at random moments")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--between", type=float, default=10.0, metavar="SECONDS", help="from kill to kill, at most")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/kill_ray.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = torment(Path(folder), kills=args.kills, seed=args.seed, between=args.between, keep=args.keep)
    print(f"{tally.kills} kills over {tally.studies} studies of {tally.runs} runs, {tally.kills_in_flight} with a pack")
    print(f"in flight; {len(tally.differences)} differences", *tally.differences, sep="\n")
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main())
