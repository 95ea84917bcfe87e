"""Train one pack and record its runs: locked against other processes, resumed from its checkpoint, never silent.

A recipe that cannot be batched is trained member by member by the same loop. An error in a part's code is an Outcome
(the run is recorded as crashed, with the message, and the study goes on). Running out of memory or disk is not a
property of the run: a pack is halved, then a run's step, and what is left that cannot go on stops the study; nothing is
recorded.
"""

from __future__ import annotations

import fcntl
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from windtunnel.errors import InputError, Stopped
from windtunnel.launch.fitting import free_bytes, in_parts
from windtunnel.launch.pieces import Pieces
from windtunnel.meaning import changed_in_memory, identity
from windtunnel.places import NO_LOCKS, Place, writing
from windtunnel.runs import OPEN, Cost, Outcome, Run
from windtunnel.store import Store
from windtunnel.train import checkpoint
from windtunnel.train.loop import Progress, train
from windtunnel.train.memory import is_out_of_memory
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
    packs_at_once: int = 1,
) -> None:
    """Train what the store misses of a pack, in parts where memory cannot hold it beside `packs_at_once` - 1 others.

    Waits while another process of this machine trains the same pack. When `stop` says True, the pack is checkpointed
    and Stopped raised; a wait ends too.
    """

    def train_part(part: Pack) -> None:
        _execute(part, store, device, report, stop)

    if not _recorded(pack, store):
        pieces = Pieces(store, pack, device)
        in_parts(pack, train_part, free=free_bytes(device, packs_at_once), pieces=pieces)


def _execute(pack: Pack, store: Store, device: torch.device, report: Report | None, stop: Stop) -> None:
    with locked(store.packs() / f"{pack.key}.lock", stop=stop):
        if _recorded(pack, store):
            return
        _check_unchanged(pack)
        place = store.flight(pack.key)
        try:
            there = [member for member, spec in enumerate(pack.specs) if spec.key in store]
            runs = _runs(pack, device, place, report, store.moment(), stop, there)
        except OSError:
            if _recorded(pack, store):  # where no lock holds over nodes: another finished it and removed this folder
                return
            raise
        for run in runs:
            store.add(run)
        place.remove()


def spoken(watch: Any) -> Report:
    """What a launcher reports, passed on to a watch: sentences to its `say`, then how far the pack is."""

    def report(progress: Progress) -> None:
        for sentence in progress.said:
            watch.say(sentence)
        watch.progress(progress)

    return report


def _recorded(pack: Pack, store: Store) -> bool:
    return all(spec.key in store for spec in pack.specs)


def _check_unchanged(pack: Pack) -> None:
    """A worker imports what is on disk now; it must be what the runs were asked with."""
    spec = pack.specs[0]
    described, judged = pack.recipe.describe(), pack.judge.describe()
    if _code_of(described) == _code_of(spec.recipe) and judged == dict(spec.judge):
        return
    expected = [*identity(dict(spec.recipe)), *identity(dict(spec.judge))]
    changed = changed_in_memory([*pack.recipe.pieces(), pack.judge.loss, pack.judge.probes], expected)
    if changed is not None:
        named = f", {', '.join(dict.fromkeys(changed))}," if changed else ""
        raise InputError(
            f"A value that a part leans on{named} changed while it was used, so its runs would be recorded under the "
            f"wrong key. Keep what is computed once under functools.cache, or in a name inside the function. Finished "
            f"runs are kept; run again to go on with the value as it is now."
        )
    raise InputError(
        "A part's source or the data changed on disk after this study was started, so its runs would be recorded "
        "under the wrong key. Finished runs are kept; run again to go on with what is on disk now."
    )


def _code_of(described: Any) -> list[str]:
    """What the code and data were; whether a field is still open, as in a spec, or filled, as in a pack, is neither."""
    return [found for found in identity(described) if found != OPEN]


