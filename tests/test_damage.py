"""A flipped or missing byte anywhere is noticed before it is used, named, and costs as little as it can.

Records carry a seal over everything in run.json and a checksum of each file beside it; checkpoints likewise.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_checkpoint import VALUES, Stopped, stop_at
from test_store import forecast, run

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.files import arrays_of, check_tensors, seal_of
from windtunnel.train import checkpoint, saving
from windtunnel.train.loop import train

FLIPS = 150  # of each file; benchmarks/fuzz.py does thousands


@pytest.fixture
def store(tmp_path):
    store = wt.Store(tmp_path / "store")
    store.add(run())
    return store


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit changed, or the end cut off."""
    place = draw.randrange(len(data))
    if draw.random() < 0.3:
        return data[:place]
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


# records


@pytest.mark.parametrize("name", ["run.json", "curve.npz", "source/my_idea.py"])
def test_a_record_with_any_damage_is_never_taken_for_another(store, name):
    there, draw = store.get(run().key), random.Random(0)
    path = store.path / "runs" / run().key / name
    good, refused = path.read_bytes(), 0
    for _ in range(FLIPS):
        path.write_bytes(flipped(good, draw))
        try:
            back = store.get(run().key)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
        else:  # a space for a tab, or 1e5 for 1E5: the same record
            assert back == there and dict(back.source) == dict(there.source)
    assert refused > 0.9 * FLIPS


def test_a_changed_loss_is_noticed_in_lists_too(store):
    path = store.path / "runs" / run().key / "run.json"
    path.write_text(path.read_text().replace('"loss": 2.5', '"loss": 2.4'))
    for look in (store.records, store.table, store.runs):
        with pytest.raises(InputError, match=r"run.json is damaged .*checksum.*remove the folder .* trains it again"):
            look()


def test_a_record_without_a_seal_from_an_older_windtunnel_still_opens(store):
    path = store.path / "runs" / run().key / "run.json"
    record = json.loads(path.read_text())
    for name in ("seal", "format", "files", "files_in"):
        del record[name]
    path.write_text(json.dumps(record))
    assert store.get(run().key) == run() and dict(store.get(run().key).source) == dict(run().source)


def test_a_seal_that_was_taken_off_is_missed(store):
    path = store.path / "runs" / run().key / "run.json"
    record = json.loads(path.read_text())
    del record["seal"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="does not match its own checksum"):
        store.get(run().key)


def test_a_record_of_a_newer_version_names_the_line_that_upgrades(store):
    path = store.path / "runs" / run().key / "run.json"
    record = json.loads(path.read_text()) | {"format": 3, "versions": {"windtunnel": "0.9.2"}, "entirely": "new"}
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"format 3; .* reads up to 2.*pip install --upgrade 'windtunnel>=0.9.2'"):
        store.get(run().key)


def test_a_record_under_another_key_is_refused(store):
    other = "0" * 20
    shutil.copytree(store.path / "runs" / run().key, store.path / "runs" / other)
    with pytest.raises(InputError, match="it holds the run"):
        store.get(other)


RESEALED = {
    "loss": ["2.5", None, float("nan"), float("inf"), True, [], {}],
    "outcome": ["won", 3, None],
    "metrics": [[], {"accuracy": "high"}],
    "size": [{}, {"embedding": 1.5, "non_embedding": 1, "flops_per_token": 1.0, "tied": False}],
    "cost": [None, {"flops": "many"}],
    "spec": [None, {}, {"recipe": {}, "hyperparameters": {}, "seed": 0, "judge": {}, "rung": {}, "base_rung": {}}],
    "files": [{}, [], {"curve.npz": 3}, {"../../curve.npz": "0"}, {"curve.npz": "0", "/etc/passwd": "0"}],
    "files_in": ["../", "/", "by-00000000/../", 3],
    "labels": [{"idea": 3}],
    "created": [3],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in RESEALED.items() for value in values])
def test_a_record_that_was_sealed_with_wrong_things_in_it_is_refused(store, name, value):
    path = store.path / "runs" / run().key / "run.json"
    record = json.loads(path.read_text()) | {name: value}
    path.write_text(json.dumps(record | {"seal": seal_of(record)}))
    with pytest.raises(InputError, match=r"run\.json"):
        store.get(run().key)


