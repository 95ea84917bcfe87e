"""Mixed data: the shares are exact, the source of an example is known, and a step is a pure function."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import windtunnel as wt
from windtunnel.errors import InputError


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    return [tiny.text(tiny.write_corpus(tmp_path_factory.mktemp("part"), seed=seed)) for seed in range(3)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda w: sum(w) > 0.1), st.integers(0, 40))
def test_shares_are_exact_at_every_moment_and_every_plan_is_read_in_its_own_order(plans, weights, extra):
    shares = np.array(weights) / sum(weights)
    data = wt.data.mixed(*plans, weights=shares)
    places = [place for step in range(8) for place in data._places(step, 20 + extra)]
    sources = np.array([plan for plan, _ in places])
    for plan, share in enumerate(shares):
        counted = np.cumsum(sources == plan)
        assert np.abs(counted - share * np.arange(1, len(places) + 1)).max() < len(plans)
        assert [i for p, i in places if p == plan] == list(range(counted[-1]))


def test_an_example_is_that_of_its_source_and_batch_size_does_not_matter(plans):
    data = wt.data.mixed(*plans, weights=(0.5, 0.2, 0.3))
    whole, _ = data.batch(seed=3, step=0, size=24)
    again = np.concatenate([data.batch(seed=3, step=s, size=8)[0] for s in range(3)])
    assert (whole == again).all()
    sources = data.source(step=0, size=24)
    own, _ = plans[1].batch(seed=3, step=0, size=int((sources == 1).sum()))
    assert (whole[sources == 1] == own).all()


def test_a_plan_of_weight_zero_is_neither_trained_nor_judged_on(plans):
    data = wt.data.mixed(*plans, weights=(0, 1, 0))
    assert (data.batch(seed=0, step=2, size=5)[0] == plans[1].batch(seed=0, step=2, size=5)[0]).all()
    assert data.shape().train_tokens == plans[1].shape().train_tokens
    held = np.concatenate([x for x, _ in data.held_out(size=4, tokens=400)])
    assert (held == np.concatenate([x for x, _ in plans[1].held_out(size=4, tokens=400)])).all()


def test_held_out_examples_are_mixed_as_the_training_examples_are(plans):
    data = wt.data.mixed(*plans, weights=(0.5, 0.25, 0.25))
    counts = [sum(len(x) for x, _ in p.held_out(size=4, tokens=n)) for p, n in zip(plans, (400, 200, 200), strict=True)]
    assert sum(len(x) for x, _ in data.held_out(size=4, tokens=800)) == sum(counts)


def test_another_weight_is_other_data(plans):
    one, two = (wt.data.mixed(*plans, weights=w) for w in ((0.5, 0.5, 0.0), (0.5, 0.4, 0.1)))
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() == wt.data.mixed(*plans, weights=(0.5, 0.5, 0)).fingerprint()


def test_a_mixture_ends_where_its_first_plan_does(plans):
    lengths = [plan.shape().train_tokens for plan in plans]
    shape = wt.data.mixed(*plans, weights=(0.8, 0.1, 0.1)).shape()
    assert shape.train_tokens == min(int(n / w) for n, w in zip(lengths, (0.8, 0.1, 0.1), strict=True))


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.5, -0.5, 0.0), ()])
def test_weights_that_are_no_shares_are_refused(plans, weights):
    with pytest.raises(InputError, match="one weight for each plan, none negative, with the sum 1"):
        wt.data.mixed(*plans, weights=weights)


def test_plans_of_different_kinds_are_refused(plans):
    with pytest.raises(InputError, match="different vocabularies or contexts"):
        wt.data.mixed(plans[0], wt.data.digits(), weights=(0.5, 0.5))


def test_a_recipe_trains_on_a_mixture(plans, corpus):
    recipe = tiny.recipe(corpus, data=wt.data.mixed(*plans, weights=(0.4, 0.4, 0.2)))
    whole = tiny.pack(recipe, [{"lr": 1e-2}, {"lr": 3e-2}], seeds=[0, 1])
    assert tiny.alone(whole, 1).finished
