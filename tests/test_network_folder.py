"""A store on a network mount: no database lies in it, and where nothing can be locked nothing is lost or doubled.

`benchmarks/kill.py --no-locks` kills whole studies there.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import sys
from pathlib import Path

import pytest
import tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

import windtunnel as wt
from benchmarks import crowd, faults
from windtunnel import index, places
from windtunnel.launch.one import execute, sweep

PACKAGE = Path(wt.__file__).parent
DATABASES = {"sqlite3", "dbm", "shelve", "sqlalchemy", "lmdb"}


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def no_locks(request, monkeypatch):
    """Every lock is refused, as NFS without a lock service, Lustre without flock, and FUSE do."""

    def refused(file, how):
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(places, "_UNLOCKED_AT_MOST", -1.0)


def test_no_file_of_the_package_uses_a_database():
    found = {
        (file.name, name.split(".")[0])
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }  # fmt: skip
    assert not [each for each in found if each[1] in DATABASES] and ("index.py", "json") in found


def test_the_cache_of_rows_lies_outside_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("WINDTUNNEL_CACHE", str(tmp_path / "cache"))
    file = index._file(places.Local(tmp_path / "store"))
    assert (tmp_path / "cache") in file.parents and (tmp_path / "store") not in file.parents


def test_killed_at_every_act_of_a_record_nothing_is_lost_without_locks(tmp_path, no_locks):
    found = faults.kills(faults.records, tmp_path)
    litter = [wrong for wrong in found["wrong"] if wrong.endswith(" is left")]  # hidden, and costs space alone
    assert found["struck"] > 40 and set(found["wrong"]) == set(litter)


def test_eight_processes_fill_a_fresh_store_at_once_without_locks(tmp_path):
    found = crowd.openings(tmp_path, processes=8, times=3, locks=False)
    assert found["failures"] == [] and found["records"] == found["records expected"]


def test_packs_are_trained_and_swept_without_locks(corpus, tmp_path, no_locks):
    pack, store = tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}, {"lr": 0.02}]), wt.Store(tmp_path / "store")
    execute(pack, store, device=tiny.CPU)
    sweep(store)
    assert [tiny.numbers(store.get(s.key)) for s in pack.specs] == [tiny.numbers(tiny.alone(pack, m)) for m in (0, 1)]
    assert store.place.names("packs") == []
