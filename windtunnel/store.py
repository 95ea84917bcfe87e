"""The append-only home of runs and forecasts, readable without us.

    store.json                          format number
    runs/<key>/run.json, curve.npz, source/
    forecasts/<key>.json                (<date>_<key>.json in older stores)
    checks/<kind>-<key>/check.json      coordinate checks
    foreign/<key>/run.json              runs that were trained elsewhere; never among ours
    packs/<key>/                        checkpoints of runs in flight; removed when their runs are recorded

A record is whole or not there, and the first writer wins (`places` says how), so many processes may share a store.
Nothing here is edited: there is no update and no delete. Every record is sealed with a checksum of all it holds, and
what is read is data of bounded size, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from windtunnel.errors import InputError
from windtunnel.files import RECORD_BYTES, json_of, misfit, seal_of, sealed
from windtunnel.index import rows
from windtunnel.places import Local, Place, writing
from windtunnel.records import read_record, read_run, upgrade, written
from windtunnel.runs import Run, RunSpec, canonical

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of the folders: raised when an older windtunnel would misread them
_KEY = re.compile(r"[0-9a-f]{8,64}")
_FORECAST = re.compile(r"(?:\d{4}-\d\d-\d\d_)?([0-9a-f]{8,64})\.json")


class Store:
    """Runs and forecasts under one folder, or under a URL of any fsspec file system. Opening creates nothing.

    Raises InputError for a folder that is not a store or was written by a newer version. `where` is the folder or URL
    as text.
    """

    def __init__(self, path: str | os.PathLike[str] = "windtunnel-store") -> None:
        self.place: Place = _place_of(path)
        self.where = self.place.where
        self._check_format()

    @property
    def path(self) -> Path:
        """The store's folder. Raises InputError for one that lies elsewhere."""
        if not isinstance(self.place, Local):
            raise InputError(f"The store {self.where} is no folder of this machine; use a folder for this.")
        return self.place.path()

    @property
    def in_memory(self) -> bool:
        """Whether it lies in this process alone and is gone with it, as under memory://."""
        return self.where.startswith("memory://")

    def __repr__(self) -> str:
        return f"Store({self.where!r}, {sum(1 for _ in self.keys())} runs)"

    def exists(self) -> bool:
        """Whether anything was ever written here."""
        return self.place.has("store.json")

    # runs

    def keys(self) -> Iterator[str]:
        """Keys of all recorded runs, sorted."""
        return (name for name in self.place.whole("runs", "run.json") if _KEY.fullmatch(name))

    def __contains__(self, key: str) -> bool:
        return bool(_KEY.fullmatch(key)) and self.place.has(f"runs/{key}/run.json")

    def find(self, spec: RunSpec) -> str | None:
        """The key under which the run that a spec asks for is recorded, 0.1.0's included; None where it is not."""
        return next((key for key in dict.fromkeys((spec.key, spec.former_key)) if key in self), None)

    def add(self, run: Run) -> bool:
        """Record a run; False if a record of that key was already there (it is kept as it is).

        Raises InputError where it cannot be written, naming the path and the bytes needed.
        """
        return run.key not in self and self._create(f"runs/{run.key}", written(run, self.place.aside))

    def get(self, key: str, *, later: bool = False) -> Run:
        """The run of a key, or of an unambiguous beginning of one. Raises InputError if a file of it is damaged.

        `later` True: its curve and sources are read, and found damaged, when they are first looked at.
        """
        return read_run(self.place, self._full_key(key), later)

    def runs(self) -> list[Run]:
        """All runs, in the order of their keys."""
        return [self.get(key) for key in self.keys()]

    def table(self) -> pd.DataFrame:
        """One row a run: key, outcome, loss, sizes, horizon, hyperparameters, seed, cost, labels.

        `recipe`, `data` and `judge` are marks: equal ones mean the same parts, data and judge. Tuned values and
        learning rates have columns of their own and no part in them.
        """
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """What `table` holds as plain data; from a cache outside the store where that is quicker."""
        return rows(self.place, list(self.keys()))

    def records(self) -> list[dict[str, Any]]:
        """What run.json holds, for every run; quicker than `runs`, which also reads curves and sources."""
        return [read_record(self.place, key) for key in self.keys()]

    # forecasts

    def add_forecast(self, forecast: dict[str, Any]) -> dict[str, Any]:
        """Write a forecast once, with its hash; returns what is stored, which is the earlier one if the key is known.

        `forecast` needs `key` and `created` (ISO time, moved behind every stored forecast's should the clock have been
        set back). A stored forecast is never edited.
        """
        if not _KEY.fullmatch(str(forecast["key"])):
            raise InputError(f"A forecast's key is {forecast['key']!r}; it must be 8 to 64 hexadecimal digits.")
        stored = self.forecasts()
        for known in stored:
            if known["key"] == forecast["key"]:
                return known
        later = dict(forecast) | {"created": _after(forecast["created"], [f["created"] for f in stored])}
        whole = later | {"hash": forecast_hash(later)}
        name, data = f"forecasts/{forecast['key']}.json", json.dumps(whole, indent=1).encode()
        with writing(f"{self.where}/{name}", len(data)):
            self._mark()
            first = self.place.create_file(name, data)
        return whole if first else self._forecast(name)

    def forecasts(self) -> list[dict[str, Any]]:
        """All forecasts, oldest first. Raises InputError if one was edited after it was written."""
        names = [name for name in self.place.names("forecasts") if _FORECAST.fullmatch(name)]
        return sorted((self._forecast(f"forecasts/{name}") for name in names), key=lambda found: found["created"])

    # checks of a recipe (coordinate checks), computed once and kept

    def add_check(self, kind: str, key: str, data: dict[str, Any]) -> None:
        """Keep the result of a check; the first one stays."""
        self._create(f"checks/{kind}-{key}", {"check.json": json.dumps(sealed(data), indent=1).encode()})

    def check(self, kind: str, key: str) -> dict[str, Any] | None:
        """The kept result of a check, or None."""
        name = f"checks/{kind}-{key}/check.json"
        if not self.place.has(name):
            return None
        found = self._json(name, f"remove the folder {self.where}/checks/{kind}-{key}: it is made again.")
        if "seal" in found and found["seal"] != seal_of(found):
            raise InputError(f"{self.where}/{name} does not match its checksum: it is damaged. Remove its folder.")
        return {name: value for name, value in found.items() if name != "seal"}

    # runs that were trained elsewhere (`windtunnel.bridge` reads and writes them): no key of theirs is one of ours

    def add_foreign(self, key: str, data: dict[str, Any]) -> bool:
        """Keep the record of a run that was trained elsewhere; False if one of that key was there first."""
        if not _KEY.fullmatch(key):
            raise InputError(f"A foreign run's key is {key!r}; it must be 8 to 64 hexadecimal digits.")
        return self._create(f"foreign/{key}", {"run.json": json.dumps(sealed(data), indent=1).encode()})

    def foreign(self) -> list[dict[str, Any]]:
        """What was kept of runs that were trained elsewhere, by key. Raises InputError for a damaged record."""
        names = [name for name in self.place.whole("foreign", "run.json") if _KEY.fullmatch(name)]
        return [self._foreign(f"foreign/{name}") for name in names]

    # runs in flight

    def packs(self) -> Path:
        """Folder on this machine for the locks of runs in flight, and where the store is local, their checkpoints."""
        with writing(self.where, 4096):
            self._mark()
            if isinstance(self.place, Local):
                folder = self.place.path("packs")
                folder.mkdir(exist_ok=True)
                return folder
        from windtunnel.remote import scratch

        return scratch(self.where)

    def flight(self, key: str) -> Place:
        """Where a pack's checkpoints lie: in the store, so that another machine can go on from them."""
        return self.place.below(f"packs/{key}")

    def begin(self) -> None:
        """Write the store's marker where it has none, before its folder holds anything that is no record."""
        with writing(self.where, 0):
            self._mark()

    def moment(self) -> str:
        """Now as ISO text; just after the newest forecast where the clock says less, so that order in a store holds."""
        return _after(datetime.now(UTC).isoformat(), [forecast["created"] for forecast in self.forecasts()])

    def sweep(self) -> None:
        """Remove records that a killed process left half-written; one that is being written now is locked and stays."""
        self.place.sweep(beginning=".store.json.")
        for name in ("runs", "checks", "foreign", "forecasts", "packs"):
            self.place.sweep(name)

    # inside

    def _create(self, folder: str, files: dict[str, bytes]) -> bool:
        with writing(f"{self.where}/{folder}", sum(map(len, files.values()))):
            self._mark()
            return self.place.create(folder, files)

    def _mark(self) -> None:
        """The store's own marker comes first, so that no folder of a store lacks it."""
        if not self.place.has("store.json"):
            marker: dict[str, Any] = {"format": FORMAT, "what": "windtunnel store"}
            with suppress(PackageNotFoundError):
                marker["windtunnel"] = version("windtunnel")
            self.place.create_file("store.json", canonical(marker).encode())

    def _json(self, name: str, remedy: str) -> dict[str, Any]:
        return json_of(self.place.read(name, RECORD_BYTES), f"{self.where}/{name}", remedy)

    def _forecast(self, name: str) -> dict[str, Any]:
        named = f"{self.where}/{name}"
        forecast = self._json(name, "restore the file from a copy, or move it out of the store.")
        with suppress(ValueError, RecursionError):
            wrong = misfit(forecast, {"key": str, "created": str, "hash": str}, "the forecast")
            if wrong is None and forecast["hash"] == forecast_hash(forecast):
                return forecast
        raise InputError(
            f"{named} was changed after it was written: its hash does not match. A forecast is never edited; "
            f"restore the file from a copy, or move it out of the store."
        )

    def _foreign(self, folder: str) -> dict[str, Any]:
        remedy = f"restore it from a copy, or remove the folder {self.where}/{folder} and import the run again."
        found = self._json(f"{folder}/run.json", remedy)
        if found.get("seal") != seal_of(found):
            raise InputError(f"{self.where}/{folder}/run.json does not match its checksum: it is damaged; {remedy}")
        return {name: value for name, value in found.items() if name != "seal"}

    def _full_key(self, key: str) -> str:
        if key in self:
            return key
        matching = [known for known in self.keys() if known.startswith(key)] if key else []
        if len(matching) == 1:
            return matching[0]
        found = f"{len(matching)} runs" if matching else "no run"
        raise InputError(f"{found} in {self.where} with a key that begins {key!r}; `windtunnel runs` lists the keys.")

    def _check_format(self) -> None:
        # looked at before the marker: another process may be making this store
        found = [name for name in self.place.names() if not name.startswith(".store.json")]
        if not self.place.has("store.json"):
            if found:
                raise InputError(
                    f"{self.where} exists but is not a windtunnel store (no store.json in it); give an empty or new "
                    f"folder to --store."
                )
            return
        marker = self._json("store.json", f"restore it, or write {canonical({'format': FORMAT})} into it.")
        number = marker.get("format")
        if not isinstance(number, int) or number > FORMAT:
            raise InputError(
                f"The store {self.where} has format {number!r}; {upgrade(FORMAT, marker)}, or use another store."
            )


