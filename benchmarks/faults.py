"""Fail at every single write, fsync, rename, link, mkdir and unlink of the store's protocol, one at a time.

Random kills miss the instant between two acts; here each act of a short job (a store made, records, a forecast, a
check, checkpoints, a pack trained and recorded) is made to fail in turn: the process is killed there, or the disk is
full, or the device errs. After each, nothing may be half there, and the same job run again must end as an undisturbed
one. A write fails in its middle, so torn files are among what is met.

    python -m benchmarks.faults
"""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import windtunnel as wt
from windtunnel import places
from windtunnel.errors import InputError, Paused

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the records and packs of the tests serve here
ACTS = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir", "chmod")
KILLED = 9
Job = Callable[[Path], None]


class Faults:
    """Counts acts under a folder, and at the one of number `at` calls `strike`."""

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        self.at, self.strike, self.count = at, strike, 0
        self.names: list[str] = []

    def met(self, name: str) -> bool:
        """Whether this act is the one."""
        self.names.append(name)
        self.count += 1
        return self.count == self.at + 1


@contextmanager
def faulty(at: int, strike: Callable[[], None]) -> Iterator[Faults]:
    """Every act goes through a counter; `at` -1 strikes never."""
    faults, real_open, real = Faults(at, strike), builtins.open, {name: getattr(os, name) for name in ACTS}

    def act(name: str) -> Any:
        def acting(*args: Any, **options: Any) -> Any:
            if faults.met(name):
                strike()
            return real[name](*args, **options)

        return acting

    def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa"):
            return real_open(file, mode, *args, **options)
        if faults.met("open"):
            strike()
        return _Torn(real_open(file, mode, *args, **options), faults)

    try:
        for name in ACTS:
            setattr(os, name, act(name))
        builtins.open = opening
        yield faults
    finally:
        builtins.open = real_open
        for name in ACTS:
            setattr(os, name, real[name])


