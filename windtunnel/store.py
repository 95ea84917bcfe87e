"""The append-only home of runs and forecasts, readable without us.

    store.json                          format number
    runs/<key>/run.json, curve.npz, source/
    forecasts/<date>_<key>.json
    checks/<kind>-<key>/check.json      coordinate checks
    packs/<key>/                        checkpoints of runs in flight; removed when their runs are recorded

A record is written to a temporary folder, flushed to disk and renamed, so a half-written one never exists under its own
name; whoever renames first wins and the other copy is dropped, so two processes may share a store. Nothing here is
edited: there is no update and no delete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import InputError
from windtunnel.runs import Run, canonical

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
_KEY = re.compile(r"[0-9a-f]{8,64}")
_UNLOCKED_AT_MOST = 1.0  # seconds between making a folder and locking it: really microseconds


class Store:
    """Runs and forecasts under one folder. Opening creates nothing; the first write does.

    Raises InputError for a folder that is not a store or was written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str] = "windtunnel-store") -> None:
        self.path = Path(path)
        if self.path.exists():
            self._check_format()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {sum(1 for _ in self.keys())} runs)"

    # runs

    def keys(self) -> Iterator[str]:
        """Keys of all recorded runs, sorted."""
        folder = self.path / "runs"
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        return (name for name in names if _KEY.fullmatch(name))

    def __contains__(self, key: str) -> bool:
        return bool(_KEY.fullmatch(key)) and (self.path / "runs" / key / "run.json").is_file()

    def add(self, run: Run) -> bool:
        """Record a run; False if a record of that key was already there (it is kept as it is)."""
        if run.key in self:
            return False
        import numpy as np

        curve = io.BytesIO()
        np.savez_compressed(curve, **dict(run.curve))  # type: ignore[arg-type]
        record = run.to_json() | {"curve_sha256": hashlib.sha256(curve.getvalue()).hexdigest()}
        files = {"run.json": json.dumps(record, indent=1).encode(), "curve.npz": curve.getvalue()}
        files |= {f"source/{_file_name(name)}": text.encode() for name, text in run.source.items()}
        return publish(self._created("runs") / run.key, files)

    def get(self, key: str) -> Run:
        """The run of a key, or of an unambiguous beginning of one."""
        import numpy as np

        folder = self.path / "runs" / self._full_key(key)
        record = _read_json(folder / "run.json")
        data = _read_bytes(folder / "curve.npz")
        if hashlib.sha256(data).hexdigest() != record["curve_sha256"]:
            raise InputError(
                f"{folder / 'curve.npz'} does not match the checksum in run.json: the file is damaged. Restore it, or "
                f"remove the folder {folder} so that the next run trains it again."
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            curve = {name: arrays[name] for name in arrays.files}
        source = {p.name: p.read_text("utf-8") for p in sorted((folder / "source").glob("*")) if p.is_file()}
        return Run.from_json(record, curve, source)

    def runs(self) -> list[Run]:
        """All runs, in the order of their keys."""
        return [self.get(key) for key in self.keys()]

    def table(self) -> pd.DataFrame:
        """One row a run: key, outcome, loss, sizes, horizon, hyperparameters, seed, cost, labels."""
        import pandas as pd

        return pd.DataFrame([row(record) for record in self.records()])

    def records(self) -> list[dict[str, Any]]:
        """What run.json holds, for every run; quicker than `runs`, which also reads curves and sources."""
        return [_read_json(self.path / "runs" / key / "run.json") for key in self.keys()]

    # forecasts

    def add_forecast(self, forecast: dict[str, Any]) -> dict[str, Any]:
        """Write a forecast once, with its hash; returns what is stored, which is the earlier one if the key is known.

        `forecast` needs `key` and `created` (ISO time). A stored forecast is never edited.
        """
        for known in self.forecasts():
            if known["key"] == forecast["key"]:
                return known
        sealed = dict(forecast) | {"hash": forecast_hash(forecast)}
        name = f"{forecast['created'][:10]}_{forecast['key']}.json"
        folder = self._created("forecasts")
        temporary = folder / f".{name}.{os.getpid()}"
        _write(temporary, json.dumps(sealed, indent=1).encode())
        try:
            os.link(temporary, folder / name)  # fails if another process wrote it first
        except FileExistsError:
            return _read_json(folder / name)
        finally:
            temporary.unlink()
        _flush_folder(folder)
        return sealed

    def forecasts(self) -> list[dict[str, Any]]:
        """All forecasts, oldest first. Raises InputError if one was edited after it was written."""
        folder = self.path / "forecasts"
        found = [self._sealed(path) for path in sorted(folder.glob("[0-9]*_*.json"))] if folder.is_dir() else []
        return sorted(found, key=lambda forecast: forecast["created"])

    # checks of a recipe (coordinate checks), computed once and kept

    def add_check(self, kind: str, key: str, data: dict[str, Any]) -> None:
        """Keep the result of a check; the first one stays."""
        publish(self._created("checks") / f"{kind}-{key}", {"check.json": json.dumps(data, indent=1).encode()})

    def check(self, kind: str, key: str) -> dict[str, Any] | None:
        """The kept result of a check, or None."""
        path = self.path / "checks" / f"{kind}-{key}" / "check.json"
        return _read_json(path) if path.is_file() else None

    def packs(self) -> Path:
        """Folder for checkpoints of runs in flight."""
        return self._created("packs")

    def sweep(self) -> None:
        """Remove records that a killed process left half-written; one that is being written now is locked and stays."""
        for name in ("runs", "checks"):
            for folder in (self.path / name).glob(".*/"):
                with suppress(FileNotFoundError):  # another process published or swept it just now
                    if time.time() - folder.stat().st_mtime > _UNLOCKED_AT_MOST:
                        _remove_if_abandoned(folder)

    # inside

    def _sealed(self, path: Path) -> dict[str, Any]:
        forecast = _read_json(path)
        if forecast.get("hash") != forecast_hash(forecast):
            raise InputError(
                f"{path} was changed after it was written: its hash does not match. A forecast is never edited; "
                f"restore the file from a copy, or move it out of the store."
            )
        return forecast

    def _full_key(self, key: str) -> str:
        if key in self:
            return key
        matching = [known for known in self.keys() if known.startswith(key)] if key else []
        if len(matching) == 1:
            return matching[0]
        found = f"{len(matching)} runs" if matching else "no run"
        raise InputError(f"{found} in {self.path} with a key that begins {key!r}; `windtunnel runs` lists the keys.")

    def _created(self, name: str) -> Path:
        """A folder of the store, made if need be; the store's own marker comes first, so that no folder lacks it."""
        folder, marker = self.path / name, self.path / "store.json"
        self.path.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            temporary = self.path / f".store.json.{os.getpid()}"
            _write(temporary, canonical({"format": FORMAT, "what": "windtunnel store"}).encode())
            os.replace(temporary, marker)
        folder.mkdir(exist_ok=True)
        return folder

    def _check_format(self) -> None:
        marker = self.path / "store.json"
        # looked at before the marker: another process may be making this store
        there = self.path.is_dir() and all(p.name.startswith(f".{marker.name}") for p in self.path.iterdir())
        if not marker.exists():
            if not there:
                raise InputError(
                    f"{self.path} exists but is not a windtunnel store (no store.json in it); give an empty or new "
                    f"folder to --store."
                )
            return
        format_number = _read_json(marker).get("format")
        if not isinstance(format_number, int) or format_number > FORMAT:
            raise InputError(
                f"The store {self.path} has format {format_number!r}; this version reads up to {FORMAT}. It was made "
                f"by a newer windtunnel: upgrade, or use another store."
            )


def publish(final: Path, files: dict[str, bytes]) -> bool:
    """Write a folder of files whole or not at all; False if a folder of that name was there first."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    with _lock(temporary):
        for name, data in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            _write(temporary / name, data)
        for folder in {(temporary / name).parent for name in files} | {temporary}:
            _flush_folder(folder)
        os.chmod(temporary, 0o755)  # mkdtemp makes it private
        try:
            os.rename(temporary, final)  # refuses a folder that is not empty: the first writer wins
        except OSError:
            shutil.rmtree(temporary)
            if not final.is_dir():
                raise
            return False
    _flush_folder(final.parent)
    return True


def row(record: dict[str, Any]) -> dict[str, Any]:
    """One flat row of a run's record, as `Store.table` and `--json` show it."""
    spec, size = record["spec"], record["size"]
    rung = spec["rung"]
    return {
        "key": record["key"],
        "outcome": record["outcome"],
        "loss": record["loss"],
        "params": size["non_embedding"] + (size["embedding"] if size["tied"] else 0),
        "tokens": rung["tokens"],
        "flops": record["cost"]["flops"],
        "width": rung["width"],
        "depth": rung["depth"],
        "batch": rung["batch"],
        **spec["hyperparameters"],
        "seed": spec["seed"],
        "optimizer": spec["recipe"]["optimizer"]["is"],
        "seconds": record["cost"]["seconds"],
        "created": record["created"],
        **record["labels"],
        "message": record["message"],
    }


def forecast_hash(forecast: dict[str, Any]) -> str:
    """The hash a forecast is sealed with: of everything in it but the hash itself."""
    return hashlib.sha256(canonical({k: v for k, v in forecast.items() if k != "hash"}).encode()).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing from the store; restore it or remove its folder.") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_read_bytes(path).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or remove its folder to train it again.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a windtunnel record: it holds a {type(data).__name__}.")
    return data


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "source"


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold a folder that is being written; the system lets go when this process ends, however it ends.

    Raises BlockingIOError if another process holds it.
    """
    import fcntl  # not on every system, and reading a store needs none

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        with _lock(folder):
            shutil.rmtree(folder, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        return  # its writer lives, or has just finished


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
