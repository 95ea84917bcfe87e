"""The store's promises: whole records or none, the first writer wins, nothing is edited, damage is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.runs import Cost, Outcome, Run, RunSpec
from windtunnel.store import FORMAT, Store, forecast_hash

RUNG = Rung(width=8, depth=1, tokens=1000, batch=4)


def run(seed: int = 0, loss: float | None = 2.5, **changes) -> Run:
    """A finished run; different seeds have different keys."""
    spec = RunSpec(
        recipe={"optimizer": {"is": "AdamW", "meaning": "0"}},
        rung=RUNG,
        hyperparameters={"lr": 0.01},
        seed=seed,
        judge={"data": "d", "tokens": 1, "evaluations": 1},
        base_rung=RUNG,
    )
    told = {
        "key": spec.key,
        "spec": spec,
        "outcome": Outcome.FINISHED,
        "loss": loss,
        "metrics": {"accuracy": 0.5},
        "size": Size(embedding=10, non_embedding=100, flops_per_token=600.0),
        "cost": Cost(flops=6e5, seconds=2.0, device="cpu", threads=1, members=2),
        "curve": {"step": np.arange(3), "train_loss": np.array([3.0, 2.7, np.nan])},
        "created": "2026-01-01T00:00:00+00:00",
        "labels": {"study": "s", "idea": "base", "stage": "ladder"},
        "source": {"my_idea.py": "x = 1\n"},
    }
    return Run(**(told | changes))


def forecast(key: str = "ab" * 10, created: str = "2026-01-02T03:04:05+00:00", **changes) -> dict:
    return {"key": key, "created": created, "loss": 2.1} | changes


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def files(path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*")) if path.exists() else []


# what comes back


def test_a_run_comes_back_as_it_was(store):
    there = run()
    assert store.add(there) and there.key in store
    back = store.get(there.key)
    assert back.to_json() == there.to_json()
    assert back == there
    for name, values in there.curve.items():
        np.testing.assert_array_equal(back.curve[name], values)
    assert dict(back.source) == dict(there.source)


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.CRASHED])
def test_a_run_without_a_loss_comes_back_without_one(store, outcome):
    there = run(loss=None, outcome=outcome, message="it was lost", curve={}, metrics={})
    store.add(there)
    assert store.get(there.key) == there


def test_a_source_never_lands_outside_its_run(store):
    store.add(run(source={"../../my idea.py": "x = 1\n", "/etc/passwd": "y = 2\n"}))
    assert files(store.path.parent) == sorted(["store", *("store/" + name for name in files(store.path))])
    assert all(name.startswith(("runs", "store.json")) for name in files(store.path))
    assert sorted(store.get(run().key).source.values()) == ["x = 1\n", "y = 2\n"]


def tuned_between(low: float, high: float) -> dict:
    return {"is": "Tuned", "fields": {"low": low, "high": high}, "meaning": "windtunnel.recipe.Tuned"}


def asked(rate: object, **hyperparameters: float) -> RunSpec:
    optimizer = {"is": "AdamW", "fields": {"lr": rate, "beta1": 0.9}, "meaning": "26dc"}
    recipe = {"optimizer": optimizer, "transforms": [], "data": {"is": "Text", "fingerprint": "62"}}
    rung = Rung(width=8, depth=1, tokens=1024, batch=4)
    return RunSpec(
        recipe=recipe, rung=rung, hyperparameters=hyperparameters, seed=3, judge={"tokens": 64}, base_rung=rung
    )


def test_a_value_has_one_key_however_it_was_found():
    tuned, wider = (asked(tuned_between(low, 0.1), lr=0.01) for low in (0.001, 0.0001))
    assert tuned.key == wider.key == asked(0.01).key
    assert len({tuned.key, asked(0.02).key, asked(tuned_between(0.001, 0.1), lr=0.02).key}) == 2
    assert asked(0.01, gain=2.0).key not in (asked(0.01).key, asked(0.01, gain=3.0).key)  # one that no field is


def test_a_range_that_code_may_lean_on_stays_in_the_key():
    """Phases are given the recipe with its ranges; a part within a part is not set by hyperparameters."""
    low, lower = (tuned_between(each, 0.1) for each in (0.01, 0.001))
    phased = [
        replace(one, recipe={**one.recipe, "phases": {"is": "Two"}})
        for one in (asked(low, lr=0.02), asked(lower, lr=0.02))
    ]
    inner = [asked({"is": "AdamW", "fields": {"lr": each}, "meaning": "26dc"}, lr=0.02) for each in (low, lower)]
    assert len({one.key for one in (*phased, *inner)}) == 4


def test_what_0_1_0_recorded_is_found_under_the_key_it_had():
    assert asked(tuned_between(0.001, 0.1), lr=0.01).former_key == "7f04e2be947a21eaf005"


def test_keys_are_sorted_and_found_by_their_beginning(store):
    keys = []
    for seed in range(5):
        keys.append(run(seed).key)
        store.add(run(seed))
    assert list(store.keys()) == sorted(keys)
    assert [r.key for r in store.runs()] == sorted(keys)
    assert store.get(keys[0][:12]).key == keys[0]


@pytest.mark.parametrize("key", ["", "zzz", "../../etc", "0" * 20])
def test_a_key_that_is_not_there_is_explained(store, key):
    store.add(run())
    with pytest.raises(InputError, match=r"no run in .* with a key that begins"):
        store.get(key)
    assert key not in store


def test_an_ambiguous_beginning_is_explained(store):
    for seed in range(40):
        store.add(run(seed))
    digits = [known.key[0] for known in store.runs()]
    twice = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(InputError, match=rf"{digits.count(twice)} runs in .* begins '{twice}'"):
        store.get(twice)


def test_the_table_has_one_row_a_run_with_sizes_and_hyperparameters(store):
    for seed in (0, 1):
        store.add(run(seed))
    table = store.table().set_index("key")
    assert len(table) == 2
    row = table.loc[run(1).key]
    assert (row.seed, row.loss, row.params, row.tokens, row.lr, row.idea) == (1, 2.5, 100, 1000, 0.01, "base")
    assert row.optimizer == "AdamW" and row.outcome == "finished"


def test_a_tied_table_counts_among_the_parameters(store):
    store.add(run(size=Size(embedding=10, non_embedding=100, flops_per_token=600.0, tied=True)))
    assert store.table().params.tolist() == [110]


def test_an_empty_store_has_an_empty_table(store):
    assert len(store.table()) == 0 and store.runs() == [] and store.forecasts() == []


# nothing is written by looking


def test_opening_and_reading_write_nothing(store, tmp_path):
    for look in (repr, Store.table, Store.runs, Store.records, Store.forecasts, lambda s: list(s.keys())):
        look(store)
    assert "0" * 20 not in store and store.check("coordinates", "k") is None
    assert not store.path.exists()
    store.add(run())
    before = {name: (store.path / name).stat().st_mtime_ns for name in files(store.path)}
    again = Store(store.path)
    again.get(run().key), again.table(), again.forecasts(), repr(again)
    assert {name: (store.path / name).stat().st_mtime_ns for name in files(store.path)} == before


# whole or not at all


def crash_between_write_and_rename(store: Store, act: str) -> None:
    """Do something in another process that dies where the finished folder would be renamed."""
    code = f"""
