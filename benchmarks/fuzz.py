"""Give every reader thousands of damaged and hostile files: each ends in an answer or in an InputError.

A file is a good one with bits flipped, cut, doubled or overwritten, or its JSON with values exchanged for nasty ones
and sealed again, as a stranger would. A newcomer would fuzz with noise alone, which never gets past the first check.

    python -m benchmarks.fuzz --cases 2000
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.files import seal_of
from windtunnel.store import forecast_hash

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the records of the tests serve here

NASTY: list[Any] = [
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**400, "", "\0", "../../x", "/etc/passwd", "nan", "1e999",
    [], {}, [[]], {"": {}}, "a" * 5000, "\ud800", ["x"] * 50, {"__class__": "os.system"}, 2**63, -0.0, "é" * 20,
]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A file that is read: its good bytes, its place, how it is read, and how its JSON is sealed again, if it is."""

    good: bytes
    name: str
    read: Callable[[Path], Any]
    resealed: Callable[[dict[str, Any]], dict[str, Any]] | None = None


def readers(folder: Path) -> dict[str, Reader]:
    """Every reader, by what it reads; a good store is made in `folder`."""
    from test_store import run

    store = wt.Store(folder)
    store.add(run())
    store.add_forecast(_forecast())
    store.add_check("coordinates", "k", {"slope": 0.1, "modules": [{"name": "head", "values": [1.0, 2.0]}]})
    step = _checkpoint(folder)
    record, key = f"runs/{run().key}", run().key
    unsealed = json.loads((folder / record / "run.json").read_text())
    for name in ("seal", "format", "files", "files_in"):
        del unsealed[name]
    sealed = lambda data: data | {"seal": seal_of(data)}  # noqa: E731
    hashed = lambda data: data | {"hash": forecast_hash(data)}  # noqa: E731
    read = lambda name: (folder / name).read_bytes()  # noqa: E731
    whole = lambda path: (_listed(path), wt.Store(path).get(key))  # noqa: E731
    return {
        "run.json": Reader(read(f"{record}/run.json"), f"{record}/run.json", whole, sealed),
        "run.json of 0.1.0": Reader(json.dumps(unsealed).encode(), f"{record}/run.json", whole, dict),
        "curve.npz": Reader(read(f"{record}/curve.npz"), f"{record}/curve.npz", whole),
        "curve.npz, its checksum mended": Reader(read(f"{record}/curve.npz"), "x.npz", _arrays),
        "source": Reader(read(f"{record}/source/my_idea.py"), f"{record}/source/my_idea.py", whole),
        "store.json": Reader(read("store.json"), "store.json", wt.Store, dict),
        "forecast": Reader(read(f"forecasts/{_forecast()['key']}.json"), f"forecasts/{_forecast()['key']}.json",
                           _forecasts, hashed),
        "check.json": Reader(read("checks/coordinates-k/check.json"), "checks/coordinates-k/check.json",
                             lambda path: wt.Store(path).check("coordinates", "k"), sealed),
        "state.json": Reader(read(f"{step}/state.json"), f"{step}/state.json", _restored, sealed),
        "state.safetensors": Reader(read(f"{step}/state.safetensors"), f"{step}/state.safetensors", _restored),
        "tensors, their checksum mended": Reader(read(f"{step}/state.safetensors"), "x.safetensors", _tensors),
        "scale table": Reader(_scale_table(), "scales.json", _scales, _rehashed),
        **{f"table: {name}": Reader(data, name, _table(name)) for name, data in _tables().items()},
    }  # fmt: skip


def struck(reader: Reader, folder: Path, data: bytes) -> str:
    """What became of reading a file with this content: read, refused, or the traceback of a crash."""
    path = folder / reader.name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(data)
    try:
        with redirect_stdout(io.StringIO()):
            reader.read(folder)
        return "read"
    except InputError:
        return "refused"
    except Exception:
        return traceback.format_exc()
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def damaged(reader: Reader, draw: random.Random) -> bytes:
    """The file with something done to it."""
    if reader.resealed is not None and draw.random() < 0.7:
        data = json.loads(reader.good)
        for _ in range(draw.choice((1, 1, 2, 4))):
            _exchange(data, draw)
        try:
            return json.dumps(reader.resealed(data)).encode()
        except (ValueError, TypeError):  # what cannot be sealed is damage of another kind
            return json.dumps(data).encode()
    data = bytearray(reader.good)
    for _ in range(draw.choice((1, 1, 3, 20))):
        place, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 4, 40))
        kind = draw.randrange(5)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = draw.randbytes(length)
        elif kind == 3:
            data[place:place] = draw.choice(_WORDS)
        else:
            data[place : place + length] = data[: draw.randrange(len(data) + 1)][:length]
    return bytes(data[: 1 << 20])


