"""Tuned on some data, judged on others: no run of the search touches what judges it, and the price is reported."""

from __future__ import annotations

import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch.here import Here
from windtunnel.study.stages import Stages


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another corpus of the same kind."""
    return tiny.text(tiny.write_corpus(tmp_path_factory.mktemp("other"), seed=7))


def asked(corpus, **changes):
    small = {
        "ladder": wt.Ladder.widths((8, 16, 24), depth=1, tokens=tiny.TOKENS, head_width=8, seeds=1),
        "tuning": wt.Tuning(points=3, seeds=1, recheck_rung=0 if changes.get("tuned_on") else 1),
        "train_target": False,
    }
    return tiny.study(corpus, **small | changes)


@pytest.fixture(scope="module")
def result(corpus, other, tmp_path_factory):
    store = wt.Store(tmp_path_factory.mktemp("tuned_on") / "store")
    return asked(corpus, tuned_on=other).run(store, launcher=Here(devices=1))


def test_no_run_of_the_search_saw_the_data_that_judge_it(result, other):
    here = result.study.base.data.fingerprint()
    states = {name: Stages(result.study, result.store).tuning(name) for name in result.tried}
    searched = [ask.spec for state in states.values() for ask in state.asked]
    assert searched and {spec.judge["data"] for spec in searched} == {other.fingerprint()}
    assert {spec.recipe["data"]["fingerprint"] for spec in searched} == {other.fingerprint()}
    laddered = [run.spec for runs in result.ladder.values() for run in runs]
    assert {spec.judge["data"] for spec in laddered} == {here} == {s.recipe["data"]["fingerprint"] for s in laddered}
    rows = result.store.rows()
    assert {row["stage"] for row in rows} == {"tune", "re-check", "ladder"}


def test_a_recipe_keeps_the_values_it_found_elsewhere_and_its_optimism_is_reported(result):
    for name, runs in result.ladder.items():
        values = Stages(result.study, result.store).tuning(name).values
        assert all(dict(run.spec.hyperparameters) == values for run in runs)
        assert result.optimism[name]["lr"].median >= 0
    assert sum("Optimism of" in line for line in result.lines()) == 2
    assert not any("very data that judge them" in c for v in result.verdicts.values() for c in v.caveats)


def test_a_second_run_trains_nothing(result):
    def refuse(packs, store, report=None, finished=None):
        raise AssertionError(f"{len(packs)} packs were asked for again")

    assert result.study.run(result.store, launcher=refuse).lines() == result.lines()
    assert result.study.plan(result.store).missing == 0


def test_a_verdict_says_when_both_sides_were_tuned_on_what_judges_them(corpus, tmp_path):
    found = asked(corpus).run(wt.Store(tmp_path / "store"), launcher=Here(devices=1))
    assert all(any("very data that judge them" in c for c in v.caveats) for v in found.verdicts.values())
    assert found.verdicts and found.optimism == {}


def test_data_that_judge_cannot_be_tuned_on(corpus):
    with pytest.raises(InputError, match="tuned_on is the data that the base is trained on"):
        asked(corpus, tuned_on=tiny.text(corpus))
    with pytest.raises(InputError, match="tuned_on is the data that the base is trained on"):
        asked(corpus, tuned_on=tiny.text(corpus, validation=0.3))  # the same documents, split otherwise


def test_data_of_another_kind_cannot_be_tuned_on(corpus):
    with pytest.raises(InputError, match="carries over only between data of one kind"):
        asked(corpus, tuned_on=wt.data.digits())


def test_the_base_rung_is_checked_again_only_where_it_was_tuned_on_other_data(corpus):
    with pytest.raises(InputError, match="recheck_rung is 0"):
        asked(corpus, tuning=wt.Tuning(recheck_rung=0))