import os, sys
sys.path[:0] = [{os.path.dirname(__file__)!r}]
from test_store import Store, forecast, run
from windtunnel import store
s = Store({str(store.path)!r})
s.packs()  # the store itself is made
store.os.rename = store.os.link = lambda *args: os._exit(9)
{act}
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 9


def test_a_half_written_run_never_appears(store):
    crash_between_write_and_rename(store, "s.add(run())")
    assert len(list((store.path / "runs").iterdir())) == 1, "the crash must leave its half-written folder"
    assert list(store.keys()) == [] and store.runs() == [] and run().key not in store
    assert store.add(run())
    assert store.get(run().key) == run()


def test_a_half_written_forecast_never_appears(store):
    crash_between_write_and_rename(store, "s.add_forecast(forecast())")
    assert store.forecasts() == []
    assert store.add_forecast(forecast())["hash"]


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_not(store):
    crash_between_write_and_rename(store, "s.add(run())")
    (left,) = (store.path / "runs").iterdir()
    store.sweep()
    assert left.exists(), "so young that its writer may not have locked it yet"
    os.utime(left, (time.time() - 60,) * 2)
    import fcntl

    descriptor = os.open(left, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    store.sweep()
    assert left.exists(), "its writer lives"
    os.close(descriptor)
    store.add(run())
    store.sweep()
    assert [p.name for p in (store.path / "runs").iterdir()] == [run().key]


def test_the_first_writer_wins(store):
    assert store.add(run(loss=2.5)) is True
    assert store.add(run(loss=9.9)) is False
    assert store.get(run().key).loss == 2.5
    assert [p.name for p in (store.path / "runs").iterdir()] == [run().key]


def test_the_first_writer_wins_even_if_both_saw_none(store, monkeypatch):
    store.add(run(loss=2.5))
    monkeypatch.setattr(Store, "__contains__", lambda self, key: False)
    assert store.add(run(loss=9.9)) is False
    assert store.get(run().key[:19]).loss == 2.5
    assert [p.name for p in (store.path / "runs").iterdir()] == [run().key]


def _add_all(path, loss, start, wins):
    start.wait()
    wins.put(sum(Store(path).add(run(seed, loss=loss)) for seed in range(20)))


def test_two_processes_may_add_the_same_runs_at_once(store):
    context = multiprocessing.get_context("spawn")
    start, wins = context.Event(), context.Queue()
    both = [context.Process(target=_add_all, args=(store.path, loss, start, wins)) for loss in (1.0, 2.0)]
    for process in both:
        process.start()
    start.set()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert wins.get() + wins.get() == 20
    wins.close()
    wins.join_thread()
    assert len(store.runs()) == 20
    assert not list((store.path / "runs").glob(".*"))


# what is wrong is named


def test_a_store_of_a_newer_version_is_refused(store):
    store.add(run())
    (store.path / "store.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(InputError, match="made by a newer windtunnel"):
        Store(store.path)


@pytest.mark.parametrize("text", ["{}", '{"format": "1"}', "[1]", "{", ""])
def test_a_marker_that_says_nothing_is_refused(store, text):
    store.add(run())
    (store.path / "store.json").write_text(text)
    with pytest.raises(InputError):
        Store(store.path)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="is not a windtunnel store"):
        Store(tmp_path)


def test_an_empty_folder_may_become_a_store(tmp_path):
    assert Store(tmp_path).add(run())


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:40] + b"x" + data[41:], lambda data: b""]
)
def test_a_damaged_curve_is_named_with_the_remedy(store, damage):
    store.add(run())
    path = store.path / "runs" / run().key / "curve.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"curve.npz does not match the checksum.*remove the folder"):
        store.get(run().key)