_WORDS = [b"nan", b"1e999", b",", b"\n", b'"', b"\0", b"{", b"[[[[", b"-1", b"\xff\xfe", b"9" * 400, b"\r", b"}", b"'"]


def _exchange(data: Any, draw: random.Random) -> None:
    """Exchange, drop or add one value somewhere in a JSON value."""
    while True:
        names = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not names:
            return
        name = draw.choice(names)
        if isinstance(data[name], dict | list) and draw.random() < 0.75:
            data = data[name]
            continue
        kind = draw.randrange(6)
        if kind == 0:
            del data[name]
        elif kind == 1 and isinstance(data, dict):
            data[draw.choice(("weather", "../x", "", "is", "\0"))] = deepcopy(draw.choice(NASTY))
        else:
            data[name] = deepcopy(draw.choice(NASTY))  # a list put into itself would be no JSON
        return


def fuzz(folder: Path, cases: int, seed: int, names: str = "") -> dict[str, Any]:
    """Give each reader `cases` damaged files; counts by reader, with the first crash of each."""
    found = {}
    for name, reader in readers(folder / "store").items():
        if names not in name:
            continue
        draw, told = random.Random(f"{seed}:{name}"), {"read": 0, "refused": 0, "crashed": 0}
        started, first = time.monotonic(), ""
        assert struck(reader, folder / "store", reader.good) == "read", (
            name,
            struck(reader, folder / "store", reader.good),
        )
        for _ in range(cases):
            what = struck(reader, folder / "store", damaged(reader, draw))
            told[what if what in told else "crashed"] += 1
            first = first or (what if what not in told else "")
        seconds = {"seconds": round(time.monotonic() - started, 1)}
        found[name] = told | seconds | ({"first crash": first} if first else {})
    return found


# the readers, and good files for them


def _listed(path: Path) -> None:
    from windtunnel.cli import main

    store = wt.Store(path)
    store.table(), repr(store)
    assert main(["runs", "--store", str(path)]) in (0, 2) and main(["runs", "--json", "--store", str(path)]) in (0, 2)


def _forecasts(path: Path) -> None:
    for stored in wt.Store(path).forecasts():
        forecast = wt.Forecast.from_json(stored)
        str(forecast), forecast.to_json()


def _restored(path: Path) -> None:
    import torch

    from windtunnel.train.saving import Saving

    shutil.copytree(path / "packs", path / "copied", dirs_exist_ok=True)
    saving = Saving(path / "copied", ["ab" * 10])
    try:
        state = saving.restored(1, torch.device("cpu"))
        assert state is not None or saving.said(), "a damaged checkpoint must be named"
    finally:
        shutil.rmtree(path / "copied")


def _arrays(path: Path) -> None:
    from windtunnel.files import arrays_of

    arrays_of((path / "x.npz").read_bytes(), "x.npz", "")