def sweep(store: Store) -> None:
    """Remove what dead processes left: half-written records, and checkpoints of packs whose runs are all recorded."""
    store.sweep()
    for path in store.packs().glob("*.lock"):
        with suppress(BlockingIOError), locked(path, wait=False):
            pass  # nobody holds it: letting go removes it
    packs = store.place.below("packs")
    for name in packs.names():
        if name.startswith(".") or name.endswith(".lock"):  # being written or removed by another process; locked
            continue
        members = _trained_in(packs.below(name))
        if members and all(key in store for key in members):
            with suppress(BlockingIOError), locked(store.packs() / f"{name}.lock", wait=False):
                packs.remove(name)


def _trained_in(place: Place) -> list[str]:
    """The run keys that a pack's folder has checkpoints of, together or alone."""
    below = [name for name in place.names() if name.startswith(("alone-", "stretch-"))]
    return checkpoint.members(place) or [key for name in below for key in _trained_in(place.below(name))]


def _runs(
    pack: Pack,
    device: torch.device,
    place: Place,
    report: Report | None,
    created: str,
    stop: Stop,
    there: Sequence[int],
) -> list[Run]:
    try:
        return train(pack, device=device, folder=place, report=report, created=created, stop=stop, there=there)
    except NOT_THE_RUNS:
        raise
    except Exception as error:  # torch refused to batch something, or the code is wrong: training alone tells which
        if is_out_of_memory(error):
            raise
        because = (str(error).strip().splitlines() or [type(error).__name__])[0]
    left = [i for i in range(len(pack.specs)) if i not in there]
    return [_alone(pack, i, device, place, report, created, stop, because) for i in left]


def _alone(
    pack: Pack,
    member: int,
    device: torch.device,
    place: Place,
    report: Report | None,
    created: str,
    stop: Stop,
    because: str,
) -> Run:
    single = pack.part([member])
    try:
        return train(
            single, device=device, folder=place.below(f"alone-{member}"), report=report, created=created, stop=stop,
            packed=False, alone_because=because,
        )[0]  # fmt: skip
    except NOT_THE_RUNS:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if pack.precision == "float32":
            return _crashed(single, 0, error, device)
        # what only its precision made impossible is no property of the run: its key stands for float32 too
        place = place.below(f"alone-{member}-in-float32")
        return _alone(replace(single, precision="float32"), 0, device, place, report, created, stop, because)


def where_it_failed(error: Exception) -> str:
    """An error in one line, with the last place that is not torch's own: that is where a part's author looks first."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((f for f in reversed(frames) if not f.filename.startswith(_TORCH)), frames[-1])
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"


def _crashed(pack: Pack, member: int, error: Exception, device: torch.device) -> Run:
    return Run(
        key=pack.specs[member].key,
        spec=pack.specs[member],
        outcome=Outcome.CRASHED,
        message=where_it_failed(error),
        loss=None,
        metrics={},
        size=pack.size(),
        cost=Cost(
            flops=0.0,
            seconds=0.0,
            device=device.type,
            threads=torch.get_num_threads(),
            members=len(pack.specs),
            precision=pack.precision,
        ),
        curve={},
        created=datetime.now(UTC).isoformat(),
        versions=versions(),
        labels=dict(pack.labels[member]) if pack.labels else {},
        source=written_sources(pack.recipe_of(member)),
    )


@contextmanager
def locked(path: Path, wait: bool = True, stop: Stop = None) -> Iterator[None]:
    """Hold a lock file; the system releases it when this process ends, however it ends. Where nothing can be locked
    (some network mounts), goes on without.

    Raises BlockingIOError if another process holds it and `wait` is False; Stopped if `stop` says so while it waits.
    """
    while True:
        with writing(str(path), 0):
            opened = open(path, "w")  # noqa: SIM115
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                if stop is not None and stop():
                    raise Stopped from None
                time.sleep(LOCK_SECONDS)
                continue
            except OSError as error:  # a mount without locks: two may train one pack, and the first record stays
                if error.errno not in NO_LOCKS:
                    raise
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # whoever held it removed it while this process waited: lock the new one
            try:
                yield
            finally:
                with suppress(OSError):  # a lock that stays is empty, and is removed by the next sweep
                    path.unlink()
            return
