"""All processes of one torchrun as one place to train: a large model over all of them, small packs one by one in turn.

Process 0 alone runs the study, asks the store and writes the record; the others do what it says. A newcomer would run
the study on every process: each then reads the store at another moment, asks for other packs, and they wait for one
another for ever. What is killed or runs out of memory ends the process; torchrun starts all of them again and they go
on from the newest whole checkpoint.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from windtunnel.errors import InputError, Stopped
from windtunnel.launch.errand import shared_folder
from windtunnel.launch.leave import asked_to_leave
from windtunnel.launch.one import NOT_THE_RUNS, Report, _check_unchanged, _crashed, execute, locked, sweep
from windtunnel.launch.own_torchrun import Again
from windtunnel.launch.pieces import Pieces
from windtunnel.launch.sent import pickled
from windtunnel.launch.width import most_rows
from windtunnel.runs import Run
from windtunnel.store import Store
from windtunnel.train import sharded_checkpoint
from windtunnel.train.memory import is_out_of_memory
from windtunnel.train.pack import Pack
from windtunnel.train.ranks import Ranks, joined
from windtunnel.train.sharded import train_sharded
from windtunnel.train.sharded_record import How

Answer = TypeVar("Answer")
# Weights, gradients and two moments in float32, and as much again for activations: a model that needs more than a
# device has is trained over all of them even if it is no target (guess).
BYTES_A_PARAMETER = 32
TOGETHER = 20.0  # seconds apart that processes may be which fail at the same operation (guess)


@dataclass(frozen=True, kw_only=True)
class Torchrun:
    """A launcher for process 0 of `ranks`; the others must be serving it (`led`)."""

    ranks: Ranks
    how: How = field(default_factory=How)

    def __call__(
        self,
        packs: Sequence[Pack],
        store: Store,
        report: Report | None = None,
        finished: Callable[[Pack], None] | None = None,
    ) -> None:
        """Train and record all packs; `report` hears of the steps of this process, `finished` of every pack."""
        shared_folder(store)
        sweep(store)
        _sweep(store)
        small = [pack for pack in packs if not over_all(pack, self.ranks.device)]
        if small:
            self._say("turns", small, store)
            _in_turn(self.ranks, small, store, report, finished)
        for pack in packs:
            if pack not in small:
                for member in range(len(pack.specs)):
                    self._train(pack.part([member]), store, report)
                if finished is not None:
                    finished(pack)

    def pack_rows(self, asked: int, store: Store, params: int) -> int:
        """Most rows of a pack, of so many of one shape that are asked."""
        return most_rows(asked, self.ranks.world if self.ranks.device.type == "cuda" else 0)

    def _train(self, pack: Pack, store: Store, report: Report | None) -> None:
        key = pack.specs[0].key
        with locked(store.packs() / f"{pack.key}.lock"):
            if key in store:
                return
            self._say("whole", pack, store, self.how)
            run = _whole(self.ranks, pack, store, self.how, report)
            assert run is not None, "process 0 has the run"
            store.add(run)
            shutil.rmtree(store.packs() / pack.key, ignore_errors=True)

    def _say(self, what: str, *about: Any) -> None:
        self.ranks.told(pickled((what, about)))


def led(main: Callable[[Torchrun], Answer], how: How | None = None) -> Answer | None:
    """Process 0 runs `main` with a launcher and gets its answer; the others train what it asks and get None.

    Call it in every process that torchrun started. Raises what `main` raises, in process 0.
    """
    with joined() as ranks:
        if ranks.rank:
            _serve(ranks)
            return None
        launcher = Torchrun(ranks=ranks, how=how or How())
        answer = main(launcher)
        launcher._say("stop")  # not after an error: the others may be inside a training, and torchrun ends them
        return answer


def over_all(pack: Pack, device: torch.device) -> bool:
    """Whether a pack's runs are trained one at a time over all processes: a target, or one too large for a device."""
    if pack.labels and all(labels["stage"] == "target" for labels in pack.labels):
        return True
    if device.type != "cuda":
        return False
    return pack.size().total * BYTES_A_PARAMETER > torch.cuda.get_device_properties(device).total_memory


def _serve(ranks: Ranks) -> None:
    """Do what process 0 says until it says stop, or is gone; why it went, it says itself."""
    while True:
        try:
            what, about = pickle.loads(ranks.told())  # written by process 0 of this very torchrun
        except RuntimeError as error:
            raise SystemExit(1) from error
        if what == "stop":
            return
        try:
            _in_turn(ranks, *about) if what == "turns" else _whole(ranks, *about)
        except Stopped as error:
            raise SystemExit(1) from error


