"""A store on any fsspec file system keeps the promises of a folder: whole records, the first writer wins, resume."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid

import fsspec
import pytest
import tiny
from test_checkpoint import VALUES, Stopped, stop_at
from test_store import forecast, run

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch import one
from windtunnel.launch.here import Here
from windtunnel.places import Local
from windtunnel.train.loop import train


@pytest.fixture(params=["memory", "local"])
def url(request, tmp_path):
    """A URL that nothing else uses: fsspec's memory, and a folder that is reached through fsspec alone."""
    return f"memory://{uuid.uuid4()}" if request.param == "memory" else f"local://{tmp_path}/bucket"


def test_a_run_comes_back_as_it_was(url):
    store = wt.Store(url)
    assert store.add(run()) and not store.add(run(loss=9.9))
    assert wt.Store(url).get(run().key[:10]) == run()
    assert dict(store.get(run().key).source) == dict(run().source)
    assert list(store.keys()) == [run().key] and len(store.table()) == 1 and str(url) in repr(store)


def test_forecasts_and_checks_are_written_once(url):
    store = wt.Store(url)
    first = store.add_forecast(forecast(loss=2.1))
    assert store.add_forecast(forecast(loss=9.9)) == first and store.forecasts() == [first]
    store.add_check("coordinates", "k", {"slope": 0.1})
    store.add_check("coordinates", "k", {"slope": 0.9})
    assert store.check("coordinates", "k") == {"slope": 0.1} and store.check("coordinates", "no") is None


def test_opening_writes_nothing_and_other_things_are_refused(url):
    store = wt.Store(url)
    assert not store.exists() and store.runs() == [] and store.forecasts() == []
    fs, root = fsspec.core.url_to_fs(url)
    assert not fs.exists(root)
    fs.makedirs(root)
    fs.pipe(f"{root}/holiday.jpg", b"")
    with pytest.raises(InputError, match="is not a windtunnel store"):
        wt.Store(url)


@pytest.mark.parametrize("before", [1, 2])
def test_a_writer_that_dies_before_the_last_object_leaves_no_record(url, monkeypatch, before):
    store, made = wt.Store(url), []
    store.add(run(1))
    real = store.place.fs.pipe_file

    def dying(path, value, **options):
        made.append(path)
        if len(made) > before:
            raise KeyboardInterrupt
        return real(path, value, **options)

    monkeypatch.setattr(store.place.fs, "pipe_file", dying)
    with pytest.raises(KeyboardInterrupt):
        store.add(run())
    monkeypatch.undo()
    assert made and run().key not in store and run().key not in [r.key for r in wt.Store(url).runs()]
    assert store.add(run()) and store.get(run().key) == run()


