"""A study with a half-width trains as much of its ladder as its forecasts need; what that is follows from the store.

Losses are those of a law with noise, made up by a launcher, so that hundreds of runs take a second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from inventing import Inventing, invented

import windtunnel as wt
from windtunnel.errors import InputError, Paused
from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.study.answer import forecast_of
from windtunnel.study.buying import FIRST, bought, in_order, purchases
from windtunnel.study.fits import fitted, foretold
from windtunnel.study.stages import Stages

WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)


@pytest.fixture
def study(corpus):
    asked = tiny.study(corpus, ideas=(), train_target=False)
    ladder = wt.Ladder.widths(WIDTHS, depth=1, tokens=tiny.TOKENS, head_width=8, seeds=2)
    target = wt.Target(rung=wt.Rung(width=128, depth=1, heads=16, tokens=tiny.TOKENS))
    return replace(asked, ladder=ladder, target=target, half_width=0.04)


def widths(result):
    return sorted({run.spec.rung.width for run in result.ladder["base"]})


def half_width(result, name="base"):
    return half_width_of(result.forecasts[name])


def half_width_of(forecast):
    return (forecast.loss.high - forecast.loss.low) / 2 / forecast.loss.median


def sign(base):
    """Another optimizer, and the base's losses but for noise."""
    return base.but(optimizer=tiny.sign_momentum(base).optimizer)


def test_the_smallest_sizes_come_at_once_then_every_other_one_then_those_between():
    assert in_order("abcdefgh") == [["a", "b", "c", "d"], ["f"], ["h"], ["g"], ["e"]]
    assert in_order("abcdefg") == [["a", "b", "c", "d"], ["f"], ["g"], ["e"]]
    assert in_order("abcd") == [["a", "b", "c", "d"]]


def test_all_horizons_of_a_size_are_bought_together():
    ladder = wt.Ladder.widths(WIDTHS[:6], depth=1, tokens=(1000, 2000), head_width=8, unique_tokens=(500, None))
    first, *others = purchases(ladder)
    assert len(first) == 4 * FIRST and [len(rungs) for rungs in others] == [4, 4]
    assert {rung.width for rung in first} == {*WIDTHS[:FIRST]}
    assert sorted((*first, *others[0], *others[1]), key=ladder.rungs.index) == list(ladder.rungs)


