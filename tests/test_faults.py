"""Whatever act of the store's protocol fails, nothing is half there and the same job run again ends the same.

Every act of the records' protocol is killed and refused here; of a pack's, every eleventh. `benchmarks/faults.py` does
all of them, and its counts are in benchmarks/results/faults.json.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_store import forecast, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

import windtunnel as wt
from benchmarks import faults
from windtunnel import places
from windtunnel.cli import main
from windtunnel.errors import InputError

EVERY = 11


@pytest.fixture(autouse=True)
def swept_at_once(monkeypatch):
    """Nothing is so young that its writer may still lock it."""
    monkeypatch.setattr(places, "_UNLOCKED_AT_MOST", -1.0)


def test_killed_at_every_act_of_a_record_nothing_is_lost(tmp_path):
    found = faults.kills(faults.records, tmp_path)
    assert found["struck"] > 50 and {"write", "fsync", "rename", "link", "mkdir"} <= set(found["by act"])
    assert found["wrong"] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_refused_at_every_act_of_a_record_the_path_and_the_bytes_are_named(tmp_path, number):
    found = faults.errors(faults.records, tmp_path, number)
    assert found["wrong"] == [] and found["stopped with a sentence"] > 40


def test_killed_at_acts_of_a_pack_it_goes_on(corpus, tmp_path, monkeypatch):
    found = faults.kills(_job(corpus, monkeypatch), tmp_path, every=EVERY)
    assert found["struck"] > 10 and found["wrong"] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_refused_at_acts_of_a_pack_it_stops_with_a_sentence_or_goes_on(corpus, tmp_path, monkeypatch, number):
    found = faults.errors(_job(corpus, monkeypatch), tmp_path, number, every=EVERY)
    assert found["struck"] > 10 and found["wrong"] == []


def _job(corpus, monkeypatch):
    from windtunnel.train.loop import train

    monkeypatch.setitem(train.__kwdefaults__, "checkpoint_seconds", None)  # put back afterwards
    return faults.trained(corpus)


# a disk that is really full, a mount that is really read-only


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    yield from mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=3m", "none")


def mounted(folder, *how):
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *how, str(folder)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_freeing_it_is_enough(small_disk):
    store = wt.Store(small_disk / "store")
    store.add(run())
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(InputError, match=r"runs/\S+ could not be written: No space left .*needs [\d.]+ kB, .* free\)"):
        store.add(run(1))
    with pytest.raises(InputError, match=r"forecasts/.* could not be written"):
        store.add_forecast(forecast())
    assert [r.key for r in store.runs()] == [run().key]
    filler.unlink()
    assert store.add(run(1)) and store.add_forecast(forecast()) and len(store.runs()) == 2
    assert not [path for path in small_disk.rglob(".*")]


def test_a_full_disk_pauses_a_study_with_code_4_and_freeing_it_is_enough(small_disk, corpus, capfd):
    file = small_disk.parent / "full_disk_study.py"
    small = "ideas=[], tuning=wt.Tuning(points=3, seeds=1, recheck=0), train_target=False"
    file.write_text(f"import tiny, windtunnel as wt\nstudy = tiny.study({str(corpus)!r}, {small})\n")
    command = ["run", str(file), "--store", str(small_disk / "store"), "--devices"]
    wt.Store(small_disk / "store").add(run())
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    for devices in ("1", "2"):
        assert main([*command, devices]) == 4
        said = capfd.readouterr().err.splitlines()[-1]
        assert "could not be written: No space left on device (needs " in said and str(small_disk) in said
        assert "run the same command again" in said
    filler.unlink()
    assert main([*command, "1"]) in (0, 3)
    assert not [path for path in (small_disk / "store").rglob(".*")]


def test_a_read_only_store_is_listed_shown_and_scored(tmp_path, capsys):
    store = wt.Store(tmp_path / "store")
    store.add(run())
    for folder in mounted(tmp_path / "store", "--bind", "-o", "ro", str(tmp_path / "store")):
        there = ["--store", str(folder)]
        assert main(["runs", *there]) == 0 and main(["runs", run().key[:6], *there, "--json"]) == 0
        capsys.readouterr()
        with pytest.raises(InputError, match="could not be written: Read-only file system"):
            wt.Store(folder).add(run(1))


def test_a_report_of_a_read_only_store_is_written_here(tmp_path, corpus, capsys, monkeypatch):
    wt.Store(tmp_path / "store").add(run())
    (tmp_path / "read_only_study.py").write_text(f"import tiny\nstudy = tiny.study({str(corpus)!r})\n")
    monkeypatch.chdir(tmp_path)
    for folder in mounted(tmp_path / "store", "--bind", "-o", "ro", str(tmp_path / "store")):
        there = ["read_only_study.py", "--store", str(folder)]
        assert main(["plan", *there]) == 0 and main(["report", *there]) == 0
        assert (
            "the report is written here" in capsys.readouterr().err and (tmp_path / "tiny.html").stat().st_size > 1000
        )
        assert main(["forecast", *there]) == 2 and "too few runs" in capsys.readouterr().err


@pytest.mark.slow
def test_training_needs_no_network(tmp_path, corpus):
    """Two worker processes where no interface is up: buys that nothing is fetched, reported or listened to."""
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace")
    code = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
import tiny
import windtunnel as wt
from windtunnel.launch.here import Here
packs = [tiny.pack(tiny.recipe(Path({str(corpus)!r})), [{{"lr": 0.01}}], seeds=[seed]) for seed in (0, 1)]
Here(devices=2)(packs, wt.Store({str(tmp_path / "store")!r}))
"""
    subprocess.run(["unshare", "-rn", sys.executable, "-c", code], env=_environment(), check=True)
    assert main(["runs", "--store", str(tmp_path / "store")]) == 0 and len(wt.Store(tmp_path / "store").runs()) == 2