def _in_turn(
    ranks: Ranks,
    packs: Sequence[Pack],
    store: Store,
    report: Report | None = None,
    finished: Callable[[Pack], None] | None = None,
) -> None:
    """Every process takes the next pack that none has taken; raises in process 0 what stopped any of them."""
    rounds = ranks.told(os.urandom(8).hex())
    done, stopped = set(), None
    try:
        with asked_to_leave() as stop:
            while (index := _store().add(f"turn {rounds}", 1) - 1) < len(packs):
                execute(packs[index], store, device=ranks.device, report=report, stop=stop)
                done.add(index)
                if finished is not None:
                    finished(packs[index])
    except (InputError, Stopped) as error:
        stopped = error
    except Exception:
        stopped = RuntimeError(traceback.format_exc())
    for error in ranks.heard(stopped):
        if error is not None and ranks.rank == 0:
            raise error
    for index in set(range(len(packs))) - done:
        if finished is not None:
            finished(packs[index])


def _whole(ranks: Ranks, pack: Pack, store: Store, how: How, report: Report | None = None) -> Run | None:
    """Train one run over all processes; the Run in process 0, which may be that of a crash."""
    folder = store.packs() / pack.key
    pieces = Pieces(store, pack, ranks.device, ranks.world)
    pack = replace(pack, pieces=ranks.told(pieces.known()))  # what another reads may be older
    with asked_to_leave() as stop:
        try:
            _check_unchanged(pack)
            _check_shared(ranks, folder)
            created = store.moment() if ranks.rank == 0 else None
            return train_sharded(pack, ranks, how, folder=folder, report=report, created=created, stop=stop)
        except Stopped:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                more = pieces.more(pack.pieces)
                # this process has left the others inside a collective, and cannot try again by itself
                raise Again(
                    f"Memory ran out with {-(-pieces.share // pack.pieces)} examples at a time on each process; half "
                    f"as many are taken from now on ({pieces.remember(more)} pieces), for the same step. torchrun "
                    f"with --max-restarts goes on by itself; else run again."
                ) from error
            if not _all_failed(ranks, pack, stop):
                if stop():
                    raise Stopped from error  # torchrun ends this process because of another one, which says why
                raise  # one process alone, or the others after it died: torchrun starts all of them again
            if ranks.rank:
                return None
            if isinstance(error, NOT_THE_RUNS):
                raise
            return _crashed(pack, 0, error, ranks.device)


def _check_shared(ranks: Ranks, folder: Path) -> None:
    """Raise InputError unless what process 0 writes is seen by all: a checkpoint has files of every process."""
    mark = folder / f".seen-{ranks.told(os.urandom(8).hex())}"
    if ranks.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    ranks.told()
    seen = all(ranks.heard(mark.exists()))
    if ranks.rank == 0:
        mark.unlink()
    if not seen:
        raise InputError(
            f"Not all processes see {folder}, where checkpoints of a run over many devices lie; over several nodes "
            f"give --store a folder that all of them share."
        )


def _all_failed(ranks: Ranks, pack: Pack, stop: Callable[[], bool]) -> bool:
    """Whether all processes came here: then the run's own code is wrong, and they are still in step."""
    attempt = [f"failed {pack.key} {rank}" for rank in range(ranks.world)]
    _store().set(attempt[ranks.rank], "yes")
    deadline = time.monotonic() + TOGETHER
    while not stop() and time.monotonic() < deadline:
        if _store().check(attempt):
            return True
        time.sleep(0.05)
    return False


def _store() -> Any:
    """What the processes of this start share, a small table of texts; it works where a collective would wait."""
    return dist.distributed_c10d._get_default_store()


def _sweep(store: Store) -> None:
    """Remove checkpoints of runs that are recorded, left by a process that died between the two."""
    for folder in {path.parent for path in store.packs().glob("*/sharded-*/")}:
        members = [_member(path) for path in folder.glob("sharded-*/")]
        if any(member in store for member in members if member):
            shutil.rmtree(folder, ignore_errors=True)


def _member(path: Path) -> str | None:
    try:
        return str(json.loads((path / sharded_checkpoint.MANIFEST).read_text("utf-8"))["member"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
