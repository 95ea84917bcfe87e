"""A meta-training as a study file: `windtunnel plan` and `windtunnel run`, resumed, judged, refused."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.parts.learned.weights import Weights

FILE = """
import windtunnel as wt
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import MLP
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import Recipe
from windtunnel.scaling.rules.at_base import AtBase

mup = AtBase(width=8, zero_readout=True)
recipe = Recipe(model=MLP(), parametrization=mup, optimizer=AdamW(lr=1.0), schedule=Constant(),
                batch=FixedBatch(examples=16), data=wt.data.digits(), objective=CrossEntropy())
sizes = [wt.Rung(width=width, depth=1, heads=1, tokens=16, batch=16) for width in (8, 16)]
digits = wt.meta.Task(name="digits", recipe=recipe, rung=sizes[0], base=sizes[1])
study = wt.meta.MetaTraining(
    tasks=(digits,), step_size=0.01, outer_steps=8, hidden=4, pairs=2, truncation=4,
    horizons=wt.meta.Horizons(low=8, high=20, schedule="constant"),
    matrix=wt.meta.Matrix(tasks=(digits,), widths=(8, 16), steps=(6,), seeds=2),
    beside={"Adam": wt.meta.Rule(optimizer=AdamW(lr=wt.tuned(0.002, 0.2)), parametrization=mup, schedule=Constant(),
                                 rates=2, seeds=2)},
)
"""

NUMBERS = count()


@pytest.fixture()
def file(tmp_path: Path) -> str:
    place = tmp_path / f"tiny_mulo_{next(NUMBERS)}.py"  # a module's name can be taken once
    place.write_text(FILE)
    return str(place)


def test_it_is_planned_run_and_run_again_from_the_store(file: str, tmp_path: Path, capsys: Any) -> None:
    store = str(tmp_path / "store")
    assert main(["plan", file, "--store", store]) == 0
    assert "8 outer steps, 0 done" in capsys.readouterr().out
    assert main(["run", file, "--store", store, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert Weights.load(first["weights"]).hash == first["hash"]
    assert {(row["rule"], row["width"]) for row in first["matrix"]["rows"]} == {
        (rule, width) for rule in ("learned", "Adam") for width in (8, 16)
    }
    assert first["matrix"]["tuning"] == {"learned": 0, "Adam": 4}
    runs = len(list(wt.Store(store).runs()))
    assert main(["run", file, "--store", store]) == 0
    said = capsys.readouterr()
    assert "Adam" in said.out and first["hash"] in said.out
    assert len(list(wt.Store(store).runs())) == runs  # nothing was trained again
    assert main(["plan", file, "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outer_steps_done"] == 8


def test_interrupted_it_goes_on_and_says_how(file: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from windtunnel.meta import training

    advance, done = training._Work.advance, []

    def stopped(self: Any, state: Any) -> None:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(advance(self, state))

    monkeypatch.setattr(training._Work, "advance", stopped)
    store = str(tmp_path / "store")
    assert main(["run", file, "--store", store]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["run", file, "--store", store]) == 0


def test_what_it_cannot_do_is_said_in_a_sentence(file: str, tmp_path: Path, capsys: Any) -> None:
    for extra in (["--on", "ray"], ["--budget", "1h"], ["--store", "memory://here"]):
        store = [] if "--store" in extra else ["--store", str(tmp_path / "s")]
        assert main(["run", file, *store, *extra]) == 2
        said = capsys.readouterr().err
        assert said.startswith("windtunnel: ") and "Traceback" not in said
    assert main(["report", file, "--store", str(tmp_path / "s")]) == 2


def test_a_study_of_two_tasks_runs_from_its_file(tmp_path: Path, capsys: Any) -> None:
    """studies/learned/two_tasks.py with fewer steps: digits and text meta-trained on at once, judged on both."""
    text = (Path(__file__).parents[1] / "studies" / "learned" / "two_tasks.py").read_text()
    for asked, fewer in {
        "outer_steps=1000": "outer_steps=3", "pairs=4": "pairs=2, truncation=3", "low=100, high=500": "low=4, high=8",
        "widths=(32, 64)": "widths=(32, 64), seeds=1", "steps=(200,)": "steps=(3,)",
        "schedule=falling\n": "schedule=falling, rates=2, seeds=1\n",
    }.items():  # fmt: skip
        assert text.count(asked) == 1, asked
        text = text.replace(asked, fewer)
    place = tmp_path / "two_tasks_shorter.py"
    place.write_text(text)
    store = str(tmp_path / "store")
    assert main(["run", str(place), "--store", store, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["card"]["made"]["tasks"] == ["digits", "text"] and said["card"]["made"]["validation"] == 0.2
    rows = {(row["rule"], row["task"], row["width"]): row["test"] for row in said["matrix"]["rows"]}
    assert len(rows) == 8 and all(0 < loss < 10 for loss in rows.values())
    heads = {run.spec.rung.width: run.spec.rung.heads for run in wt.Store(store).runs() if run.spec.rung.heads > 1}
    assert heads == {32: 2, 64: 4}  # heads keep their width
