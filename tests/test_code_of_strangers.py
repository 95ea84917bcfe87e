"""A study file and an idea are code, and only the file that the user names is run: nothing out of a store ever is."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import tiny
from test_store import forecast, run

import windtunnel as wt
from windtunnel.cli import main

PACKAGE = Path(wt.__file__).parent


def test_sources_in_a_store_are_shown_and_never_run(tmp_path, corpus, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    flag, store = tmp_path / "it-ran", wt.Store(tmp_path / "store")
    code = f"from pathlib import Path\nPath({str(flag)!r}).touch()\n"
    named = {name: code for name in ("my_idea.py", "tiny.py", "numpy.py", "conftest.py", "sitecustomize.py", "json.py")}
    store.add(run(source=named))
    store.add_forecast(forecast())
    file = tmp_path / "own_study.py"
    file.write_text(f"import tiny\nstudy = tiny.study({str(corpus)!r}, ideas=[], train_target=False)\n")
    there = ["--store", str(store.path)]
    for command in (["runs"], ["runs", run().key[:8]], ["runs", "--json"], ["plan", str(file)], ["report", str(file)],
                    ["forecast", str(file)], ["score", "abab", run().key[:8]], ["fit", str(store.path)]):  # fmt: skip
        main([*command, *([] if command[0] == "fit" else there)])
    capsys.readouterr()
    assert dict(store.get(run().key).source) == named and not flag.exists()
    assert not [place for place in sys.path if Path(place or ".").resolve().is_relative_to(store.path.resolve())]


def test_only_the_command_line_runs_a_file_and_only_one_that_is_named():
    """`exec`, `eval` and loading a module from a file: in `cli/shared.py` for the file that is named, nowhere else."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name = getattr(node, "id", getattr(node, "attr", ""))
            if name in ("exec", "exec_module", "run_path", "spec_from_file_location", "run_module"):
                found.add(file.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.add(file.name)
    assert found == {"shared.py"}
    assert tiny  # the study above is the test's own file, and that is run