def forecast_hash(forecast: dict[str, Any]) -> str:
    """The hash a forecast is sealed with: of everything in it but the hash itself."""
    return hashlib.sha256(canonical({k: v for k, v in forecast.items() if k != "hash"}).encode()).hexdigest()


def _place_of(path: str | os.PathLike[str]) -> Place:
    text = os.fspath(path)
    if text.startswith("file://"):
        return Local(_path_of(text))
    if "://" in text:
        from windtunnel.remote import Remote

        return Remote(text)
    if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text) and not isinstance(path, str):
        raise InputError(
            f"{text} was a URL before it became a Path, which drops a slash; give the store's URL as text."
        )
    return Local(path)


def _path_of(url: str) -> str:
    """The path that a file:// URL names. Raises InputError for one that names another machine, or more than a path."""
    pieces = urlsplit(url)
    if pieces.netloc not in ("", "localhost") or pieces.query or pieces.fragment or not pieces.path:
        raise InputError(
            f"{url} does not name a folder of this machine; write file:///path, with %3F for ? and %23 for #, or give "
            f"the path itself."
        )
    return unquote(pieces.path, errors="surrogateescape")


def _after(moment: str, others: list[str]) -> str:
    """A moment, or a microsecond after the latest of others that say more than it."""
    with suppress(ValueError, OverflowError):
        latest = max(map(_time, others), default=_time(moment))
        if others and latest >= _time(moment):
            return (latest + timedelta(microseconds=1)).isoformat(timespec="microseconds")
    return moment


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
