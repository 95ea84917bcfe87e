"""A study that is killed with SIGKILL and run again ends with the same bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "benchmarks" / "kill.py"


@pytest.mark.slow
def test_a_study_killed_three_times_ends_with_the_same_bits(tmp_path, corpus, monkeypatch):
    """Five studies' worth of processes: buys that nothing is lost, doubled or changed however a run is interrupted."""
    spec = importlib.util.spec_from_file_location("kill", HARNESS)
    assert spec is not None and spec.loader is not None
    kill = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "kill", kill)
    spec.loader.exec_module(kill)
    tally = kill.torment(tmp_path, kills=3, seed=1, corpus=str(corpus), tokens=1024)
    assert tally.kills == 3
    assert tally.differences == []
    assert tally.workers_left == 0