def test_rungs_are_bought_until_the_interval_is_narrow_enough_and_the_rest_is_not(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    result = study.run(store, launcher=Inventing())
    assert half_width(result) <= study.half_width and result.reliable
    assert FIRST <= len(widths(result)) < len(WIDTHS)
    left = set(WIDTHS) - set(widths(result))
    assert not any(row["width"] in left for row in store.rows())
    assert any(f"{len(left)} of the ladder's 8 rungs were left out" in c for c in result.forecasts["base"].caveats)
    assert bought(Stages(study, store)).half_widths == {"base": pytest.approx(half_width(result))}
    some = [rungs for rungs in purchases(study.ladder) if {rung.width for rung in rungs} <= set(widths(result))]
    before = fitted(stages := Stages(study, store), "base", stages.tuning("base"), [r for p in some[:-1] for r in p])
    assert half_width_of(foretold(stages, "base", before)) > study.half_width  # the last purchase was needed


def test_an_interval_that_ends_the_ladder_is_wider_than_its_runs_alone_say(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    part, size = study.run(store, launcher=Inventing()), study.size(study.base, study.target.rung)
    whole = replace(study, half_width=1e-5).run(store, launcher=Inventing())
    for result, times in ((part, ENDS_LADDER), (whole, 1)):
        alone = wt.fit(result.ladder["base"]).forecast(study.target, study.level, size=size).loss
        said = result.forecasts["base"].loss
        assert said.median == alone.median
        assert np.log(said.high / said.low) == pytest.approx(times * np.log(alone.high / alone.low))


def test_a_second_call_trains_nothing_and_a_narrower_one_goes_on_from_there(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    first = study.run(store, launcher=Inventing())
    again = Inventing()
    assert study.run(store, launcher=again).lines() == first.lines() and again.packs == 0
    assert study.answer(store).lines() == first.lines()
    assert study.plan(store).missing == 0
    count = len(store.rows())
    second = replace(study, half_width=study.half_width / 2).run(store, launcher=Inventing())
    assert set(widths(first)) < set(widths(second)) and len(store.rows()) > count


def test_a_half_width_out_of_reach_takes_the_whole_ladder_and_is_said(study, tmp_path):
    result = replace(study, half_width=1e-5).run(wt.Store(tmp_path / "store"), launcher=Inventing())
    assert widths(result) == list(WIDTHS)
    assert any("The whole ladder leaves" in caveat for caveat in result.forecasts["base"].caveats)


def test_a_study_that_was_stopped_anywhere_buys_what_it_would_have_bought(study, tmp_path):
    study, launcher = replace(study, half_width=study.half_width / 2), Inventing()
    whole = study.run(wt.Store(tmp_path / "whole"), launcher=launcher)
    assert FIRST + 1 < len(widths(whole)) < len(WIDTHS)  # several purchases
    for most in range(1, launcher.packs, 3):
        store = wt.Store(tmp_path / str(most))
        with pytest.raises(Paused):
            study.run(store, launcher=Inventing(most=most))
        result = study.run(store, launcher=Inventing())
        assert {row["key"] for row in store.rows()} == {row["key"] for row in whole.store.rows()}
        assert result.forecasts["base"].loss == whole.forecasts["base"].loss


class Uneven(Inventing):
    """The idea's losses differ more from seed to seed, or rise with size."""

    def __init__(self, noise: float, rises: bool = False) -> None:
        super().__init__()
        self.of_idea, self.rises = noise, rises

    def __call__(self, packs, store, report=None, finished=None):
        for pack in packs:
            idea = pack.labels[0]["idea"] == "sign" and pack.rung.width > WIDTHS[0]
            self.noise = self.of_idea if idea else 0.002
            if not (idea and self.rises):
                super().__call__([pack], store, report, finished)
                continue
            for spec, labels in zip(pack.specs, pack.labels, strict=True):
                store.add(replace(invented(pack, spec, labels, 0.0), loss=3 + 0.02 * pack.rung.width))


def test_every_recipe_must_be_foretold_well_enough(study, tmp_path):
    alone = study.run(wt.Store(tmp_path / "alone"), launcher=Inventing())
    both = replace(study, ideas=(sign,)).run(wt.Store(tmp_path / "both"), launcher=Uneven(0.02))
    assert len(widths(both)) > len(widths(alone))
    assert {r.spec.rung for r in both.ladder["base"]} == {r.spec.rung for r in both.ladder["sign"]}


def test_an_idea_that_no_law_describes_takes_the_whole_ladder_and_says_nothing_of_the_base(study, tmp_path):
    result = replace(study, ideas=(sign,)).run(wt.Store(tmp_path / "store"), launcher=Uneven(0.0, rises=True))
    assert widths(result) == list(WIDTHS) and "sign" in result.unfitted and "sign" not in result.forecasts
    assert not any("ladder" in caveat for caveat in result.forecasts["base"].caveats)


def test_an_idea_that_is_added_joins_the_rungs_that_are_there_and_leaves_the_base_its_forecast(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    key = study.run(store, launcher=Inventing()).forecasts["base"].key
    both = replace(study, ideas=(sign,))
    assert both.answer(store).forecasts["base"].key == key
    result = both.run(store, launcher=Inventing())
    assert result.forecasts["base"].key == key and len(store.forecasts()) == 2
    assert {run.spec.rung for run in result.ladder["sign"]} == {run.spec.rung for run in result.ladder["base"]}
    assert study.answer(store).forecasts["base"].key == key


def test_what_is_paid_for_is_used(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    plain = replace(study, half_width=None)
    whole = plain.run(store, launcher=Inventing())
    again = study.run(store, launcher=Inventing())
    assert widths(again) == list(WIDTHS) and again.forecasts["base"].loss == whole.forecasts["base"].loss
    other = wt.Store(tmp_path / "other")
    some = study.run(other, launcher=Inventing())
    more = replace(study, ladder=study.ladder.but(seeds=3)).run(other, launcher=Inventing())
    assert widths(more) == widths(some) and {run.spec.seed for run in more.ladder["base"]} == {0, 1, 2}


@pytest.mark.parametrize("at", [1, 5, 7])
def test_a_transfer_check_on_a_rung_that_is_not_needed_buys_no_more_of_it(study, tmp_path, at):
    easy = replace(study, half_width=0.2, tuning=replace(study.tuning, recheck_rung=at))
    result = easy.run(wt.Store(tmp_path / "store"), launcher=Inventing())
    assert widths(result) == list(WIDTHS[:FIRST])


def test_an_unreliable_forecast_ends_no_ladder(study, tmp_path):
    far = wt.Target(rung=study.target.rung.but(tokens=64 * tiny.TOKENS))  # one horizon says nothing of another
    result = replace(study, target=far, half_width=0.5).run(wt.Store(tmp_path / "store"), launcher=Inventing())
    assert not result.forecasts["base"].reliable and widths(result) == list(WIDTHS)


def test_a_forecast_from_a_ladder_that_is_still_bought_is_another_and_says_so(study, tmp_path):
    store, whole = wt.Store(tmp_path / "store"), Inventing()
    study.run(wt.Store(tmp_path / "whole"), launcher=whole)
    with pytest.raises(Paused):
        study.run(store, launcher=Inventing(most=whole.packs - 1))  # the last purchase has one seed of two
    half, plain = Stages(study, store), Stages(replace(study, half_width=None), store)
    one, other = forecast_of(half, "base"), forecast_of(plain, "base")
    assert any("still being bought" in caveat for caveat in one.caveats) and one.key != other.key
    assert np.log(one.loss.high / one.loss.low) > 1.4 * np.log(other.loss.high / other.loss.low)


def test_the_plan_says_the_most_that_may_be_trained(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    plan, whole = study.plan(store), replace(study, half_width=None).plan(store)
    ladder = [row.rung.width for row in plan.rows if row.stage == "ladder"]
    assert ladder == list(WIDTHS) and "at most: beyond the 4 smallest sizes" in str(plan)
    assert "at most: beyond" not in str(whole) and plan.to_json()["half_width"] == 0.04


def test_the_transfer_is_looked_at_on_a_rung_that_is_bought_in_any_case(study):
    assert study.ladder.rungs[study.recheck_index()] in purchases(study.ladder)[0]
    assert study.ladder.rungs[replace(study, half_width=None).recheck_index()] not in purchases(study.ladder)[0]


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 2.0, float("nan"), "0.03"])
def test_a_half_width_is_a_share(study, wrong):
    with pytest.raises(InputError, match="share of the loss"):
        replace(study, half_width=wrong)


def test_a_ladder_of_four_sizes_leaves_nothing_out(study):
    short = wt.Ladder.widths(WIDTHS[:4], depth=1, tokens=(1000, 2000), head_width=8)
    with pytest.raises(InputError, match="no size beyond the 4"):
        replace(study, ladder=short)