class _Torn:
    """A file whose write may fail half-way."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def write(self, data: Any) -> Any:
        if self.faults.met("write"):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.faults.strike()
        return self.file.write(data)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def disk_error(number: int) -> Callable[[], None]:
    """What raises an error of the system, as it does itself: without a path."""

    def strike() -> None:
        raise OSError(number, os.strerror(number))

    return strike


def records(path: Path) -> None:
    """A store is made, and given two records, a forecast and a check."""
    from test_store import forecast, run

    store = wt.Store(path)
    store.add(run())
    store.add(run(1))
    store.add_forecast(forecast())
    store.add_check("coordinates", "k", {"slope": 0.1})


def trained(corpus: Path, steps: int = 2) -> Job:
    """A job that trains a pack of two with a checkpoint after every step, and records it."""
    import tiny

    from windtunnel.launch import one
    from windtunnel.train.loop import train

    pack = tiny.pack(
        tiny.recipe(corpus), [{"lr": 1e-3}, {"lr": 1e-2}], rung=tiny.RUNG.but(tokens=steps * tiny.CONTEXT * tiny.BATCH)
    )

    def job(path: Path) -> None:
        train.__kwdefaults__["checkpoint_seconds"] = -1.0
        store = wt.Store(path)
        one.sweep(store)
        one.execute(pack, store, device=tiny.CPU)

    return job


def state(path: Path) -> dict[str, str]:
    """All that a store holds, read whole, as text: fails if anything in it is half there."""
    from tiny import numbers

    store = wt.Store(path)
    found: dict[str, Any] = {run.key: numbers(run) for run in store.runs()}
    found |= {forecast["key"]: forecast["loss"] for forecast in store.forecasts()}
    checks = {"check": kept} if (kept := store.check("coordinates", "k")) else {}
    return {name: repr(value) for name, value in (found | checks).items()}  # as text, for NaN is not NaN


def litter(path: Path) -> list[str]:
    """Hidden things that a sweep leaves, and whatever is left of packs."""
    store = wt.Store(path)
    store.sweep()
    left = [str(p.relative_to(path)) for p in path.rglob("*") if p.name.startswith(".")]
    return left + store.place.names("packs")


def count(job: Job, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The acts of an undisturbed job, and what it leaves."""
    job(folder / "first")  # what is made once and kept for ever, as the tokens of a corpus, is no act of the protocol
    for name in ("first", "undisturbed"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with faulty(-1, lambda: None) as faults:
        job(folder / "undisturbed")
    return faults.names, state(folder / "undisturbed")


def killed_at(job: Job, folder: Path, at: int) -> bool:
    """Run a job in a child that dies at an act; whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this process has threads, and the child uses none of them
        child = os.fork()
    if child == 0:
        with faulty(at, lambda: os._exit(KILLED)):
            try:
                job(folder)
            except BaseException:
                os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, KILLED):
        raise RuntimeError(f"the job failed at act {at} with code {code}")
    return code == KILLED


def kills(job: Job, folder: Path, every: int = 1) -> dict[str, Any]:
    """Kill at each act in turn and run again; what differed."""
    names, truth = count(job, folder)
    wrong: list[str] = []
    points = range(0, len(names), every)
    for at in points:
        store = folder / f"killed-{at}"
        if not killed_at(job, store, at):
            wrong.append(f"act {at} ({names[at]}) was not reached")
        wrong += _recovers(job, store, truth, f"killed at act {at} ({names[at]})")
    return {"acts": len(names), "struck": len(points), "by act": _tally(names), "wrong": wrong}


def errors(job: Job, folder: Path, number: int, every: int = 1) -> dict[str, Any]:
    """Let the system refuse each act in turn: one sentence with the path, or the job goes on; then run again."""
    names, truth = count(job, folder)
    wrong: list[str] = []
    said, points = [], range(0, len(names), every)
    for at in points:
        store = folder / f"refused-{at}"
        try:
            with faulty(at, disk_error(number)):
                job(store)
        except InputError as error:
            said.append(str(error))
            if str(folder) not in said[-1] or (number == errno.ENOSPC and "(needs " not in said[-1]):
                wrong.append(f"act {at} ({names[at]}) said {said[-1]!r}")
            if isinstance(error, Paused) != (number == errno.ENOSPC):  # exit code 4 instead of 2
                wrong.append(f"act {at} ({names[at]}) raised {type(error).__name__}")
        except OSError as error:
            wrong.append(f"act {at} ({names[at]}) raised {error!r}")
        wrong += _recovers(job, store, truth, f"refused at act {at} ({names[at]})")
    return {"acts": len(names), "struck": len(points), "stopped with a sentence": len(said), "wrong": wrong,
            "for example": said[len(said) // 2] if said else None}  # fmt: skip


def _recovers(job: Job, store: Path, truth: dict[str, str], when: str) -> list[str]:
    try:
        half = state(store) if store.exists() else {}
        unlike = [key for key, value in half.items() if truth.get(key) != value]
        job(store)
        whole, left = state(store), litter(store)
    except Exception as error:  # whatever it is, it is what this looks for
        return [f"{when}: {error!r}"]
    finally:
        shutil.rmtree(store, ignore_errors=True)
    wrong = [f"{when}: {key} differs" for key in unlike]
    return (
        wrong + ([] if whole == truth else [f"{when}: ends differently"]) + [f"{when}: {name} is left" for name in left]
    )


def _tally(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}


def main() -> int:
    from tiny import write_corpus

    from benchmarks.common import write

    places._UNLOCKED_AT_MOST = -1.0  # nothing here is so young that its writer may still lock it
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        jobs = {"records": records, "pack": trained(write_corpus(folder / "corpus"))}
        for what, job in jobs.items():
            result[f"{what}, killed"] = kills(job, folder)
            result[f"{what}, disk full"] = errors(job, folder, errno.ENOSPC)
            result[f"{what}, device error"] = errors(job, folder, errno.EIO)
    for what, found in result.items():
        print(f"{what}: {found['struck']} points, {len(found['wrong'])} wrong")
        print("\n".join(f"  {line}" for line in found["wrong"][:10]))
    write("faults", result)
    return 1 if any(found["wrong"] for found in result.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
