"""Stores that earlier versions wrote open for ever: one fixture under tests/stores/ for each format that was released.

`unsealed` was written by 0.1.0, before records carried a seal; `sealed` by the version after it. Never write them anew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_store import forecast, run

from windtunnel.cli import main
from windtunnel.errors import InputError
from windtunnel.store import Store

STORES = sorted(path.name for path in (Path(__file__).parent / "stores").iterdir())


@pytest.fixture(params=STORES)
def old(request, tmp_path):
    """A copy of a fixture, so that nothing can change it."""
    return Path(shutil.copytree(Path(__file__).parent / "stores" / request.param, tmp_path / "store"))


def test_an_old_store_opens_with_all_that_is_in_it(old):
    store = Store(old)
    finished, diverged = sorted(store.runs(), key=lambda r: r.spec.seed)
    assert finished == run() and dict(finished.source) == {"my_idea.py": "x = 1\n"}
    assert finished.curve["train_loss"].tolist()[:2] == [3.0, 2.7]
    assert diverged.outcome == "diverged" and diverged.loss is None
    assert {f["key"]: f["loss"] for f in store.forecasts()} == {"cd" * 10: 1.9, "ab" * 10: 2.1}
    assert store.check("coordinates", "k") == {"slope": 0.1}
    assert len(store.table()) == 2


def test_an_old_store_takes_new_records_and_knows_its_forecasts(old):
    store = Store(old)
    assert store.add(run(2)) and not store.add(run()) and len(Store(old).runs()) == 3
    assert store.add_forecast(forecast(loss=7.7))["loss"] == 2.1
    assert store.add_forecast(forecast("ef" * 10))["created"] > "2026-01-02"


def test_the_command_line_lists_an_old_store(old, capsys):
    assert main(["runs", "--store", str(old), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert main(["runs", run().key[:8], "--store", str(old)]) == 0


@pytest.mark.parametrize("wrote, line", [({}, "windtunnel`"), ({"windtunnel": "1.4.0"}, "'windtunnel>=1.4.0'`")])
def test_a_newer_store_is_refused_with_the_line_that_upgrades(old, wrote, line):
    (old / "store.json").write_text(json.dumps({"format": 2} | wrote))
    with pytest.raises(InputError, match=r"made by a newer windtunnel: upgrade with `pip install --upgrade ") as error:
        Store(old)
    assert line in str(error.value)


def test_what_a_newer_store_says_of_itself_is_not_repeated_as_a_command(old):
    (old / "store.json").write_text(json.dumps({"format": 2, "windtunnel": "1'; rm -rf ~ #"}))
    with pytest.raises(InputError, match="pip install --upgrade windtunnel`"):
        Store(old)
