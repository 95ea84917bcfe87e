"""Where a store's bytes lie: the few operations a store needs, and the folder on this machine or a network mount.

A record appears whole or not at all: its files are written to a hidden folder, flushed to disk, and the folder is
renamed; whoever renames first wins. Nothing is locked for reading. A newcomer would check for a record and then write
it; here only the last, indivisible act decides. `windtunnel.remote` does the same for any other file system.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from windtunnel.errors import InputError, Paused

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_TOP = ("runs", "forecasts", "checks", "packs")  # these alone may be links: to a larger disk, say
_UNLOCKED_AT_MOST = 1.0  # seconds between making a folder and locking it: really microseconds
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what this user may have of it
NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # NFS locks no folder


class Place(Protocol):
    """Names are relative, with slashes. Writing raises OSError as the system does; reading raises InputError."""

    where: str

    def below(self, folder: str) -> Place: ...
    def names(self, folder: str = "") -> list[str]: ...
    def whole(self, folder: str, last: str) -> list[str]: ...
    def has(self, name: str) -> bool: ...
    def read(self, name: str, most: int) -> bytes: ...
    def aside(self, mark: str) -> str: ...
    def create(self, folder: str, files: Mapping[str, bytes]) -> bool: ...
    def create_file(self, name: str, data: bytes) -> bool: ...
    def set_aside(self, folder: str, name: str) -> None: ...
    def remove(self, folder: str = "") -> None: ...
    def sweep(self, folder: str = "", beginning: str = ".") -> None: ...


class Local:
    """A folder of this machine, or of a network mount. `inside` is where in the store's folder it begins."""

    def __init__(self, root: str | os.PathLike[str], inside: str = "") -> None:
        self.root, self.inside = Path(root), inside
        self.where = str(self.path())

    def path(self, name: str = "") -> Path:
        """The path of a name. Raises InputError for a name that could lead elsewhere."""
        return self.root.joinpath(*parts(self.inside), *parts(name))

    def below(self, folder: str) -> Local:
        """The place that a folder is."""
        return Local(self.root, f"{self.inside}/{folder}".strip("/"))

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder, sorted; nothing where there is none."""
        try:
            return sorted(os.listdir(self.path(folder)))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise InputError(
                f"{self.path(folder)} is a file; it is not a windtunnel store, nor a folder of one."
            ) from None
        except OSError as error:
            raise InputError(f"{self.path(folder)} cannot be read: {error.strerror}.") from None

    def whole(self, folder: str, last: str) -> list[str]:
        """The records in a folder, sorted; `last` is the file without which one is not seen. Here all are whole."""
        return [name for name in self.names(folder) if not name.startswith(".")]

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self.path(name).is_file()

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file. Raises InputError if it is missing, no plain file of ours, or longer than `most`."""
        path = self._unlinked(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with _closed(descriptor):
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise InputError(f"{path} is not a plain file; remove it from the store.")
                check_size(str(path), found.st_size, most)
                with open(descriptor, "rb", closefd=False) as file:
                    return file.read(most)
        except FileNotFoundError:
            raise InputError(f"{path} is missing from the store; restore it or remove its folder.") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise InputError(f"{path} is a link; a store follows none. Put the file itself there.") from None
            raise InputError(f"{path} cannot be read: {error.strerror}.") from None

    def aside(self, mark: str) -> str:
        """Where the files of a record lie in its folder: beside its run.json, for the folder appears as a whole."""
        return ""

    def create(self, folder: str, files: Mapping[str, bytes]) -> bool:
        """Write a folder of files whole or not at all; False if a folder of that name was there first."""
        final = self.path(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(_Swept):
                return _published(final, files)

    def create_file(self, name: str, data: bytes) -> bool:
        """Write a file whole or not at all; False if one of that name was there first."""
        final = self.path(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(_Swept):
                return _linked(final, data)

    def set_aside(self, folder: str, name: str) -> None:
        """Give a folder another name, under which it is no longer found."""
        with suppress(OSError):
            os.rename(self.path(folder), self.path(name))

    def remove(self, folder: str = "") -> None:
        """Remove a folder and all in it, at one stroke for who looks; what cannot be removed stays, hidden."""
        path = self.path(folder)
        gone = path.with_name(f".{path.name}.gone.{os.getpid()}.{time.monotonic_ns()}")
        with suppress(OSError):
            os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self, folder: str = "", beginning: str = ".") -> None:
        """Remove what dead processes left half-written; what is being written now is locked and stays."""
        for name in self.names(folder):
            if name.startswith(beginning):
                with suppress(OSError):  # another process published or swept it just now
                    path = self.path(folder) / name
                    # a clock set back keeps it until it has caught up: litter is no harm
                    if time.time() - path.lstat().st_mtime > _UNLOCKED_AT_MOST:
                        _remove_if_abandoned(path)

    def _unlinked(self, name: str) -> str:
        """The path of a name none of whose folders is a link, the store's own top folders apart."""
        pieces, path = [*parts(self.inside), *parts(name)], str(self.root)
        for depth, part in enumerate(pieces[:-1]):
            path = os.path.join(path, part)
            if not (depth == 0 and part in _TOP) and os.path.islink(path):
                raise InputError(f"{path} is a link; a store follows none. Put the folder itself there.")
        return os.path.join(path, pieces[-1])


def default_cache() -> Path:
    """What this machine keeps for itself, outside any store: `$WINDTUNNEL_CACHE`, or `~/.cache/windtunnel`."""
    return _home(os.environ.get("WINDTUNNEL_CACHE"), os.environ.get("HOME"))


@cache
def _home(named: str | None, user: str | None) -> Path:
    """Asked for every row of every step, so worked out once."""
    return Path(named or os.path.expanduser("~/.cache/windtunnel"))


def parts(name: str) -> list[str]:
    """The pieces of a relative name. Raises InputError for `..`, absolute names, and whatever else is not a name."""
    pieces = name.split("/") if name else []
    wrong = [piece for piece in pieces if not _NAME.fullmatch(piece)]
    if wrong:
        raise InputError(
            f"{name!r} cannot name a thing in a store: {wrong[0]!r} must be letters, digits and . _ - alone."
        )
    return pieces


def check_size(named: str, size: int, most: int) -> None:
    """Raise InputError for a file that is longer than what it should hold can be."""
    if size > most:
        raise InputError(f"{named} is {size:,} bytes; what belongs there has at most {most:,}. It is not read.")


def unwritable(error: OSError, where: str, needs: int) -> str:
    """One sentence for a write that failed: the path, the bytes needed and free, and why."""
    path = str(error.filename or where)
    if error.errno not in FULL:
        return f"{path} could not be written: {error.strerror or error}"
    free = free_bytes(where)
    left = "" if free is None else f", {size_in_words(free)} free"
    return f"{path} could not be written: {error.strerror} (needs {size_in_words(needs)}{left})"


@contextmanager
def writing(where: str, needs: int) -> Iterator[None]:
    """Turn an OSError of a write into one sentence of what was needed where: Paused where the disk is full."""
    try:
        yield
    except OSError as error:
        raise (Paused if error.errno in FULL else InputError)(
            f"{unwritable(error, where, needs)}. Nothing that was finished is lost; mend it and run the same command "
            f"again."
        ) from error


class _Swept(Exception):
    """Another process took the temporary folder for abandoned: the clock jumped between making and locking it."""


def _published(final: Path, files: Mapping[str, bytes]) -> bool:
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        with _lock(temporary):
            _fill(temporary, files)
            os.rename(temporary, final)  # refuses a folder that is not empty: the first writer wins
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not final.is_dir():
            raise
        return False
    _flush_folder(final.parent)
    return True


def _linked(final: Path, data: bytes) -> bool:
    descriptor, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
    os.close(descriptor)
    try:
        with _lock(Path(name)):
            _write(Path(name), data)
            os.chmod(name, 0o644)  # mkstemp makes it private
            os.link(name, final)  # fails if another process wrote it first
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):  # swept, or the disk is gone: then that is what is raised
            os.unlink(name)
    _flush_folder(final.parent)
    return True


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        target = folder.joinpath(*parts(name))
        target.parent.mkdir(exist_ok=True)
        _write(target, data)
    for inner in {folder.joinpath(*parts(name)).parent for name in files} | {folder}:
        _flush_folder(inner)
    os.chmod(folder, 0o755)  # mkdtemp makes it private


def _write(path: Path, data: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not say of what
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold what is being written; the system lets go when this process ends, however it ends.

    Raises _Swept if another process holds it or removed it. Where nothing can be locked (NFS), goes on without: then
    what a dead process leaves is never swept, which costs space alone.
    """
    import fcntl  # not on every system, and reading a store needs none

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise _Swept from None
    with _closed(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Swept from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        if not path.exists():
            raise _Swept
        yield


@contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove_if_abandoned(path: Path) -> None:
    import fcntl

    with _closed(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if its writer lives, or if nothing can be locked
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _flush_folder(folder: Path) -> None:
    with _closed(os.open(folder, os.O_RDONLY)) as descriptor:
        os.fsync(descriptor)


def free_bytes(where: str) -> int | None:
    """Bytes free on the disk where a path lies, or will lie; None where no folder above it answers."""
    for path in (Path(where), *Path(where).parents):
        with suppress(OSError):
            return shutil.disk_usage(path).free
    return None


def size_in_words(count: int) -> str:
    """A number of bytes as people say it: 1.3 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
