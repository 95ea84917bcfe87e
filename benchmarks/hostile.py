"""A corpus of hostile files, each given to every reader that might take it: none may run code or write elsewhere.

Whether something ran is not asked of the files alone: Python's audit events tell of every unpickling, process started
and code compiled from text while a reader is at work. `tests/test_hostile.py` runs this in a process of its own.

    python -m benchmarks.hostile
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.files import seal_of, sha256

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]  # the records of the tests serve here

EVENTS = (
    "pickle.find_class",
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
)
KEY = "0" * 20


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def contents(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Hostile bytes by name, for any file that is read."""
    shell = f"touch {mark}"
    for protocol in range(6):
        yield f"pickle of protocol {protocol}", pickle.dumps(Payload(mark), protocol)
    yield "gzipped pickle", gzip.compress(pickle.dumps(Payload(mark)))
    yield "torch.save of a payload", _torch_file(mark)
    yield "npz of objects", _npz({"a.npy": _npy(np.array([Payload(mark)], object))})
    yield "npy of objects", _npy(np.array([Payload(mark)], object))
    yield "npz whose header is an expression", _npz({"a.npy": _header(f"__import__('os').system('{shell}')")})
    yield "npz that leaves its folder", _npz({"../../escaped.npy": _npy(np.zeros(2)), "/tmp/escaped.npy": b""})
    yield "npz with a name that ends early", _npz({"a\0../escaped.npy": _npy(np.zeros(2))})
    yield "npz with names of Windows", _npz({"..\\..\\escaped.npy": _npy(np.zeros(2))})
    yield "npz a thousandfold", _npz({f"{i}.npy": _npy(np.zeros(1)) for i in range(1000)})
    yield "npz of zeros, 2 GB of them", _bomb()
    yield "npz within npz", _npz({"a.npy": _npz({"a.npy": _npy(np.zeros(2))})})
    yield "gzip of zeros, 2 GB of them", _gzip_bomb()
    yield "YAML that calls", f"!!python/object/apply:os.system ['{shell}']\n".encode()
    yield "YAML with anchors that double", b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"
    yield "JSON of jsonpickle", json.dumps({"py/reduce": [{"py/function": "os.system"}, [shell]]}).encode()
    yield "JSON with a prototype", json.dumps({"__proto__": {"x": 1}, "__class__": "os.system"}).encode()
    yield "JSON nested for ever", b"[" * 200_000
    yield "JSON of one long number", b'{"format": ' + b"9" * 200_000 + b"}"
    yield "JSON with half a character", b'{"format": 1, "x": "\\ud800"}'
    yield "CSV of formulas", f"params,tokens,loss\n=cmd|'/c {shell}'!A1,1,2\n".encode()
    yield (
        "CSV with a call in a cell",
        f"params,loss,config\n1,2,\"{{'a': __import__('os').system('{shell}')}}\"\n".encode(),
    )
    yield "CSV nested for ever", b'params,loss,config\n1,2,"' + b"{" * 100_000 + b'"\n'
    yield "Python", f"import os; os.system({shell!r})\n".encode()
    yield "XML that reads files", b'<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><x>&y;</x>'
    yield "safetensors of a huge header", (1 << 62).to_bytes(8, "little") + b"{}"
    yield "safetensors of a huge tensor", _tensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}})
    yield (
        "safetensors that overlap",
        _tensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}),
    )
    yield "events of a huge record", (1 << 62).to_bytes(8, "little") + bytes(8)
    yield "nothing", b""