def test_unknown_fields_are_left_aside(store):
    path = store.path / "runs" / run().key / "run.json"
    record = json.loads(path.read_text()) | {"weather": "windy"}
    record["cost"] |= {"joules": 3.0}
    path.write_text(json.dumps(record | {"seal": seal_of(record)}))
    assert store.get(run().key) == run()


@pytest.mark.parametrize("name", ["run.json", "forecast", "check.json"])
def test_a_file_too_long_is_not_read(store, name, monkeypatch):
    store.add_forecast(forecast())
    store.add_check("coordinates", "k", {"slope": 0.1})
    reads = {
        "run.json": (store.path / "runs" / run().key / "run.json", lambda: store.get(run().key)),
        "forecast": (store.path / "forecasts" / ("ab" * 10 + ".json"), store.forecasts),
        "check.json": (store.path / "checks" / "coordinates-k" / "check.json", lambda: store.check("coordinates", "k")),
    }
    path, read = reads[name]
    with open(path, "wb") as file:
        file.truncate(2 << 30)  # a hole: no disk is used
    monkeypatch.setattr("builtins.open", None)  # reading it would fail otherwise
    with pytest.raises(InputError, match="2,147,483,648 bytes; what belongs there has at most"):
        read()


# arrays and tensors


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def test_arrays_come_back_with_their_shapes_and_kinds():
    there = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.asfortranarray(np.eye(3)),
        "none": np.zeros((0, 2)),
        "one": np.float64(1),
    }
    back = arrays_of(npz(**there), "x", "")
    assert {n: (a.dtype, a.shape, a.tolist()) for n, a in back.items()} == {
        n: (np.asarray(a).dtype, np.shape(a), np.asarray(a).tolist()) for n, a in there.items()
    }


def test_a_bomb_of_zeros_is_not_unpacked(monkeypatch):
    monkeypatch.setattr("windtunnel.files.CURVE_BYTES", 10_000_000)
    bomb = npz(a=np.zeros(2_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match="16,000,128 bytes; at most"):
        arrays_of(bomb, "curve.npz", "")


def test_a_shape_that_its_bytes_cannot_hold_is_not_allocated():
    small = io.BytesIO()
    np.save(small, np.zeros(10))
    lying = small.getvalue().replace(b"(10,), }      ", b"(10000000000,), }")
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", lying)
    with pytest.raises(InputError, match="said to be of shape"):
        arrays_of(file.getvalue(), "curve.npz", "")


def test_a_tensor_file_is_measured_before_it_is_loaded():
    from safetensors.torch import save

    good = save({"a": torch.zeros(4), "b": torch.ones(2, 3)})
    check_tensors(good)
    for bad in (good[:-1], good + b"x", b"", (1 << 60).to_bytes(8, "little") + good[8:], good[:9]):
        with pytest.raises(ValueError):
            check_tensors(bad)


# checkpoints


@pytest.fixture(scope="module")
def stopped_pack(corpus, tmp_path_factory):
    """A pack, its folder as a death after step 9 left it, and the runs of an undisturbed one."""
    pack, folder = tiny.pack(tiny.recipe(corpus), VALUES[:2]), tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=folder, checkpoint_seconds=-1.0, report=stop_at(9))
    return pack, folder, [tiny.numbers(r) for r in train(pack, device=tiny.CPU)]


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_checkpoint_with_any_damage_is_never_used(stopped_pack, tmp_path, name):
    _, folder, _ = stopped_pack
    step, draw, noticed = "step-000000008", random.Random(1), 0
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    good = (tmp_path / step / name).read_bytes()
    facts, tensors = checkpoint.newest(folder) or ({}, {})
    for _ in range(FLIPS):
        (tmp_path / step / name).write_bytes(flipped(good, draw))
        found, damaged = checkpoint.search(tmp_path, lambda facts, tensors: (facts, tensors))
        assert found is not None
        if damaged:
            noticed += 1
            assert found[0]["step"] == 7
        else:
            assert found[0] == facts and all(torch.equal(t, tensors[n]) for n, t in found[1].items())
    assert noticed > 0.9 * FLIPS


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(stopped_pack, tmp_path):
    pack, folder, whole = stopped_pack
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "step-000000008" / "state.json"
    path.write_text(path.read_text().replace('"seconds": ', '"seconds": 1'))
    said: list[str] = []
    again = train(pack, device=tiny.CPU, folder=tmp_path, report=lambda p: said.extend(p.said), checkpoint_seconds=-1.0)
    assert [tiny.numbers(r) for r in again] == whole
    (sentence,) = said
    assert f"{tmp_path}/step-000000008 cannot be used (state.json does not match its own checksum)" in sentence
    assert "goes on from step 7; 1 steps are trained again" in sentence
    assert (tmp_path / "damaged-step-000000008").is_dir() and checkpoint.newest(tmp_path)[0]["step"] == tiny.STEPS


