"""One pack sent to another machine: all it needs to be trained there, and how it says how far it is.

The other machine shares the store's folder and has windtunnel; the study's own modules travel along as text, used where
their files are not, or have changed since. How far a pack is, is a small file in the store's logs: whoever waits for
the pack reads it, so that neither a worker's death nor the waiting process's own loses more than a line of display.
Importing this file must not import torch: the processes that only wait stay small.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import pickle
import shutil
import site
import socket
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError, Paused, Stopped
from windtunnel.launch.sent import pickled
from windtunnel.places import FULL, Local
from windtunnel.runs import ENGINE

if TYPE_CHECKING:
    from windtunnel.store import Store
    from windtunnel.train.pack import Pack

TOLD_SECONDS = 1.0  # between two writings of how far a pack is: a small file on what may be NFS (guess)


def errands(packs: Sequence[Pack], store: Store) -> list[dict[str, Any]]:
    """Packs as plain data: their bytes, the store's folder, and what their parts are imported from."""
    shared = {
        "store": str(store.path.resolve()),  # a folder that all machines share
        "engine": ENGINE,
        "folder": os.getcwd(),
        "sources": own_sources(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("WINDTUNNEL_")},
    }
    return [{"key": pack.key, "pack": pickled(pack), **shared} for pack in packs]


