"""Checkpoints of one model spread over many processes: torch.distributed.checkpoint's safetensors, whole or not at all.

Each is a folder of its own that is never written twice; a manifest with the SHA-256 of every file is written last, by
rename, so a folder without one was interrupted. The newest whole one is used, by any number of processes; a damaged one
is named and skipped. A newcomer would take the default storage: its index is a pickle, which runs a stranger's code,
and a save over an existing folder that is killed half-way loads a mixture of two steps without an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException  # no Exception: `except Exception` lets it through

from windtunnel.errors import InputError
from windtunnel.train.ranks import Ranks

KEPT = 2
MANIFEST = "manifest.json"
# Saving may stop training for at most this share of the time (guess); the rest of the work is done beside it.
SHARE = 0.05
_LARGEST_MANIFEST = 1 << 28  # bytes: curves of millions of steps; more is no manifest of ours


class Saver:
    """Writes checkpoints beside training, at most one at a time; every process calls `start` at the same steps."""

    def __init__(self, folder: Path, ranks: Ranks, seconds: float) -> None:
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.save, self.storage = async_save, _storage()  # imported before anything is timed
        self.folder, self.ranks, self.seconds = folder, ranks, seconds
        self.session: str = ranks.told(secrets.token_hex(4) if ranks.rank == 0 else None)
        self.last, self.blocked = time.monotonic(), 0.0
        self.thread: threading.Thread | None = None

    def due(self) -> bool:
        """Whether it is time for another one and none is being written."""
        waited = time.monotonic() - self.last
        return not self._busy() and waited > max(self.seconds, self.blocked / SHARE)

    def start(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Copy the tensors and write them while training goes on."""
        began = time.monotonic()
        self.finish()
        path = self.folder / f"sharded-{step:09d}-{self.session}"
        path.mkdir(parents=True, exist_ok=True)
        future = self.save(
            {name: _apart(tensor) for name, tensor in tensors.items()},
            storage_writer=self.storage.HuggingFaceStorageWriter(str(path), save_distributed=True),
            process_group=self.ranks.saving,
        )
        facts = {"step": step, "world": self.ranks.world, **facts}
        self.thread = threading.Thread(target=self._finished, args=(future, path, facts), daemon=True)
        self.thread.start()
        self.last = time.monotonic()
        self.blocked = self.last - began

    def finish(self) -> None:
        """Wait for what is being written."""
        if self.thread is not None:
            self.thread.join()

    def _busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def _finished(self, future: Any, path: Path, facts: Mapping[str, Any]) -> None:
        try:
            _result(future)
            if self.ranks.rank == 0:
                seal(path, facts)
                _drop_old(self.folder)
        except (Exception, CheckpointException) as error:  # a full disk must not stop what could still finish
            shutil.rmtree(path, ignore_errors=True)
            warnings.warn(
                f"The checkpoint {path.name} was not written ({_said(error)}); training goes on.", stacklevel=1
            )


def _apart(tensor: Tensor) -> Tensor:
    """A tensor that the next step does not write into; what lies on a device is copied from there by `async_save`."""
    return tensor.clone() if tensor.device.type == "cpu" else tensor


def seal(path: Path, facts: Mapping[str, Any]) -> None:
    """Flush a folder's files and write its manifest, last and by rename."""
    files = {name: _digest(path / name, flush=True) for name in sorted(os.listdir(path))}
    temporary = path / f".{MANIFEST}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"files": files, **facts}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / MANIFEST)
    for folder in (path, path.parent):
        number = os.open(folder, os.O_RDONLY)
        os.fsync(number)
        os.close(number)


def newest(folder: Path, member: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of the run `member`, with its facts; warns of each damaged one that is skipped."""
    for path in _steps(folder):
        if not (path / MANIFEST).is_file():
            continue  # interrupted while it was written
        try:
            return path, _checked(path, member)
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            warnings.warn(f"The checkpoint {path} is damaged ({error}) and was skipped.", stacklevel=2)
    return None


def load(path: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Fill tensors in place from a checkpoint of any number of processes; raises InputError where it does not fit."""
    from torch.distributed.checkpoint.state_dict_loader import load as load_tensors

    try:
        reader = _storage().HuggingFaceStorageReader(str(path))
        load_tensors(dict(tensors), storage_reader=reader, process_group=ranks.saving)
    except (Exception, CheckpointException) as error:
        raise InputError(
            f"The checkpoint {path} cannot be read into this run ({_said(error)}). Remove that folder and run again."
        ) from error


def _said(error: BaseException) -> str:
    """The last line of what an error says; of one that holds those of several processes, the first of theirs."""
    found = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
    return (str(found).strip().splitlines() or [type(found).__name__])[-1]


def _storage() -> Any:
    """torch's safetensors storage. Raises InputError where torch is older than it."""
    try:
        from torch.distributed.checkpoint import hf_storage
    except ImportError:
        raise InputError(
            "Checkpoints over many devices need torch's safetensors storage: install torch 2.9 or newer."
        ) from None
    return hf_storage


def _checked(path: Path, member: str) -> dict[str, Any]:
    """The facts of a manifest that fits its folder; what Python raises on nonsense otherwise."""
    if (path / MANIFEST).stat().st_size > _LARGEST_MANIFEST:
        raise ValueError("its manifest is too large")
    facts = json.loads((path / MANIFEST).read_text("utf-8"))
    files = set(os.listdir(path)) - {MANIFEST}
    if set(facts["files"]) != files or not files:
        raise ValueError("files are missing or do not belong to it")
    for name, digest in facts["files"].items():
        if (path / name).is_symlink() or _digest(path / name) != digest:
            raise ValueError(f"the SHA-256 of {name} differs")
    if facts["member"] != member:
        raise ValueError("it is of another run")
    _check_curves(facts)
    return facts


def _check_curves(facts: Mapping[str, Any]) -> None:
    step, losses, judged = facts["step"], facts["train_loss"], facts["judged"]
    known = isinstance(step, int) and 0 <= step == len(losses) and isinstance(facts["created"], str)
    if not known or not all(math.isfinite(loss) for loss in losses) or any(len(row) != 3 for row in judged):
        raise ValueError("its curves do not fit its step")
    numbers = [facts["seconds"], *(number for step, loss, _ in judged for number in (step, loss))]
    if not all(map(math.isfinite, numbers)) or any(math.isinf(accuracy) for *_, accuracy in judged):
        raise ValueError("its curves are not numbers")  # an accuracy is none where the judge has a loss of its own


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("sharded-*"), reverse=True) if folder.is_dir() else []


def _drop_old(folder: Path) -> None:
    """Keep the newest whole ones; what was interrupted goes too, for only this training writes here."""
    whole = [path for path in _steps(folder) if (path / MANIFEST).is_file()]
    for path in set(_steps(folder)) - set(whole[:KEPT]):
        shutil.rmtree(path, ignore_errors=True)


def _digest(path: Path, flush: bool = False) -> str:
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _result(future: Any) -> Any:
    """What a save gave, whichever of its two answers this torch gives."""
    return future.result() if isinstance(future, Future) else future.upload_completion.result()
