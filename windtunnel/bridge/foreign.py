"""Runs that were trained elsewhere, as records of a store with their provenance, apart from our own.

What one is: numbers, a curve and where they came from. It may be fitted, lend its curve's shape to a run in flight,
and be the truth that a forecast is scored against. It may not stand for a run of a Study: what it was trained on, with
which code, and by which held-out data it was judged is not known, so it has no key of ours, lies under foreign/, and a
Study trains its own rungs as if it were not there. A newcomer would import an old sweep to save its compute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.files import misfit
from windtunnel.forecasts.band import Past
from windtunnel.laws.observations import ALL_SIZES, Observations, with_flops
from windtunnel.laws.reading import read_runs
from windtunnel.laws.reading.logs import read_log
from windtunnel.runs import canonical
from windtunnel.store import Store

LONGEST = 4096  # rows of a curve that are kept, evenly spaced: as many as a figure shows, 200 kB
TEXTS = ("seed", "series", "idea")
_NUMBER = (int, float)
_SHAPE = {
    "key": str, "name": str, "numbers": {str: _NUMBER}, "texts": {str: str}, "share": [_NUMBER], "curve": [_NUMBER],
    "provenance": {str: str}, "caveats": [str], "created": str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ForeignRun:
    """One finished run of others. `numbers` holds its final `loss` and what is known of params, tokens, flops, lr, ...

    `curve` is its loss at `share` of its horizon, both empty where no curve was read. `provenance` says where it came
    from (tool, file, checksum, versions). `created` is when it was recorded, as ISO time, and no part of the key.
    """

    name: str
    numbers: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)
    share: Sequence[float] = ()
    curve: Sequence[float] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()
    created: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("share", "curve", "caveats"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def loss(self) -> float:
        """Its final loss."""
        return self.numbers["loss"]

    @property
    def key(self) -> str:
        """A hash of all that is known of it but the moment, so that reading a file twice adds nothing."""
        known = {name: value for name, value in self._data().items() if name != "created"}
        return hashlib.sha256(f"foreign:{canonical(known)}".encode()).hexdigest()[:20]

    def past(self) -> Past | None:
        """Its curve as the watch of a run in flight reads it; None where there is none."""
        if not len(self.curve):
            return None
        return Past(np.array(self.share, float), np.array(self.curve, float), self.loss, self.name)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"key": self.key, **self._data()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ForeignRun:
        """The run that `to_json` wrote. Raises InputError for anything else."""
        wrong = misfit(data, _SHAPE, "it")
        found = None if wrong else cls(**{f.name: data[f.name] for f in fields(cls)})
        if found is None or found.key != data["key"]:
            raise InputError(f"This is not a foreign run's record: {wrong or 'its key does not fit'}.")
        return found

    def _data(self) -> dict[str, Any]:
        held = asdict(self)
        return held | {name: list(held[name]) for name in ("share", "curve", "caveats")}


def foreign_run(
    name: str, numbers: Mapping[str, float], *, share: Any = (), curve: Any = (), **more: Any
) -> ForeignRun:
    """A run recorded now, its curve without what is not finite and thinned to `LONGEST` rows.

    Raises InputError where it has no positive loss.
    """
    known = {called: float(value) for called, value in numbers.items() if np.isfinite(value)}
    if not known.get("loss", 0) > 0:
        raise InputError(f"The run {name!r} has loss {numbers.get('loss')}; only a run with a positive loss is kept.")
    where, loss = np.asarray(share, float), np.asarray(curve, float)
    finite = np.flatnonzero(np.isfinite(loss) & (loss > 0))
    if len(finite) > LONGEST:
        finite = finite[np.unique(np.linspace(0, len(finite) - 1, LONGEST).round().astype(int))]
    rows = {"share": where[finite].tolist(), "curve": loss[finite].tolist()}
    return ForeignRun(name=name, numbers=known, created=datetime.now(UTC).isoformat(), **rows, **more)


def keep(store: Store, runs: Iterable[ForeignRun]) -> int:
    """Add runs to a store; how many were not there yet."""
    return sum(store.add_foreign(run.key, run.to_json()) for run in runs)


def bring_runs(
    store: Store, path: str | Path, columns: Mapping[str, str] | str | None = None, *, tool: str = "",
    curve: str | None = None,
) -> list[ForeignRun]:  # fmt: skip
    """Read a table or an export of a tracker and keep its finished runs in the store; returns them all.

    `path` and `columns` as for `wt.read_runs`: CSV, Parquet, JSON, exports of W&B and MLflow, an `mlruns` folder,
    TensorBoard's files. `tool` is a remark on what wrote it. `curve` names the metric whose history is kept as the
    runs' curves, where `path` is a folder of runs. What was doubtful goes with every run as its caveats. Raises
    InputError.
    """
    place = Path(path)
    found = read_runs(place, columns)
    provenance = {"file": str(place.absolute()), "sha256": _checksum(place), "tool": tool or "table"}
    names = [] if found.key is None or not place.is_dir() or curve is None else [str(key) for key in found.key]
    return brought(store, found, provenance, {name: _logged(place, name, curve or "") for name in names})


def brought(
    store: Store, found: Observations, provenance: Mapping[str, str], curves: Mapping[str, tuple[Any, Any]]
) -> list[ForeignRun]:
    """Keep what was read, with the curves (share, loss) that are known by the runs' keys."""
    runs = [_of_row(found, row, provenance, curves) for row in range(len(found))]
    keep(store, runs)
    return runs


