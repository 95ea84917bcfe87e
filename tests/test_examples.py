"""Every example runs as a user would run it, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import TRAINS

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if TRAINS.search(e.read_text("utf-8"))], ids=lambda e: e.stem)
def test_every_example_that_trains_runs_and_says_what_came_of_it(example, tmp_path):
    pytest.importorskip("torch")
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, cwd=tmp_path, env=settings)
    assert done.returncode == 0, done.stderr
    assert "better" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if not TRAINS.search(e.read_text("utf-8"))], ids=lambda example: example.stem
)
def test_every_example_runs_without_torch(example, tmp_path):
    program = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({str(example)!r}, run_name='__main__')"
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path, env=settings
    )
    assert done.returncode == 0, done.stderr
    assert "inside the interval" in done.stdout and "helps" in done.stdout
    assert not list(tmp_path.iterdir())  # an example leaves nothing behind
