"""Runs of several recipes are told apart by what they are, and not by who asked for them first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from inventing import Inventing

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.laws.observations import Observations
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import SGD
from windtunnel.parts.schedules import Constant
from windtunnel.runs import RunSpec
from windtunnel.study.answer import _batch, _known_truth
from windtunnel.study.stages import Stages


@pytest.fixture
def study(corpus):
    asked = tiny.study(corpus, ideas=(), train_target=False)
    return replace(asked, ladder=wt.Ladder.widths((8, 16, 24, 32), depth=1, tokens=tiny.TOKENS, head_width=8))


def of(study, **parts):
    return replace(study, base=study.base.but(**parts), name="other")


def test_a_table_marks_recipes_data_and_judges_apart_however_they_were_tuned(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    narrower = wt.tuned(2**-8, 2**-4)
    for each in (
        study,
        of(study, optimizer=replace(study.base.optimizer, lr=narrower)),
        of(study, schedule=Constant()),
    ):
        each.run(store, launcher=Inventing())
    table = store.table()
    assert table.recipe.nunique() == 2 and table.data.nunique() == 1 and table.judge.nunique() == 1
    assert table.lr.notna().all()
    fixed = wt.Store(tmp_path / "fixed")
    of(study, optimizer=replace(study.base.optimizer, lr=2**-6)).run(fixed, launcher=Inventing())
    assert set(fixed.table().lr) == {2**-6} and set(fixed.table().recipe) <= set(table.recipe)


def test_runs_of_several_recipes_are_not_fitted_as_one_in_silence(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    for each in (study, of(study, schedule=Constant())):
        each.run(store, launcher=Inventing())
    everything = Observations.from_runs(store.runs())
    assert any("of several recipes (schedule differ" in said for said in everything.caveats)
    assert not Observations.from_runs([r for r in store.runs() if r.labels["study"] == study.name]).caveats
    table = store.table()
    table.to_csv(tmp_path / "table.csv")
    assert any("marks them apart by recipe" in said for said in wt.read_runs(tmp_path / "table.csv").caveats)
    whole = wt.read_runs(store.path)  # a store is read as its table is
    assert len(whole) == len(table) and any("marks them apart by recipe" in said for said in whole.caveats)
    one = table[table.recipe == table.recipe[0]]
    one.to_csv(tmp_path / "one.csv")
    assert not any("marks them apart" in said for said in wt.read_runs(tmp_path / "one.csv").caveats)


def test_rates_searched_at_a_rung_are_read_from_runs_and_those_of_a_ladder_are_not(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    study.run(store, launcher=Inventing())
    rates = Observations.from_runs(store.runs()).lr
    assert rates is not None and len(np.unique(rates)) > 2
    assert Observations.from_runs([r for r in store.runs() if r.labels["stage"] == "ladder"]).lr is None


def test_runs_of_two_batches_are_no_search_of_rates(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    study.run(store, launcher=Inventing())
    run = next(r for r in store.runs() if r.labels["stage"] == "ladder")
    spec = replace(run.spec, rung=run.spec.rung.but(batch=2 * run.spec.rung.batch), hyperparameters={"lr": 0.5})
    assert Observations.from_runs([run, replace(run, spec=spec)]).lr is None


def test_scoring_a_run_of_another_recipe_says_in_what_it_differs(study, tmp_path, capsys):
    store = wt.Store(tmp_path / "store")
    whole = replace(study, train_target=True)
    (own,) = whole.run(store, launcher=Inventing()).targets["base"][:1]
    (other,) = of(whole, schedule=Constant()).run(store, launcher=Inventing()).targets["base"][:1]
    forecast = next(f["key"] for f in store.forecasts() if f["study"] == study.name)
    for run, note in ((own, False), (other, True)):
        assert main(["score", forecast, run.key, "--store", str(store.path)]) == 0
        assert ("not that of the forecast's runs: schedule" in capsys.readouterr().err) == note


def test_the_truth_of_another_recipe_leaves_a_forecast_blind(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    whole = replace(study, train_target=True)
    whole.run(store, launcher=Inventing())
    assert _known_truth(Stages(of(study, optimizer=replace(study.base.optimizer, lr=2**-6)), store), "base")
    assert not _known_truth(Stages(of(study, optimizer=SGD(lr=2**-6)), store), "base")
    assert not _known_truth(Stages(of(study, batch=FixedBatch(examples=2)), store), "base")


@pytest.mark.parametrize(
    "batches, asked, said",
    [
        ((None, None), None, ""),
        ((8, 8), 8, ""),
        ((None, None), 64, "64 examples a step, the ladder only [8]"),
        ((8, 16), 16, ""),
        ((8, 16), 64, "what the batch does is carried beyond"),
    ],
)
def test_a_target_of_another_batch_than_the_ladder_is_said(study, batches, asked, said):
    recipe = study.base.but(batch=FixedBatch(examples=8)).fill({"lr": 2**-6})
    rungs = [wt.Rung(width=w, depth=1, tokens=10_000, batch=b) for w, b in zip((16, 32), batches, strict=True)]
    found = _batch(recipe, wt.Rung(width=64, depth=1, tokens=10_000, batch=asked), rungs)
    assert [said in each for each in found] == ([True] if said else [])


def test_a_range_that_changes_and_a_value_that_is_frozen_train_nothing_again(study, tmp_path):
    store, first = wt.Store(tmp_path / "store"), study.base.optimizer
    found = study.run(store, launcher=Inventing()).forecasts["base"]
    ladder = {r.key for r in store.runs() if r.labels["stage"] == "ladder"}
    value = found.hyperparameters["lr"].median
    frozen = of(study, optimizer=replace(first, lr=value))
    again = Stages(frozen, store)
    assert not again.missing(again.ladder("base", {}))
    assert {r.key for r in again.runs(again.ladder("base", {}))} == ladder  # what the re-check shares is the ladder's
    other = wt.Store(tmp_path / "other")  # and the other way round: records in which nothing was open
    frozen.run(other, launcher=Inventing())
    back = Stages(study, other)
    assert {r.spec.hyperparameters["lr"] for r in back.runs(back.ladder("base", {"lr": value}))} == {value}


def test_records_of_0_1_0_are_taken_as_they_are(study, tmp_path, monkeypatch):
    store = wt.Store(tmp_path / "store")
    with monkeypatch.context() as before:
        before.setattr(RunSpec, "key", RunSpec.former_key)
        old = study.run(store, launcher=Inventing()).forecasts["base"]
    assert study.run(store, launcher=Inventing(most=0)).forecasts["base"].loss == old.loss
