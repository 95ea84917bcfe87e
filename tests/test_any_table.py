"""`windtunnel fit` on any table: an answer or one sentence. `benchmarks/any_table.py` does thousands more."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from benchmarks.any_table import CELLS, HEADS, table, tried
from windtunnel.cli import main

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(seed=st.integers(0, 2**32))
def test_a_spoilt_ladder_is_answered_or_refused_with_a_sentence(tmp_path, seed):
    what, said, _ = tried(table(random.Random(seed)), tmp_path)
    assert what != "wrong", said


@quick
@given(
    head=st.lists(st.sampled_from(HEADS), min_size=1, max_size=5),
    rows=st.lists(
        st.lists(st.one_of(st.sampled_from(CELLS), st.floats().map(repr), st.text(max_size=5)), max_size=6), max_size=8
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_cells_at_all_are_answered_or_refused_with_a_sentence(tmp_path, head, rows, end):
    text = end.join(",".join(row) for row in [head, *rows])
    what, said, _ = tried(text.encode("utf-8", "replace"), tmp_path)
    assert what != "wrong", said


@given(data=st.binary(max_size=300))
@quick
def test_any_bytes_are_answered_or_refused_with_a_sentence(tmp_path, data):
    what, said, _ = tried(data, tmp_path)
    assert what != "wrong", said


@pytest.mark.parametrize("column", ["params", "tokens", "loss"])
@pytest.mark.parametrize("cell", ["nan", "", "inf", "-1", "0", "x", "1e999", "1e300"])
def test_a_cell_that_is_no_size_or_loss_is_refused_with_its_row_and_column(tmp_path, capsys, column, cell):
    params = np.geomspace(1e6, 1e8, 6)
    rows = [{"params": f"{p:.6g}", "tokens": f"{20 * p:.6g}", "loss": f"{1.7 + 400 / p**0.35:.5f}"} for p in params]
    rows[3][column] = cell
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["params,tokens,loss", *(",".join(row.values()) for row in rows)]))
    assert main(["fit", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"column {column}" in said and "5" in said.partition("column")[2]


def test_unique_tokens_without_tokens_are_answered(tmp_path):
    """A table of `benchmarks/any_table.py` that ended in a traceback."""
    params = np.geomspace(1e5, 1e8, 8)
    rows = [f"{p:.6g},{20 * p:.6g},{1.7 + 400 / p**0.35:.5f}" for p in params]
    what, said, _ = tried("\n".join(["params,unique_tokens,loss", *rows]).encode(), tmp_path)
    assert what in ("answered", "doubted"), said