def test_with_no_good_checkpoint_it_is_said_that_training_begins_again(stopped_pack, tmp_path):
    pack, folder, whole = stopped_pack
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/state.safetensors"):
        path.write_bytes(b"\x80\x04")
    said: list[str] = []
    again = train(pack, device=tiny.CPU, folder=tmp_path, report=lambda p: said.extend(p.said))
    assert [tiny.numbers(r) for r in again] == whole
    assert len(said) == 2 and all("from the first step" in sentence for sentence in said)


def test_a_checkpoint_of_a_newer_version_is_not_trained_over(stopped_pack, tmp_path):
    pack, folder, _ = stopped_pack
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "step-000000008" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": checkpoint.FORMAT + 1}))
    with pytest.raises(InputError, match="newer windtunnel"):
        train(pack, device=tiny.CPU, folder=tmp_path)


def test_a_sealed_checkpoint_of_another_shape_is_not_used(stopped_pack, tmp_path):
    pack, _, whole = stopped_pack
    members = [spec.key for spec in pack.specs]
    checkpoint.save(tmp_path, 5, {"param.0": torch.zeros(3)}, {"members": members, "alive": "all"})
    said: list[str] = []
    again = train(pack, device=tiny.CPU, folder=tmp_path, report=lambda p: said.extend(p.said))
    assert [tiny.numbers(r) for r in again] == whole and "does not have the shape" in said[0]


def test_what_draws_from_generators_changes_nothing(stopped_pack, tmp_path):
    """Data, initial values and noise are functions of seed and step: there is no generator to save."""
    pack, folder, whole = stopped_pack
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)

    def disturb(progress):
        torch.manual_seed(progress.step)
        np.random.seed(progress.step)
        random.seed(progress.step)

    disturb(type("P", (), {"step": 77}))
    again = train(pack, device=tiny.CPU, folder=tmp_path, report=disturb)
    assert [tiny.numbers(r) for r in again] == whole


def test_the_interval_follows_from_what_a_checkpoint_costs():
    assert saving.interval_for(1.0) == pytest.approx(50.0)  # two per cent
    assert saving.interval_for(0.0) == saving.LEAST_SECONDS and saving.interval_for(1e4) == saving.MOST_SECONDS
    costs = np.geomspace(1e-4, 1e3, 50)
    intervals = [saving.interval_for(cost) for cost in costs]
    assert intervals == sorted(intervals)
    assert all(c <= saving.SHARE * i * 1.0001 for c, i in zip(costs, intervals, strict=True) if i < saving.MOST_SECONDS)


def test_a_disk_full_during_a_checkpoint_is_said_once_and_training_goes_on(stopped_pack, tmp_path, monkeypatch):
    import errno
    import os

    pack, _, whole = stopped_pack
    real, calls, said = os.fsync, [], []

    def full(descriptor):
        calls.append(descriptor)
        if 20 < len(calls) < 26:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    again = train(pack, device=tiny.CPU, folder=tmp_path, report=lambda p: said.extend(p.said), checkpoint_seconds=-1.0)
    assert [tiny.numbers(r) for r in again] == whole and len(calls) > 45
    assert len(said) == 2 and "No space left on device (needs " in said[0] and "training goes on" in said[0]
    assert "written again" in said[1]
    assert not [p for p in Path(tmp_path).iterdir() if p.name.startswith(".")]
