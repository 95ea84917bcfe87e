"""Strangers' files are data: nothing in them runs, no name leads elsewhere, and no reader falls over them.

`benchmarks/hostile.py` makes the corpus (50 files, each given to every reader), `benchmarks/fuzz.py` damages good files
by the thousand; their counts are in benchmarks/results.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from benchmarks import fuzz
from windtunnel.errors import InputError
from windtunnel.files import json_of, misfit, seal_of, sealed
from windtunnel.forecasts import Forecast
from windtunnel.scaling.table import ScaleTable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
def test_no_hostile_file_runs_code_writes_elsewhere_or_crashes_a_reader():
    """Fifty files to every reader, two of them 2 GB once unpacked: buys that no reader was forgotten."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.hostile", "--check"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["files"] >= 40 and found["given"] > 500 and found["refused"] > 400
    assert found["events"] == [] and found["appeared outside"] == [] and found["crashed"] == []
    assert done.returncode == 0


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Every reader with a good file, in one folder."""
    folder = tmp_path_factory.mktemp("fuzz") / "store"
    (folder / "logs").mkdir(parents=True)
    (folder / "store.json").write_text('{"format": 1}')
    return folder, fuzz.readers(folder)


def test_every_good_file_is_read(readers):
    folder, every = readers
    assert len(every) > 20
    assert {name: fuzz.struck(reader, folder, reader.good) for name, reader in every.items()} == dict.fromkeys(
        every, "read"
    )


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.randoms(use_true_random=False))
def test_a_damaged_file_is_read_or_refused_and_crashes_nothing(readers, data, draw):
    folder, every = readers
    name = data.draw(st.sampled_from(sorted(every)))
    damaged = fuzz.damaged(every[name], random.Random(draw.random()))
    assert fuzz.struck(every[name], folder, damaged) in ("read", "refused")


@settings(max_examples=100, deadline=None, database=None)
@given(JSON)
def test_any_json_is_a_forecast_or_a_table_or_refused(value):
    for read in (Forecast.from_json, ScaleTable.from_json):
        with pytest.raises(InputError):
            read(value)


@settings(max_examples=100, deadline=None, database=None)
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_a_seal_survives_being_written_and_read_and_notices_a_change(value):
    whole = sealed(value)
    back = json.loads(json.dumps(whole, indent=2))
    assert back["seal"] == seal_of(back)
    back["a name that was not there"] = 1
    assert back["seal"] != seal_of(back)


@settings(max_examples=100, deadline=None, database=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_refused(data):
    with contextlib.suppress(InputError):
        assert isinstance(json_of(data, "x", ""), dict)


def test_a_shape_says_where_it_is_not_met():
    shape = {"a": [{"b": (int, type(None))}], "c": {str: float}}
    assert misfit({"a": [{"b": 1}, {"b": None}], "c": {"x": 1.0}, "d": 0}, shape) is None
    assert misfit({"a": [{"b": 1}, {"b": True}], "c": {}}, shape) == "it.a[1].b is True"
    assert misfit({"a": [], "c": {"x": 1}}, shape) == "it.c.x is 1"
    assert misfit({"a": []}, shape) == "it lacks c" and misfit([], shape) == "it is a list, not an object"
    assert misfit({"a": [{"b": 1 << 63}], "c": {}}, shape) == "it.a[0].b is a number of more than 63 bits"
