"""What importing must not cost: reading a store or fitting a table works without torch and starts quickly."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh Python after a statement."""
    program = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import windtunnel") & {"torch", "pandas", "matplotlib", "scipy", "sklearn"}


@pytest.mark.parametrize("room", ["laws", "forecasts", "report", "store", "cli", "bridge", "parts.data"])
def test_a_room_of_evidence_does_not_load_torch(room):
    if importlib.util.find_spec(f"windtunnel.{room}") is None:
        pytest.skip(f"windtunnel.{room} is not written yet")
    assert "torch" not in loaded_by(f"import windtunnel.{room}")


def test_evidence_works_where_torch_is_not_installed():
    without = "import sys; sys.modules['torch'] = None\n"
    assert "windtunnel" in loaded_by(without + "import windtunnel.store, windtunnel.laws, windtunnel.parts.data")


def test_data_loads_its_libraries_only_when_they_are_used():
    assert not loaded_by("import windtunnel.parts.data") & {"torch", "sklearn", "datasets", "tokenizers", "pandas"}
