"""Rungs that limit the distinct tokens: what is trained on, what the laws are told, and what is refused or said."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.laws.observations import Observations
from windtunnel.parts.data.altered import NoisyLabels
from windtunnel.train.loop import train

UNIQUE = 8 * tiny.CONTEXT


def test_a_rung_sees_only_its_distinct_tokens_again_and_again(corpus):
    recipe = tiny.recipe(corpus)
    data = recipe.data_at(tiny.RUNG.but(unique_tokens=UNIQUE))
    seen = {x.tobytes() for step in range(40) for x in data.batch(seed=3, step=step, size=4)[0]}
    assert len(seen) == 8 and data.shape().train_tokens == UNIQUE and data.repeat
    more = recipe.data_at(tiny.RUNG.but(unique_tokens=3 * UNIQUE))
    wider = {x.tobytes() for step in range(40) for x in more.batch(seed=4, step=step, size=6)[0]}
    assert seen < wider  # a smaller cut lies in a larger one
    assert recipe.data_at(tiny.RUNG) is recipe.data


def test_repeated_tokens_are_learned_by_heart_and_their_run_has_another_key(corpus):
    rung = tiny.RUNG.but(width=16, tokens=8 * tiny.TOKENS)
    recipe = tiny.recipe(corpus)
    few, all_ = (tiny.pack(recipe, [{"lr": 0.03}], rung=rung.but(unique_tokens=u)) for u in (UNIQUE, None))
    assert few.specs[0].key != all_.specs[0].key
    (one,), (other,) = (train(pack, device=tiny.CPU) for pack in (few, all_))
    assert one.loss > other.loss  # judged on what neither has seen
    assert one.curve["train_loss"][-5:].mean() < other.curve["train_loss"][-5:].mean()


def test_a_rung_without_a_limit_is_written_as_it_always_was():
    assert "unique_tokens" not in tiny.RUNG.to_json()
    limited = tiny.RUNG.but(unique_tokens=64)
    assert wt.Rung(**limited.to_json()) == limited != tiny.RUNG and "64 unique" in str(limited)


def test_the_laws_are_told_of_distinct_tokens(corpus):
    recipe, rung = tiny.recipe(corpus), tiny.RUNG
    runs = [
        run
        for unique in (UNIQUE, 10 * tiny.TOKENS, None)
        for run in train(tiny.pack(recipe, [{"lr": 0.01}], rung=rung.but(unique_tokens=unique)), device=tiny.CPU)
        if unique is None or unique <= recipe.data.shape().train_tokens
    ]
    told = Observations.from_runs(runs)
    assert told.unique_tokens is not None
    assert list(told.unique_tokens) == [UNIQUE, tiny.TOKENS, tiny.TOKENS]  # none sees more than it trains on
    assert Observations.from_runs(runs[-1:]).unique_tokens is None


@pytest.mark.parametrize("unique", [0, -5, 2.5, "many"])
def test_what_is_no_count_is_refused(unique):
    with pytest.raises(InputError, match="unique_tokens"):
        wt.Rung(width=8, depth=1, tokens=64, unique_tokens=unique)


def test_more_than_there_is_or_less_than_an_example_is_refused(corpus):
    recipe = tiny.recipe(corpus)
    for unique in (tiny.CONTEXT - 1, 10**9):
        with pytest.raises(InputError, match="give a number between the two"):
            recipe.data_at(tiny.RUNG.but(unique_tokens=unique))
    other = recipe.but(data=NoisyLabels(wt.data.digits(), 0.1, seed=0))
    with pytest.raises(InputError, match="cannot be cut"):
        other.data_at(tiny.RUNG.but(unique_tokens=64))


def test_a_ladder_of_widths_and_distinct_tokens_is_in_order():
    ladder = wt.Ladder.widths((8, 16), depth=1, tokens=1000, unique_tokens=(100, 400, None), head_width=8)
    assert [(r.width, r.unique_tokens) for r in ladder.rungs] == [
        (8, 100), (8, 400), (8, None), (16, 100), (16, 400), (16, None),
    ]  # fmt: skip


def test_a_target_with_more_passes_than_any_run_is_said(corpus):
    rng = np.random.default_rng(0)
    params = np.repeat([1e4, 3e4, 1e5, 3e5], 3)
    unique = np.tile([1e6, 2e6, 4e6], 4)
    tokens = np.full(12, 4e6)
    loss = 2 + 30 * params**-0.3 + 20 * unique**-0.3 + 0.002 * rng.standard_normal(12)
    runs = Observations(loss=loss, params=params, tokens=tokens, unique_tokens=unique, flops=6 * params * tokens)
    fitted = wt.fit(runs)
    said = fitted.forecast(wt.Target(params=1e6, tokens=4e7, unique_tokens=1e6)).caveats
    assert any("unique tokens are seen 40 times, by the runs at most 4" in caveat for caveat in said)
    said = fitted.forecast(wt.Target(params=1e6, tokens=4e6, unique_tokens=1e6)).caveats
    assert not any("tokens are seen" in caveat for caveat in said)
