"""A store on any fsspec file system: s3, gcs, abfs, sftp, memory and so on.

An object store renames nothing, so a record becomes visible by its last object: everything else of it is written first,
under a name that its content decides, and then run.json by create-if-absent (If-None-Match where the file system has
it). A newcomer would write curve.npz under its plain name, and two writers would mix. Where a file system cannot create
exclusively, two writers that end in the same instant both write: the later stays, whole, under the same key.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from windtunnel.errors import InputError
from windtunnel.places import check_size, default_cache, parts

_TOO_OLD = (TypeError, NotImplementedError)  # what a file system says that cannot create exclusively


class Remote:
    """A folder of an fsspec file system. Credentials and options are fsspec's own (environment, its configuration)."""

    def __init__(self, url: str, inside: str = "") -> None:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise InputError(f"A store at {url} needs fsspec: pip install 'windtunnel[remote]'.") from None
        self.url, self.inside = url.rstrip("/"), inside
        self.where = "/".join([self.url, *parts(inside)])
        with _reached(url):
            self.fs, self.root = url_to_fs(self.url)
        self.fs.use_listings_cache = False

    def below(self, folder: str) -> Remote:
        """The place that a folder is."""
        return Remote(self.url, f"{self.inside}/{folder}".strip("/"))

    def names(self, folder: str = "") -> list[str]:
        """What lies in a folder, sorted; nothing where there is none."""
        path = self._path(folder)
        with _reached(self.where):
            self.fs.invalidate_cache(path)
            try:
                found = self.fs.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = {str(each).rstrip("/").rpartition("/")[2] for each in found if str(each).rstrip("/") != path}
        return sorted(names - {""})

    def whole(self, folder: str, last: str) -> list[str]:
        """The records in a folder, sorted: those that have their `last` file. One listing, however many there are."""
        path = self._path(folder)
        with _reached(self.where):
            self.fs.invalidate_cache(path)
            found = [str(each) for each in self.fs.find(path, maxdepth=2)]
        return sorted(each.split("/")[-2] for each in found if each.endswith(f"/{last}"))

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        with _reached(self.where):
            self.fs.invalidate_cache(self._path(name))
            return bool(self.fs.isfile(self._path(name)))

    def read(self, name: str, most: int) -> bytes:
        """The bytes of an object. Raises InputError if it is missing, unreachable, or longer than `most`."""
        path = self._path(name)
        with _reached(f"{self.where}/{name}"):
            try:
                check_size(f"{self.where}/{name}", int(self.fs.info(path)["size"] or 0), most)
                return self.fs.cat_file(path, start=0, end=most) if most < 1 << 30 else self.fs.cat_file(path)
            except FileNotFoundError:
                raise InputError(f"{self.where}/{name} is missing; restore it or remove its folder.") from None

    def aside(self, mark: str) -> str:
        """Where the files of a record lie in its folder: under a name that their content decides."""
        return f"by-{mark[:16]}/"

    def create(self, folder: str, files: Mapping[str, bytes]) -> bool:
        """Write the files, the last one only if it is absent; False if it was there first."""
        *others, (last, data) = files.items()
        if self.has(f"{folder}/{last}"):
            return False
        for name, content in others:
            path = self._path(f"{folder}/{name}")
            with _sent(path):
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.fs.pipe_file(path, content)
        return self.create_file(f"{folder}/{last}", data)

    def create_file(self, name: str, data: bytes) -> bool:
        """Write an object if none of that name is there; False if one was there first."""
        path = self._path(name)
        try:
            with _sent(path):
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except _TOO_OLD:
            if self.has(name):
                return False
            with _sent(path):
                self.fs.pipe_file(path, data)
        return True

    def set_aside(self, folder: str, name: str) -> None:
        """Remove a folder from sight; nothing is kept of it."""
        self.remove(folder)

    def remove(self, folder: str = "") -> None:
        """Remove a folder and all in it; what cannot be removed stays."""
        with suppress(Exception):  # every file system has errors of its own
            inside = sorted(self.fs.find(self._path(folder)), key=lambda path: not path.endswith(".json"))
            for path in inside:  # the .json first: without it the rest is not seen
                self.fs.rm_file(path)
            self.fs.rm(self._path(folder), recursive=True)  # where folders are things, they go too

    def sweep(self, folder: str = "", beginning: str = ".") -> None:
        """Nothing: what a dead process left has no run.json, is never seen, and is overwritten by the same content."""

    def _path(self, name: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts(self.inside), *parts(name)])


def scratch(url: str) -> Path:
    """A folder of this machine for what concerns it alone: the locks of packs that it trains for a store elsewhere."""
    folder = default_cache() / "locks" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _reached(where: str) -> Iterator[None]:
    """Turn what a file system says of a place that cannot be reached into one sentence."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, FileExistsError, InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(f"{where} needs a library that is not installed: {error}") from None
    except Exception as error:  # every file system has errors of its own
        raise InputError(f"{where} cannot be reached: {type(error).__name__}: {error}") from error


@contextmanager
def _sent(path: str) -> Iterator[None]:
    """Turn what a file system says of a write into an OSError, which is what a Place raises."""
    try:
        yield
    except (OSError, MemoryError, *_TOO_OLD):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", path) from error
