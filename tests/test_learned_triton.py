"""The kernels for a GPU, run through Triton's interpreter on the CPU: the numbers are torch's."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """Each case's largest relative difference; in a process of its own, for triton reads the variable once."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed; torch's CUDA wheels bring it, and pip install triton does for a CPU")
    told = os.environ | {"TRITON_INTERPRET": "1", "WINDTUNNEL_NO_NATIVE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("triton_interpreted.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=told, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_kernels_steps_are_torchs(interpreted: dict[str, Any]) -> None:
    print(interpreted["apart"])
    assert {name: apart for name, apart in interpreted["apart"].items() if not apart <= 1e-5} == {}


def test_it_was_the_kernels_that_were_asked(interpreted: dict[str, Any]) -> None:
    assert interpreted["calls"] == len(interpreted["apart"]) >= 10
