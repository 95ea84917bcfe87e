"""A study with a half-width trains as much of its ladder as its forecasts need; what that is follows from the store.

Losses are those of a law with noise, made up by a launcher, so that hundreds of runs take a second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from test_store import run

import windtunnel as wt
from windtunnel.errors import InputError, Paused
from windtunnel.forecasts.constants import ENDS_LADDER
from windtunnel.runs import Cost
from windtunnel.study.buying import FIRST, bought, in_order, purchases
from windtunnel.study.stages import Stages

WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)


class Inventing:
    """A launcher that records runs without training them; stops after `most` packs."""

    def __init__(self, noise: float = 0.002, most: int | None = None) -> None:
        self.noise, self.most, self.packs = noise, most, 0

    def pack_rows(self, asked: int, store: wt.Store) -> int:
        return 1

    def __call__(self, packs, store, report=None, finished=None):
        for pack in packs:
            if self.packs == self.most:
                raise Paused("enough for today")
            self.packs += 1
            for spec, labels in zip(pack.specs, pack.labels, strict=True):
                store.add(invented(pack, spec, labels, self.noise))
            if finished is not None:
                finished(pack)


def invented(pack, spec, labels, noise):
    size, drawn = pack.size(), np.random.default_rng(int(spec.key[:12], 16)).standard_normal()
    far = np.log(spec.hyperparameters["lr"] / 0.01)
    loss = (1.5 + 20 * size.params**-0.35 + 60 * spec.rung.tokens**-0.6 + 0.01 * far**2) * np.exp(noise * drawn)
    cost = Cost(flops=size.training_flops(spec.rung.tokens), seconds=1.0, device="cpu", threads=1, members=2)
    return run(key=spec.key, spec=spec, loss=float(loss), size=size, cost=cost, labels=labels, source={})


@pytest.fixture
def study(corpus):
    asked = tiny.study(corpus, ideas=(), train_target=False)
    ladder = wt.Ladder.widths(WIDTHS, depth=1, tokens=tiny.TOKENS, head_width=8, seeds=2)
    target = wt.Target(rung=wt.Rung(width=128, depth=1, heads=16, tokens=tiny.TOKENS))
    return replace(asked, ladder=ladder, target=target, half_width=0.04)


def widths(result):
    return sorted({run.spec.rung.width for run in result.ladder["base"]})


def half_width(result, name="base"):
    loss = result.forecasts[name].loss
    return (loss.high - loss.low) / 2 / loss.median


def test_the_smallest_sizes_come_at_once_then_every_other_one_then_those_between():
    assert in_order("abcdefgh") == [["a", "b", "c", "d"], ["f"], ["h"], ["g"], ["e"]]
    assert in_order("abcdefg") == [["a", "b", "c", "d"], ["f"], ["g"], ["e"]]
    assert in_order("abcd") == [["a", "b", "c", "d"]]


def test_all_horizons_of_a_size_are_bought_together():
    ladder = wt.Ladder.widths(WIDTHS[:6], depth=1, tokens=(1000, 2000, 4000), head_width=8)
    first, *others = purchases(ladder)
    assert len(first) == 3 * FIRST and [len(rungs) for rungs in others] == [3, 3]
    assert {rung.width for rung in first} == {*WIDTHS[:FIRST]}
    assert sorted((*first, *others[0], *others[1]), key=ladder.rungs.index) == list(ladder.rungs)


def test_rungs_are_bought_until_the_interval_is_narrow_enough_and_the_rest_is_not(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    result = study.run(store, launcher=Inventing())
    assert half_width(result) <= study.half_width and result.reliable
    assert FIRST <= len(widths(result)) < len(WIDTHS)
    left = set(WIDTHS) - set(widths(result))
    assert not any(row["width"] in left for row in store.rows())
    assert any(f"{len(left)} of its 8 rungs were not trained" in c for c in result.forecasts["base"].caveats)
    stages = Stages(study, store)
    assert bought(stages).half_width == pytest.approx(half_width(result))
    *before, last = sorted(stages.bought.values(), key=lambda found: len(found.rungs))
    assert before and all(found.half_width > study.half_width for found in before)
    assert len(last.rungs) == len(widths(result))


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
    assert any("the whole ladder leaves" in caveat for caveat in result.forecasts["base"].caveats)


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


def test_every_recipe_must_be_foretold_well_enough(study, tmp_path):
    def noisy(base):
        """Its runs differ more from seed to seed."""
        return base.but(optimizer=tiny.sign_momentum(base).optimizer)

    class Noisier(Inventing):
        def __call__(self, packs, store, report=None, finished=None):
            for pack in packs:
                self.noise = 0.02 if pack.labels[0]["idea"] == "noisy" else 0.002
                super().__call__([pack], store, report, finished)

    alone = study.run(wt.Store(tmp_path / "alone"), launcher=Inventing())
    both = replace(study, ideas=(noisy,)).run(wt.Store(tmp_path / "both"), launcher=Noisier())
    assert len(widths(both)) > len(widths(alone))
    assert {r.spec.rung for r in both.ladder["base"]} == {r.spec.rung for r in both.ladder["noisy"]}


def test_the_plan_says_the_most_that_may_be_trained(study, tmp_path):
    store = wt.Store(tmp_path / "store")
    plan, whole = study.plan(store), replace(study, half_width=None).plan(store)
    ladder = [row.rung.width for row in plan.rows if row.stage == "ladder"]
    assert ladder == list(WIDTHS) and "at most: beyond the 4 smallest sizes" in str(plan)
    assert "at most: beyond" not in str(whole) and plan.to_json()["half_width"] == 0.04


def test_the_transfer_is_looked_at_on_a_rung_that_is_bought_in_any_case(study):
    assert study.ladder.rungs[study.recheck_index()] in purchases(study.ladder)[0]
    assert study.ladder.rungs[replace(study, half_width=None).recheck_index()] not in purchases(study.ladder)[0]


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 2.0, float("nan")])
def test_a_half_width_is_a_share(study, wrong):
    with pytest.raises(InputError, match="share of the loss"):
        replace(study, half_width=wrong)


def test_a_ladder_of_four_sizes_leaves_nothing_out(study):
    short = wt.Ladder.widths(WIDTHS[:4], depth=1, tokens=(1000, 2000), head_width=8)
    with pytest.raises(InputError, match="no size beyond the 4"):
        replace(study, ladder=short)