def test_two_writers_with_different_curves_never_mix(url, monkeypatch):
    """Both find nothing and write; only one run.json stays, and the files that it names are its own."""
    store = wt.Store(url)
    store.add(run(1))
    monkeypatch.setattr(wt.Store, "__contains__", lambda self, key: False)
    curves = [dict(run().curve) | {"train_loss": run().curve["train_loss"] + i} for i in range(2)]
    both = [
        threading.Thread(target=wt.Store(url).add, args=(run(loss=float(i + 1), curve=c),))
        for i, c in enumerate(curves)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    found = store.get(run().key)
    assert found.curve["train_loss"][0] == curves[int(found.loss) - 1]["train_loss"][0]


def test_a_file_system_that_cannot_create_exclusively_still_keeps_the_first(url, monkeypatch):
    store = wt.Store(url)
    real = store.place.fs.pipe_file

    def plain(path, value, mode=None):
        if mode is not None:
            raise TypeError("pipe_file() got an unexpected keyword argument 'mode'")
        return real(path, value)

    monkeypatch.setattr(store.place.fs, "pipe_file", plain)
    assert store.add(run()) and not store.add(run(loss=9.9)) and store.get(run().key).loss == 2.5


def test_a_damaged_object_is_named(url):
    store = wt.Store(url)
    store.add(run())
    fs, root = fsspec.core.url_to_fs(url)
    (curve,) = [path for path in fs.find(root) if path.endswith("curve.npz")]
    fs.pipe(curve, fs.cat(curve)[:-1])
    with pytest.raises(InputError, match=r"curve.npz does not match the checksum"):
        store.get(run().key)


def test_a_copy_of_a_remote_store_is_a_local_one(url, tmp_path):
    wt.Store(url).add(run())
    fs, root = fsspec.core.url_to_fs(url)
    for path in fs.find(root):
        there = tmp_path / "copy" / str(path).removeprefix(root).lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(fs.cat_file(path))
    assert wt.Store(tmp_path / "copy").get(run().key) == run()


def test_a_pack_goes_on_from_a_checkpoint_in_the_store(corpus, url, monkeypatch):
    """As on another machine, after this one is lost: the locks alone are local."""
    store, pack, steps = wt.Store(url), tiny.pack(tiny.recipe(corpus), VALUES[:2]), []
    monkeypatch.setitem(train.__kwdefaults__, "checkpoint_seconds", -1.0)

    def lost(progress):
        if progress.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.execute(pack, store, device=tiny.CPU, report=lost)
    Here(devices=1)([pack], wt.Store(url), lambda p: steps.append(p.step))
    assert steps == list(range(10, tiny.STEPS + 1))
    whole = train(pack, device=tiny.CPU)
    assert [tiny.numbers(store.get(spec.key)) for spec in pack.specs] == [tiny.numbers(r) for r in whole]
    assert store.place.names("packs") == [] or store.place.below("packs").names(pack.key) == []


def test_a_damaged_checkpoint_in_the_store_is_named(corpus, url):
    store, pack = wt.Store(url), tiny.pack(tiny.recipe(corpus), VALUES[:2])
    place, said = store.flight(pack.key), []
    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=place, checkpoint_seconds=-1.0, report=stop_at(9))
    place.fs.pipe_file(place._path("step-000000008/state.safetensors"), b"")
    again = train(pack, device=tiny.CPU, folder=place, report=lambda p: said.extend(p.said))
    assert [tiny.numbers(r) for r in again] == [tiny.numbers(r) for r in train(pack, device=tiny.CPU)]
    assert "cannot be used" in said[0] and "from step 7" in said[0]


def test_what_cannot_be_reached_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"s3://bucket/x (needs a library|cannot be reached)"):
        wt.Store("s3://bucket/x")
    with pytest.raises(InputError, match=r"nonsense://x (needs a library|cannot be reached)"):
        wt.Store("nonsense://x")


def test_a_url_of_a_file_is_a_folder(tmp_path):
    store = wt.Store(f"file://{tmp_path}/store")
    assert isinstance(store.place, Local) and store.add(run()) and wt.Store(tmp_path / "store").get(run().key)


def test_a_url_of_a_file_is_read_as_urls_are(tmp_path):
    assert wt.Store(f"file://localhost{tmp_path}/a%20store").path == tmp_path / "a store"
    for url in (f"file://node7{tmp_path}", f"file://{tmp_path}?x", "file://"):
        with pytest.raises(InputError, match="does not name a folder of this machine"):
            wt.Store(url)


def test_packs_for_a_store_in_memory_are_trained_by_the_process_that_holds_it(corpus):
    store = wt.Store(f"memory://{uuid.uuid4()}")
    packs = [tiny.pack(tiny.recipe(corpus), [values]) for values in VALUES[:2]]
    Here(devices=2)(packs, store)
    assert set(store.keys()) == {pack.specs[0].key for pack in packs}


def test_a_folder_needs_no_fsspec(tmp_path):
    code = f"""
import sys
sys.modules["fsspec"] = None
import windtunnel as wt
wt.Store({str(tmp_path / "store")!r}).runs()
try:
    wt.Store("s3://bucket/x")
except wt.errors.InputError as error:
    assert "pip install 'windtunnel[remote]'" in str(error)
else:
    raise SystemExit(1)
"""
    assert subprocess.run([sys.executable, "-c", "import windtunnel.errors\n" + code]).returncode == 0