def test_a_missing_curve_is_named(store):
    store.add(run())
    (store.path / "runs" / run().key / "curve.npz").unlink()
    with pytest.raises(InputError, match=r"curve.npz is missing"):
        store.get(run().key)


@pytest.mark.parametrize("text", ["{", "", "\x00", "[]"])
def test_a_damaged_record_is_named(store, text):
    store.add(run())
    (store.path / "runs" / run().key / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run.json is (damaged|not a windtunnel record)"):
        store.get(run().key)


def test_a_removed_record_can_be_added_again(store):
    store.add(run())
    shutil.rmtree(store.path / "runs" / run().key)
    assert run().key not in store and store.add(run())


# forecasts


def test_a_forecast_is_written_once_and_sealed(store):
    first = store.add_forecast(forecast(loss=2.1))
    again = store.add_forecast(forecast(loss=9.9, created="2027-01-01T00:00:00+00:00"))
    assert again == first and store.forecasts() == [first]
    assert first["hash"] == forecast_hash(first) and first["loss"] == 2.1
    assert files(store.path / "forecasts") == ["ab" * 10 + ".json"]


@pytest.mark.parametrize("change", [{"loss": 2.0}, {"created": "2020-01-01T00:00:00+00:00"}, {"note": "better"}])
def test_an_edited_forecast_is_refused(store, change):
    store.add_forecast(forecast())
    (path,) = (store.path / "forecasts").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="was changed after it was written"):
        store.forecasts()


def test_forecasts_come_in_the_order_they_were_made_whatever_the_clock_says(store):
    for day, key in ((3, "cc" * 10), (1, "aa" * 10), (2, "bb" * 10), (4, "00" * 10)):
        store.add_forecast(forecast(key, f"2026-01-0{day}T00:00:00+00:00"))
    assert [f["key"][0] for f in store.forecasts()] == ["c", "a", "b", "0"]
    assert [f["created"][:10] for f in store.forecasts()] == ["2026-01-03"] * 3 + ["2026-01-04"]


def test_a_run_begun_after_a_forecast_is_dated_after_it_whatever_the_clock_says(store):
    store.add_forecast(forecast(created="2999-01-01T00:00:00+00:00"))
    assert store.moment() == "2999-01-01T00:00:00.000001+00:00"
    (store.path / "forecasts" / ("ab" * 10 + ".json")).unlink()
    assert store.moment() < "2999"


def test_a_check_is_kept_as_it_was_first(store):
    store.add_check("coordinates", "k", {"slope": 0.1})
    store.add_check("coordinates", "k", {"slope": 0.9})
    assert store.check("coordinates", "k") == {"slope": 0.1}
    assert store.check("coordinates", "other") is None