def _tensors(path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    from windtunnel.files import check_tensors

    data = (path / "x.safetensors").read_bytes()
    try:
        check_tensors(data)
        load(data)
    except (ValueError, KeyError, TypeError, SafetensorError):  # what `checkpoint` names as damage
        raise InputError("damaged") from None


def _scales(path: Path) -> None:
    from windtunnel.scaling.table import ScaleTable

    try:
        data = json.loads((path / "scales.json").read_text("utf-8"))
    except (ValueError, RecursionError):
        raise InputError("not JSON: the caller's own reading") from None
    ScaleTable.from_json(data)


def _table(name: str) -> Callable[[Path], Any]:
    folder = name.split("/")[0] if "/" in name else name
    return lambda path: wt.read_runs(path / folder)


def _forecast() -> dict[str, Any]:
    sizes = np.geomspace(1e6, 1e8, 6)
    runs = wt.Observations(params=sizes, tokens=20 * sizes, loss=1.7 + 400 * sizes**-0.36)
    return wt.fit(runs, draws=20).forecast(wt.Target(params=1e9, tokens=2e10)).to_json()


def _checkpoint(folder: Path) -> str:
    import torch

    from windtunnel.train import checkpoint
    from windtunnel.train.state import State, to_checkpoint

    tensors = torch.zeros(1, 3), {"mean": torch.zeros(1, 3)}
    state = State(
        rows=[(0,)], params=[tensors[0]], states=[tensors[1]], spent=np.zeros(1), horizons=[9], step=3, created="now"
    )
    state.train_loss = [np.ones(1)] * 3
    checkpoint.save(folder / "packs", 3, *to_checkpoint(state, ["ab" * 10]))
    return "packs/step-000000003"


def _scale_table() -> bytes:
    from windtunnel.recipe import Site
    from windtunnel.scaling.table import Scale, ScaleTable

    site = Site(role="hidden", shape=(8, 8), fan_in=8, fan_out=8)
    table = ScaleTable(scales={"w": Scale(init_std=0.1)}, forward={"head": 2.0}, sites={"w": site}, caveats=("c",))
    return json.dumps(table.to_json()).encode()


def _rehashed(data: dict[str, Any]) -> dict[str, Any]:
    import hashlib

    from windtunnel.runs import canonical

    hashed = {name: data.get(name, {}) for name in ("scales", "forward", "residual")}
    return data | {"hash": hashlib.sha256(canonical(hashed).encode()).hexdigest()[:16]}


def _tables() -> dict[str, bytes]:
    """A table of five runs in each form that is read."""
    rows = [{"params": 10.0**p, "tokens": 2 * 10.0 ** (p + 1), "loss": 4 - p / 4, "lr": 0.01} for p in range(5, 10)]
    csv = "params,tokens,loss,lr\n" + "".join(",".join(f"{v:g}" for v in row.values()) + "\n" for row in rows)
    nested = [{"config": {"lr": {"value": 0.01}}, "params": r["params"], "tokens": r["tokens"], "loss": r["loss"]}
              for r in rows]  # fmt: skip
    folded = "params,tokens,loss,config\n" + "".join(
        f"{r['params']:g},{r['tokens']:g},{r['loss']:g},\"{{'lr': {{'value': 0.01}}}}\"\n" for r in rows
    )
    return {
        "runs.csv": csv.encode(),
        "folded.csv": folded.encode(),
        "runs.tsv": csv.replace(",", "\t").encode(),
        "runs.csv.gz": gzip.compress(csv.encode()),
        "runs.json": json.dumps(rows).encode(),
        "nested.json": json.dumps(nested).encode(),
        "runs.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "columns.json": json.dumps({"columns": list(rows[0]), "data": [list(r.values()) for r in rows]}).encode(),
        "logs/events.out.tfevents.1": _events({"params": 1e6, "tokens": 2e7, "loss": 3.0}),
        "runs.parquet": _parquet(rows),
    }


def _parquet(rows: list[Mapping[str, float]]) -> bytes:
    import pandas as pd

    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file)
    return file.getvalue()


def _events(scalars: Mapping[str, float]) -> bytes:
    """A TensorBoard event file: Event.step 2, Event.summary 5, Summary.value 1, Value.tag 1, Value.simple_value 2."""
    summary = b""
    for tag, value in scalars.items():
        inner = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", value)
        summary += b"\x0a" + bytes([len(inner)]) + inner
    event = b"\x10\x01\x2a" + bytes([len(summary)]) + summary
    return struct.pack("<Q", len(event)) + bytes(4) + event + bytes(4)


def main() -> int:
    from benchmarks.common import write

    parser = argparse.ArgumentParser(description="damaged and hostile files for every reader")
    parser.add_argument("--cases", type=int, default=2000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "store" / "logs").mkdir(parents=True)
        (Path(folder) / "store" / "store.json").write_text('{"format": 1}')
        found = fuzz(Path(folder), args.cases, args.seed, args.only)
    for name, told in found.items():
        print(f"{name}: {told}" if "first crash" not in told else f"{name}: {told}\n{told['first crash']}")
    total = {kind: sum(told[kind] for told in found.values()) for kind in ("read", "refused", "crashed")}
    print(total)
    if not args.only:
        write("fuzz", {"seed": args.seed, "cases for each reader": args.cases, "total": total, "readers": found})
    return 1 if total["crashed"] else 0


if __name__ == "__main__":
    sys.exit(main())
