"""Train one pack and record its runs: locked against other processes, resumed from its checkpoint, never silent.

A recipe that cannot be batched is trained member by member by the same loop. An error in a part's code is an Outcome
(the run is recorded as crashed, with the message, and the study goes on); running out of memory or disk is not a
property of the run, so it stops the study and nothing is recorded.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from windtunnel.errors import InputError, Stopped
from windtunnel.meaning import identity
from windtunnel.runs import Cost, Outcome, Run
from windtunnel.store import Store
from windtunnel.train import checkpoint
from windtunnel.train.loop import Progress, train
from windtunnel.train.pack import Pack
from windtunnel.train.record import versions, written_sources

Report = Callable[[Progress], None]
Stop = Callable[[], bool] | None
LOCK_SECONDS = 0.2  # between two looks at a lock that another process holds (guess)
# Errors of the machine or the question, not of a run: nothing is recorded. An AcceleratorError is a device fault.
_FAULT = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # newer than the oldest torch we allow
NOT_THE_RUNS = (InputError, Stopped, ImportError, MemoryError, OSError, torch.OutOfMemoryError, _FAULT)
_TORCH = str(Path(torch.__file__).parent)


def execute(
    pack: Pack,
    store: Store,
    *,
    device: torch.device,
    report: Report | None = None,
    stop: Stop = None,
) -> None:
    """Train what the store misses of a pack; waits while another process trains the same pack.

    When `stop` says True, the pack is checkpointed and Stopped raised; a wait ends too.
    """
    with _locked(store.packs() / f"{pack.key}.lock", stop):
        if _recorded(pack, store):
            return
        _check_unchanged(pack)
        folder = store.packs() / pack.key
        try:
            runs = _runs(pack, device, folder, report, stop)
        except OSError:
            if _recorded(pack, store):  # where no lock holds over nodes: another finished it and removed this folder
                return
            raise
        for run in runs:
            store.add(run)
        shutil.rmtree(folder, ignore_errors=True)


def _recorded(pack: Pack, store: Store) -> bool:
    return all(spec.key in store for spec in pack.specs)


def _check_unchanged(pack: Pack) -> None:
    """A worker imports what is on disk now; it must be what the runs were asked with."""
    spec = pack.specs[0]
    same = identity(pack.recipe.describe()) == identity(spec.recipe) and pack.judge.describe() == dict(spec.judge)
    if not same:
        raise InputError(
            "A part's source or the data changed on disk after this study was started, so its runs would be recorded "
            "under the wrong key. Finished runs are kept; run again to go on with what is on disk now."
        )


def sweep(store: Store) -> None:
    """Remove what dead processes left: half-written records, and checkpoints of packs whose runs are all recorded."""
    store.sweep()
    for folder in store.packs().glob("*/"):
        found = checkpoint.newest(folder)
        if found is not None and all(key in store for key in found[0]["members"]):
            with _locked(folder.with_suffix(".lock")):
                shutil.rmtree(folder, ignore_errors=True)


def _runs(pack: Pack, device: torch.device, folder: Path, report: Report | None, stop: Stop) -> list[Run]:
    try:
        return train(pack, device=device, folder=folder, report=report, stop=stop)
    except NOT_THE_RUNS:
        raise
    except Exception as error:  # torch refused to batch something, or the code is wrong: training alone tells which
        because = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return [_alone(pack, i, device, folder, report, stop, because) for i in range(len(pack.specs))]


def _alone(
    pack: Pack, member: int, device: torch.device, folder: Path, report: Report | None, stop: Stop, because: str
) -> Run:
    single = replace(pack, specs=(pack.specs[member],), labels=pack.labels[member : member + 1])
    folder = folder / f"alone-{member}"
    try:
        return train(
            single, device=device, folder=folder, report=report, stop=stop, packed=False, alone_because=because
        )[0]
    except NOT_THE_RUNS:
        raise
    except Exception as error:
        return _crashed(single, 0, error, device)


def _crashed(pack: Pack, member: int, error: Exception, device: torch.device) -> Run:
    frames = traceback.extract_tb(error.__traceback__)
    # the last line that is not torch's own: that is where a part's author looks first
    where = next((f for f in reversed(frames) if not f.filename.startswith(_TORCH)), frames[-1])
    return Run(
        key=pack.specs[member].key,
        spec=pack.specs[member],
        outcome=Outcome.CRASHED,
        message=f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})",
        loss=None,
        metrics={},
        size=pack.size(),
        cost=Cost(flops=0.0, seconds=0.0, device=device.type, threads=torch.get_num_threads(), members=len(pack.specs)),
        curve={},
        created=datetime.now(UTC).isoformat(),
        versions=versions(),
        labels=dict(pack.labels[member]) if pack.labels else {},
        source=written_sources(pack.recipe_of(member)),
    )


@contextmanager
def _locked(path: Path, stop: Stop = None) -> Iterator[None]:
    """Hold a lock file; the system releases it when this process ends, however it ends."""
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop is not None and stop():
                    raise Stopped from None
                time.sleep(LOCK_SECONDS)
                continue
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # whoever held it removed it while this process waited: lock the new one
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