def records(mark: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a stranger writes into a run.json and seals."""
    yield "a curve from elsewhere", {"files": {"../../../secret": "0"}, "files_in": ""}
    yield "a curve by an absolute path", {"files": {"curve.npz": "0", "/etc/passwd": "0"}}
    yield "a folder that leads out", {"files_in": "../../../"}
    yield "a name that ends early", {"files": {"curve.npz": "0", "source/a\0b": "0"}}
    yield "another key", {"key": "../../../secret"}
    yield "a part to import", {"spec": {"recipe": {"optimizer": {"is": f"os:system('touch {mark}')"}}}}
    yield "labels that write to the terminal", {"labels": {"idea": "\x1b]0;owned\x07", "<script>": "alert(1)"}}
    yield (
        "sizes beyond all",
        {"size": {"embedding": 10**30, "non_embedding": -1, "flops_per_token": 1e308, "tied": True}},
    )


def links(store: Path, outside: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Things in a store that are no plain files."""
    record = store / "runs" / KEY

    def linked(path: Path, to: Path | str) -> None:
        path.unlink() if path.is_file() else shutil.rmtree(path)
        path.symlink_to(to)

    def pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    yield "run.json is a link", lambda: linked(record / "run.json", outside / "secret")
    yield "curve.npz is a link", lambda: linked(record / "curve.npz", outside / "secret")
    yield "source is a link", lambda: linked(record / "source", outside)
    yield "a record is a link", lambda: linked(record, outside / "record")
    yield "run.json is a device", lambda: linked(record / "run.json", "/dev/zero")
    yield "run.json is a pipe", lambda: pipe(record / "run.json")
    yield "a forecast is a link", lambda: linked(store / "forecasts" / ("ab" * 10 + ".json"), outside / "secret")


def names(store: wt.Store) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names that lead elsewhere, given to whatever takes a name."""
    from test_store import forecast, run

    for bad in ("../../escaped", "/tmp/escaped", "a\0b", "..", "a/../../escaped", "~/x", "a" * 5000):
        yield f"key {bad[:20]!r}", lambda bad=bad: store.get(bad)
        yield f"forecast {bad[:20]!r}", lambda bad=bad: store.add_forecast(forecast(bad))
        yield f"check {bad[:20]!r}", lambda bad=bad: store.add_check(bad, "k", {})
        yield f"source {bad[:20]!r}", lambda bad=bad: store.add(run(hash(bad) % 10**6, source={bad: "x"}))
        yield f"pack {bad[:20]!r}", lambda bad=bad: store.flight(bad).create_file("x", b"")


def attacked(folder: Path) -> dict[str, Any]:
    """Give every file to every reader; what ran, what appeared outside, what crashed."""
    root, outside = folder / "root", folder / "outside"
    mark = outside / "mark"
    heard: list[str] = []
    listening = [False]
    corpus = list(contents(mark))  # before listening: making them is our own doing
    (outside / "record").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    before = _everything(folder, root)
    sys.addaudithook(lambda event, args: heard.append(event) if listening[0] and event in EVENTS else None)
    told = {"read": 0, "refused": 0, "crashed": []}

    def give(name: str, read: Callable[[], Any]) -> None:
        listening[0] = True
        try:
            with redirect_stdout(io.StringIO()):
                read()
            told["read"] += 1
        except InputError:
            told["refused"] += 1
        except Exception as error:
            told["crashed"].append(f"{name}: {error!r}")
        finally:
            listening[0] = False

    given = 0
    for name, data in corpus:
        for what, read in _readers(_made(root), data):
            give(f"{name} as {what}", read)
            given += 1
    for name, change in records(mark):
        store = _made(root)
        path = root / "runs" / KEY / "run.json"
        record = json.loads(path.read_text())
        record["spec"] |= change.pop("spec", {})
        path.write_text(
            json.dumps(sealed := record | change | {"seal": ""}).replace('"seal": ""', f'"seal": "{seal_of(sealed)}"')
        )
        give(name, lambda store=store: (store.records(), store.get(KEY)))
        given += 1
    for name, change in links(root, outside):
        store = _made(root)
        change()
        give(name, lambda store=store: (store.records(), store.get(KEY), store.forecasts()))
        given += 1
    store = _made(root)
    for name, read in names(store):
        give(name, read)
        given += 1
    appeared = sorted(set(_everything(folder, root)) ^ set(before))
    return {"files": len(corpus) + len(list(records(mark))) + len(list(links(root, outside))), "given": given,
            "events": heard, "appeared outside": appeared, **told}  # fmt: skip


def _readers(store: wt.Store, data: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    from windtunnel.files import arrays_of
    from windtunnel.train import checkpoint

    root = store.path
    yield "curve.npz with its checksum", lambda: (_mended(root, data), store.get(KEY))
    for name in ("run.json", "curve.npz", "source/my_idea.py"):
        yield name, lambda name=name: (_put(root / "runs" / KEY / name, data), wt.Store(root).records(), store.get(KEY))
    yield "an array file", lambda: arrays_of(data, "x", "")
    yield "forecast", lambda: (_put(root / "forecasts" / ("ab" * 10 + ".json"), data), store.forecasts())
    yield (
        "check",
        lambda: (_put(root / "checks" / "coordinates-k" / "check.json", data), store.check("coordinates", "k")),
    )
    step = root / "packs" / KEY / "step-000000001"
    for name in ("state.json", "state.safetensors", ".metadata"):
        yield name, lambda name=name: (_put(step / name, data), checkpoint.newest(store.flight(KEY)))
    yield "checkpoint with its checksum", lambda: (_step(store, data), checkpoint.newest(store.flight(KEY)))
    for name in ("x.csv", "x.json", "x.jsonl", "x.parquet", "x.csv.gz", "x.tsv", "logs/events.out.tfevents.1",
                 "mlruns/0/abc/meta.yaml"):  # fmt: skip
        top = root / "tables" / name.split("/")[0]
        yield name, lambda name=name, top=top: (_put(root / "tables" / name, data), wt.read_runs(top))
    yield "store.json", lambda: (_put(root / "store.json", data), wt.Store(root))


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _made(root: Path) -> wt.Store:
    from test_store import forecast, run

    shutil.rmtree(root, ignore_errors=True)
    store = wt.Store(root)
    store.add(run())
    path = root / "runs" / run().key
    record = json.loads((path / "run.json").read_text()) | {"key": KEY}
    (path / "run.json").write_text(json.dumps(record | {"seal": seal_of(record)}))
    path.rename(root / "runs" / KEY)
    store.add_forecast(forecast())
    store.add_check("coordinates", "k", {"slope": 0.1})
    return store


def _mended(root: Path, data: bytes) -> None:
    path = root / "runs" / KEY
    (path / "curve.npz").write_bytes(data)
    record = json.loads((path / "run.json").read_text())
    record["files"]["curve.npz"] = record["curve_sha256"] = sha256(data)
    (path / "run.json").write_text(json.dumps(record | {"seal": seal_of(record)}))


def _step(store: wt.Store, data: bytes) -> None:
    facts = {"format": 2, "step": 1, "sha256": sha256(data), "bytes": len(data), "members": [KEY]}
    _put(store.path / "packs" / KEY / "step-000000001" / "state.safetensors", data)
    text = json.dumps(facts | {"seal": seal_of(facts)}).encode()
    _put(store.path / "packs" / KEY / "step-000000001" / "state.json", text)


def _everything(folder: Path, root: Path) -> list[str]:
    """All files but those of the root, and what lies where a name could have led."""
    found = [str(path) for path in folder.rglob("*") if root not in (path, *path.parents)]
    return found + [str(path) for path in Path("/tmp").glob("escaped*")]


def _npz(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the constructor would cut it at a NUL
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _header(expression: str) -> bytes:
    text = f"{{'descr': {expression}, 'fortran_order': False, 'shape': (1,)}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)


def _bomb() -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as out,
    ):
        for _ in range(2048):
            out.write(bytes(1 << 20))
    return file.getvalue()


def _gzip_bomb() -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as out:
        for _ in range(2048):
            out.write(bytes(1 << 20))
    return file.getvalue()


def _tensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4)


def _torch_file(mark: Path) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(Payload(mark), file)
    return file.getvalue()


def main() -> int:
    from benchmarks.common import write

    with tempfile.TemporaryDirectory() as folder:
        found = attacked(Path(folder))
    print(json.dumps(found, indent=1))
    if "--check" not in sys.argv:
        write("hostile", found)
    return 1 if found["events"] or found["appeared outside"] or found["crashed"] else 0


if __name__ == "__main__":
    sys.exit(main())