def perform(sent: Mapping[str, Any], stop: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Train an errand's pack here and say how that ended: `finished`, `input error`, `paused`, `stopped`, `error`."""
    try:
        return {"finished": _train(sent, stop)}
    except Stopped:
        return {"stopped": True}
    except InputError as error:
        return refusal(error)
    except MemoryError as error:
        return {"input error": f"Out of memory on {_host()}: {error}. Finished runs are kept; train fewer packs there."}
    except OSError as error:
        return refusal(error, f" on {_host()}")
    except Exception:
        return {"error": traceback.format_exc()}


def refusal(error: InputError | OSError, where: str = "") -> dict[str, str]:
    """An error that is not the run's, as plain data for the process that runs the study."""
    full = isinstance(error, OSError) and error.errno in FULL
    said = (
        f"{error}{where}. Finished runs are kept; mend it and run again." if isinstance(error, OSError) else str(error)
    )
    return {"paused" if full or isinstance(error, Paused) else "input error": said}


def refused(answer: Mapping[str, Any]) -> InputError | None:
    """What `refusal` told, as the error it was; None where it is not that."""
    if "paused" in answer:
        return Paused(answer["paused"])
    return InputError(answer["input error"]) if "input error" in answer else None


def shared_folder(store: Store) -> Path:
    """The folder that all machines of a cluster share. Raises InputError for a store that is none."""
    if not isinstance(store.place, Local):
        raise InputError(
            f"The store {store.where} is no folder; on a cluster give one that every node sees, as on NFS."
        )
    return store.packs().parent.resolve()


def told(store: Path, key: str) -> dict[str, Any] | None:
    """How far the pack of a key last said it is, as the fields of Progress; None if it has said nothing yet.

    `pack` is the part that is trained now, where memory holds no more; `said` is all that was said so far.
    """
    try:
        return json.loads(_told_in(store, key).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def untold(store: Path, key: str) -> None:
    """Forget how far a pack was: it is recorded."""
    with suppress(OSError):
        _told_in(store, key).unlink(missing_ok=True)


def _told_in(store: Path, key: str) -> Path:
    return store / "logs" / "told" / f"{key}.json"


def _host() -> str:
    return socket.gethostname()


def own_sources() -> dict[str, tuple[str, str]]:
    """Name to file and text of every imported module that is neither Python's, nor installed, nor windtunnel's."""
    places = [sysconfig.get_path("stdlib"), *site.getsitepackages(), site.getusersitepackages(), sys.prefix]
    installed = tuple(str(Path(place).resolve()) + os.sep for place in places)
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or name.split(".")[0] in ("windtunnel", "__main__", "__mp_main__"):
            continue
        package = getattr(sys.modules.get(name.split(".")[0]), "__file__", None) or file
        with suppress(OSError, UnicodeDecodeError):
            # what a library writes for itself, as torch's compiler does, is the library's wherever it lies
            if not any(str(Path(each).resolve()).startswith(installed) for each in (file, package)):
                found[name] = (str(Path(file).resolve()), Path(file).read_text("utf-8"))
    return found


def _train(sent: Mapping[str, Any], stop: Callable[[], bool] | None) -> dict[str, Any] | None:
    os.environ.update(sent["environment"])
    with suppress(OSError):  # paths of the study may be relative to where it was started
        os.chdir(sent["folder"])
    _arrive(sent["sources"])
    import torch

    from windtunnel.launch.here import device_of
    from windtunnel.launch.one import execute
    from windtunnel.store import Store

    if sent["engine"] != ENGINE:
        raise InputError(
            f"windtunnel on {_host()} trains by engine {ENGINE}, the study asked for engine "
            f"{sent['engine']}; install the same version on both."
        )
    torch.set_num_threads(1)  # as in every worker: the same bits
    store, pack = Store(sent["store"]), pickle.loads(sent["pack"])  # written by the process that runs the study
    said = _Said(_told_in(store.path, sent["key"]))
    execute(pack, store, device=device_of(0), report=said, stop=stop)
    return said.last


class _Said:
    """Writes how far a pack is: at most once a second, unless there is a sentence to be heard."""

    def __init__(self, file: Path) -> None:
        self.file, self.when, self.all_said = file, 0.0, list[str]()
        self.last: dict[str, Any] | None = None
        file.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, progress: Any) -> None:
        self.all_said += progress.said
        self.last = asdict(progress) | {"said": self.all_said}
        if time.monotonic() - self.when < TOLD_SECONDS and not progress.said:
            return
        self.when = time.monotonic()
        with suppress(OSError):  # of no consequence: a checkpoint that cannot be written says so
            temporary = self.file.with_name(f".{self.file.name}.{_host()}.{os.getpid()}")
            temporary.write_text(json.dumps(self.last), "utf-8")
            os.replace(temporary, self.file)


class Heard:
    """What was heard of each pack, so that each step and each sentence is passed on once and under the pack's key."""

    def __init__(self) -> None:
        self.last: dict[str, dict[str, Any]] = {}

    def news(self, key: str, progress: dict[str, Any] | None) -> dict[str, Any] | None:
        """The fields of a Progress that is new, None if nothing is."""
        before = self.last.get(key)
        if progress is None or progress == before:
            return None
        self.last[key] = progress
        known = before["said"] if before is not None else []
        new = progress["said"][len(known) :] if progress["said"][: len(known)] == known else progress["said"]
        return progress | {"pack": key, "said": new}


def _arrive(sources: Mapping[str, tuple[str, str]]) -> None:
    """Make the study's modules importable: from their own files if these say the same here, else from what was sent."""
    other = {name: sent for name, sent in sources.items() if not _same(*sent)}
    if not other:
        return
    root = _folder_of(hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest())
    for name, (file, text) in other.items():
        at = root.joinpath(*name.split("."))
        at = at / "__init__.py" if Path(file).name == "__init__.py" else at.with_suffix(".py")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text, "utf-8")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))


@functools.cache
def _folder_of(digest: str) -> Path:
    """A folder of this process alone, under a name that no other user can take before, removed when it ends."""
    root = Path(tempfile.mkdtemp(prefix="windtunnel-sources-"))
    atexit.register(_remove, root, os.getpid())
    return root


def _remove(root: Path, maker: int) -> None:
    if os.getpid() == maker:  # not what was forked from it
        shutil.rmtree(root, ignore_errors=True)


def _same(file: str, text: str) -> bool:
    try:
        return Path(file).read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False