def foreign_runs(store: Store, series: str | None = None) -> list[ForeignRun]:
    """The foreign runs of a store, those of one series where it is given. Raises InputError for a damaged record.

    A run that was brought again from a longer table or tracker, with the same numbers, is given once, as it came last.
    """
    runs = sorted((ForeignRun.from_json(data) for data in store.foreign()), key=lambda run: run.created)
    last = {_whose(run): run for run in runs}
    return [run for run in last.values() if series is None or run.texts.get("series") == series]


def _whose(run: ForeignRun) -> str:
    """What a run is, but for the moment, the state of the file it came in and what was said of all that was there."""
    origin = {name: text for name, text in run.provenance.items() if name != "sha256"}
    return canonical({"name": run.name, "numbers": run.numbers, "texts": run.texts, "provenance": origin})


def observations_of(runs: Sequence[ForeignRun]) -> Observations:
    """Foreign runs as the laws read them, with the caveat that they are; a size that one of them lacks is left out.

    Raises InputError where there are none.
    """
    if not runs:
        raise InputError("There are no foreign runs here; bring some with bring_runs(store, path).")
    sizes = [name for name in ALL_SIZES if all(name in run.numbers for run in runs)]
    columns: dict[str, Any] = {name: np.array([run.numbers[name] for run in runs]) for name in ("loss", *sizes)}
    for name in TEXTS:
        if any(name in run.texts for run in runs):
            columns[name] = np.array([run.texts.get(name, "") for run in runs])
    caveats = [
        f"{len(runs)} runs are foreign: what they were trained on and how they were judged is their owner's word.",
        *dict.fromkeys(caveat for run in runs for caveat in run.caveats),
    ]
    keys = np.array([run.key for run in runs])
    return with_flops(Observations(**columns, key=keys, source="foreign runs", caveats=tuple(caveats)))


def _of_row(
    found: Observations, row: int, provenance: Mapping[str, str], curves: Mapping[str, tuple[Any, Any]]
) -> ForeignRun:
    numbers = {name: float(getattr(found, name)[row]) for name in ("loss", *ALL_SIZES)
               if getattr(found, name) is not None}  # fmt: skip
    texts = {name: str(getattr(found, name)[row]) for name in TEXTS if getattr(found, name) is not None}
    name = str(found.key[row]) if found.key is not None else f"row {row + 1}"
    split = {} if found.split is None else {"split": str(found.split[row])}
    share, curve = curves.get(name, ((), ()))
    return foreign_run(name, numbers, texts=texts, provenance={**provenance, **split}, caveats=found.caveats,
                       share=share, curve=curve)  # fmt: skip


def _logged(folder: Path, run: str, metric: str) -> tuple[Any, Any]:
    """Share and loss of a run of a folder, by the name that `read_runs` gave it: a folder somewhere below."""
    known = (
        [folder] if folder.name == run else sorted(p for p in [folder / run, *folder.glob(f"*/{run}")] if p.is_dir())
    )
    if not known:
        raise InputError(f"{folder} has no folder of the run {run!r}, whose {metric} was asked for.")
    log = read_log(known[0], {"loss": metric}, whole=True)
    return (log.at / log.at[-1], log.loss) if len(log) else ((), ())


def _checksum(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    total = hashlib.sha256()
    for each in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(each.relative_to(path).as_posix().encode())
        with open(each, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()