# many processes, clocks


def test_a_writer_that_is_stopped_in_the_middle_does_not_overwrite_later(tmp_path):
    """SIGSTOP between writing and renaming; another process records the run; then the first goes on."""
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from test_store import Store, run
store, real = Store({str(tmp_path / "store")!r}), os.rename
def rename(*args):
    os.kill(os.getpid(), signal.SIGSTOP)
    return real(*args)
store.packs()
os.rename = rename
print(store.add(run(loss=9.9)))
"""
    stopped = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=_environment())
    _, status = os.waitpid(stopped.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    store = wt.Store(tmp_path / "store")
    store.sweep()
    assert store.add(run(loss=2.5))
    os.kill(stopped.pid, signal.SIGCONT)
    out, _ = stopped.communicate(timeout=60)
    assert out == b"False\n" and store.get(run().key).loss == 2.5
    assert not list((tmp_path / "store" / "runs").glob(".*"))


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_moved_changes_no_order_and_sweeps_no_writer(tmp_path, monkeypatch, hours):
    store, real = wt.Store(tmp_path / "store"), time.time
    first = store.add_forecast(forecast(created=store.moment()))
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    store.add(run())
    folder = tmp_path / "store" / "runs" / ".0000.tmp"
    folder.mkdir()
    with places._lock(folder):
        store.sweep()
        assert folder.exists()
    later = store.add_forecast(forecast("cd" * 10, created="2026-01-01T00:00:00+00:00"))
    assert [f["key"] for f in store.forecasts()] == [first["key"], later["key"]] and store.get(run().key) == run()


def test_many_processes_open_and_fill_a_fresh_store_at_once(tmp_path):
    """Eight here, three times; 32 processes fifty times in benchmarks/crowd.py."""
    from benchmarks import crowd

    found = crowd.openings(tmp_path, processes=8, times=3)
    assert found["failures"] == [] and found["records"] == found["records expected"]


def _environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
