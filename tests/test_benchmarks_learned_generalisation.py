"""The study of where learned optimizers hold, in small: searched, foretold, trained, scored, in that order."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

import windtunnel as wt
from benchmarks import learned_generalisation as generalisation
from studies.learned import generalisation as asked
from windtunnel.cli import main
from windtunnel.parts.learned.weights import bundled

TINY = generalisation.Cell(task="digits", depth=1, steps=5)


@pytest.fixture()
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark with one rule of each kind, on widths from 8 to 32, for five steps."""
    monkeypatch.setattr(generalisation, "FOLDER", tmp_path)
    monkeypatch.setattr(generalisation, "LEARNED", {"mulo": ("mup cosine", 0)})
    monkeypatch.setattr(generalisation, "weights_of", lambda name: bundled("mulo-digits"))
    monkeypatch.setattr(generalisation, "HERE", {"base": asked.ADAMW})
    monkeypatch.setattr(generalisation, "RIVALS", ("base", "adamw_at_home"))
    at_home = generalisation.rule("adamw_at_home", {"lr": 0.03, "beta2": 0.99})
    both = {"adamw_at_home": at_home, "mulo": asked.Rule.learned(bundled("mulo-digits"))}
    monkeypatch.setattr(generalisation, "rules", lambda: both)
    monkeypatch.setattr(generalisation, "task_of", lambda cell: replace(asked.digits(), target=32))
    monkeypatch.setattr(asked, "LADDER", (8, 12, 16))
    return generalisation


def test_a_cell_is_foretold_before_its_target_is_trained_and_scored_after(tiny: Any) -> None:
    store = wt.Store(str(tiny.FOLDER / "store"))
    before = tiny.foretold(TINY, store)
    assert {run.spec.rung.width for run in store.runs()} == {8, 12, 16}  # what is foretold was not trained
    cell = tiny.of_cell(TINY)
    assert tiny.foretold(TINY, store) == before
    targets = [run for run in store.runs() if run.spec.rung.width == 32]
    assert len(targets) == 3 * 4 and all(run.created > before["created"] for run in targets)
    for metric in tiny.METRICS:
        scores = cell[metric]["scores"]
        assert set(scores) == {"base", "adamw_at_home", "mulo"} and all(s["made_before"] for s in scores.values())
        verdict = cell[metric]["verdicts"]["mulo"]
        foretold = {name: scores[name]["foretold"] for name in tiny.RIVALS}
        assert verdict["rival"] == min(foretold, key=lambda name: foretold[name])
        came = {name: scores[name]["came"]["mean"] for name in ("mulo", verdict["rival"])}
        assert verdict["came"]["mean"] == pytest.approx(came["mulo"] - came[verdict["rival"]])
        coverage = tiny.coverage({"cell": cell}, metric)
        assert (coverage["learned"]["forecasts"], coverage["rivals"]["forecasts"]) == (1, 2)
        assert coverage["rivals"]["runs"] == 8
    assert tiny.table({"cells": {str(TINY): cell}, "coverage": {}}).count("inside") == 6
    (tiny.FOLDER / f"foretold-{TINY}.json").unlink()
    with pytest.raises(SystemExit, match="no forecast"):
        tiny.foretold(TINY, store)


def test_a_search_narrows_by_seeds_of_its_own_and_goes_on_where_it_stopped(tiny: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tiny, "ROUNDS", ((6, 1), (3, 2), (1, 4)))
    monkeypatch.setattr(tiny, "HOME_STEPS", 3)
    counted, mean_losses = [], tiny.mean_losses

    def counting(name: str, points: Any, seeds: Any) -> list[float]:
        counted.append((len(points), tuple(seeds)))
        if len(counted) == 2:
            raise KeyboardInterrupt
        return mean_losses(name, points, seeds)

    monkeypatch.setattr(tiny, "mean_losses", counting)
    with pytest.raises(KeyboardInterrupt):
        tiny.searched("muon_at_home")
    found = tiny.searched("muon_at_home")
    assert [count for count, _ in counted] == [6, 3, 3, 1]  # the first round was kept
    seeds = [seed for index, (_, some) in enumerate(counted) if index != 1 for seed in some]
    assert len(seeds) == len(set(seeds)) and found["runs"] == 6 + 6 + 4
    assert set(found["values"]) == {"lr", "others_lr", "momentum", "weight_decay"}
    assert 0.5 <= found["values"]["momentum"] <= 0.99
    assert tiny.searched("muon_at_home") == found and len(counted) == 4


def test_the_photographs_hide_what_is_asked_and_ask_every_shade_alike(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    data = asked.photographs(tmp_path).data
    inputs, labels = data.taken(np.arange(data.examples()))
    assert not inputs[:, 0, 4, 4].any() and inputs[:, 0, 4, 3].any()
    shares = np.bincount(labels[:, 0], minlength=asked.CLASSES) / len(labels)
    assert shares == pytest.approx(np.full(asked.CLASSES, 0.1), abs=0.02)
    assert asked.photographs(tmp_path / "again").data.fingerprint() == data.fingerprint()


def test_the_study_is_planned_from_its_file(tmp_path: Path, capsys: Any) -> None:
    file = Path(__file__).parents[1] / "studies" / "learned" / "generalisation.py"
    assert main(["plan", str(file), "--store", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["recipe"] for row in rows} == {"base", "muadam", "muon", "mulo", "no_width_rule"}
    assert {row["recipe"] for row in rows if row["stage"] == "tune"} == {"base", "muadam", "muon"}  # not the learned
