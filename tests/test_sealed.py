"""Which forecast of a store answers a study: one made blind, once the truth is there, whatever would be said today."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import tiny
from inventing import Inventing

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.forecasts import Forecast
from windtunnel.study import answer
from windtunnel.study.answer import seal
from windtunnel.study.stages import Stages


@pytest.fixture
def study(corpus):
    asked = tiny.study(corpus, ideas=(), train_target=False)
    return replace(asked, ladder=wt.Ladder.widths((8, 16, 24, 32), depth=1, tokens=tiny.TOKENS, head_width=8))


def reworded(monkeypatch):
    shape = answer._shape
    monkeypatch.setattr(answer, "_shape", lambda stages: [*shape(stages), "Said since."])


def another_method(monkeypatch):
    made = sys.modules[Forecast.__module__]
    monkeypatch.setattr(made, "METHOD", made.METHOD + 1)


CHANGES = pytest.mark.parametrize("change", [reworded, another_method])


def told(result):
    return result.forecasts["base"]


@CHANGES
def test_a_forecast_made_blind_stands_when_the_words_or_the_method_have_changed_since(
    study, tmp_path, monkeypatch, change
):
    store = wt.Store(tmp_path / "store")
    sealed = told(study.run(store, launcher=Inventing()))
    known = replace(study, train_target=True).run(store, launcher=Inventing())
    assert told(known) == sealed
    change(monkeypatch)
    for later in (replace(study, train_target=True).run(store, launcher=Inventing()), study.answer(store)):
        assert told(later) == sealed and later.scores == known.scores
        assert [score.made_before for score in later.scores["base"]] == [True]
    assert len(store.forecasts()) == 1 and seal(Stages(study, store), "base")["key"] == sealed.key


@CHANGES
def test_before_the_truth_what_would_be_said_now_is_sealed_beside_the_older_one(study, tmp_path, monkeypatch, change):
    store = wt.Store(tmp_path / "store")
    old = told(study.run(store, launcher=Inventing()))
    change(monkeypatch)
    assert told(study.answer(store)) == old  # nothing newer is written yet
    new = told(study.run(store, launcher=Inventing()))
    assert new.key != old.key and [f["key"] for f in store.forecasts()] == [old.key, new.key]
    assert told(study.answer(store)) == new
    monkeypatch.undo()
    assert told(study.answer(store)) == old  # the version that wrote it reads its own


def test_a_forecast_that_was_made_late_gives_way_to_one_made_blind_and_protects_nothing(study, tmp_path, monkeypatch):
    store = wt.Store(tmp_path / "store")
    whole = replace(study, train_target=True)
    blind = told(study.run(store, launcher=Inventing()))
    whole.run(store, launcher=Inventing())
    another_method(monkeypatch)
    late = answer.forecast_of(Stages(study, store), "base").to_json()
    store.add_forecast(late)  # as an earlier version did, with the key that today's would have
    assert told(study.answer(store)) == blind

    other = wt.Store(tmp_path / "other")
    replace(whole, name="first").run(other, launcher=Inventing())
    monkeypatch.undo()
    before = told(whole.run(other, launcher=Inventing()))
    assert any("Not a forecast made blind" in said for said in before.caveats)
    another_method(monkeypatch)
    assert told(whole.run(other, launcher=Inventing())).key != before.key


def test_the_truth_of_another_study_is_not_this_ones(study, tmp_path, monkeypatch):
    store = wt.Store(tmp_path / "store")
    old = told(study.run(store, launcher=Inventing()))
    judge = wt.Judge(data=study.base.data, tokens=2 * tiny.TOKENS, evaluations=1)
    other = replace(study, name="other", judge=judge, train_target=True).run(store, launcher=Inventing())
    assert other.targets["base"]
    another_method(monkeypatch)
    assert told(study.run(store, launcher=Inventing())).key != old.key


def test_another_ladder_is_another_question(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    first = told(replace(study, train_target=True).run(store, launcher=Inventing()))
    wider = replace(study, ladder=wt.Ladder.widths((8, 16, 24, 32, 40), depth=1, tokens=tiny.TOKENS, head_width=8))
    late = told(wider.run(store, launcher=Inventing()))
    assert late.question != first.question and any("Not a forecast made blind" in said for said in late.caveats)
    assert told(study.answer(store)) == first


def test_what_another_program_sealed_in_the_store_answers_nothing(study, tmp_path, capsys):
    store = wt.Store(tmp_path / "store")
    store.add_forecast({"key": "ab" * 10, "created": "2026-01-01T00:00:00+00:00", "loss": 2.0})
    assert told(study.run(store, launcher=Inventing())).key != "ab" * 10
    assert main(["runs", "--store", str(tmp_path / "store"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"]
