"""Successive data: stages follow each other exactly, replayed examples are the old ones, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.train.loop import train


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    return tuple(tiny.text(tiny.write_corpus(folder, seed=seed)) for seed, folder in enumerate(folders))


def read(plan, steps, size=4):
    return np.concatenate([plan.batch(seed=3, step=step, size=size)[0] for step in steps])


def test_each_stage_reads_its_own_plan_from_its_beginning(two):
    first, second = two
    both = wt.data.successive(first, second, tokens=6 * 4 * tiny.CONTEXT)
    assert np.array_equal(read(both, range(6)), read(first, range(6)))
    assert np.array_equal(read(both, range(6, 10)), read(second, range(4)))


def test_a_step_belongs_to_the_stage_in_which_it_begins(two):
    first, second = two
    both = wt.data.successive(first, second, tokens=5 * 4 * tiny.CONTEXT + 1)
    assert np.array_equal(read(both, [5]), read(first, [5]))
    assert np.array_equal(read(both, [6]), read(second, [0]))


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_replay_is_the_stated_share_of_old_examples_and_the_new_ones_keep_their_order(two, share):
    first, second = two
    plan = wt.data.successive(first, second, tokens=4 * tiny.CONTEXT, replay=share)
    seen = read(plan, range(1, 11))
    old = {row.tobytes() for row in read(first, range(40), size=1)}
    is_old = np.array([row.tobytes() in old for row in seen])
    assert is_old.sum() == int(40 * share)
    assert np.array_equal(seen[~is_old], read(second, range(40 - int(40 * share)), size=1))
    assert np.array_equal(seen[is_old], read(first, range(int(40 * share)), size=1))


def test_replay_takes_turns_over_all_earlier_plans(two):
    first, second = two
    plan = wt.data.successive(first, second, first, tokens=4 * tiny.CONTEXT, replay=0.5)
    seen = read(plan, range(2, 6))
    assert np.array_equal(seen[1::4], read(first, range(4), size=1))
    assert np.array_equal(seen[3::4], read(second, range(4), size=1))


def test_another_batch_size_replays_the_same_examples(two):
    plan = wt.data.successive(*two, tokens=8 * tiny.CONTEXT, replay=0.3)
    assert np.array_equal(read(plan, range(1, 5), size=8), read(plan, range(2, 10), size=4))


def test_the_held_out_examples_are_both_plans_in_equal_shares(two):
    first, second = two
    plan = wt.data.successive(first, second, tokens=4 * tiny.CONTEXT)
    held = np.concatenate([x for x, _ in plan.held_out(size=4, tokens=16 * tiny.CONTEXT)])
    own = [np.concatenate([x for x, _ in p.held_out(size=4, tokens=8 * tiny.CONTEXT)]) for p in two]
    assert np.array_equal(held, np.concatenate(own))


def test_what_is_read_and_for_how_long_is_what_identifies_it(two):
    first, second = two
    plans = [
        wt.data.successive(first, second, tokens=64), wt.data.successive(second, first, tokens=64),
        wt.data.successive(first, second, tokens=128), wt.data.successive(first, second, tokens=64, replay=0.1),
    ]  # fmt: skip
    assert len({plan.fingerprint() for plan in plans}) == 4
    assert plans[0].fingerprint() == wt.data.successive(first, second, tokens=(64,)).fingerprint()


def test_a_study_s_engine_trains_on_it(two, corpus):
    plan = wt.data.successive(*two, tokens=8 * 4 * tiny.CONTEXT, replay=0.1)
    pack = tiny.pack(tiny.recipe(corpus, data=plan), [{"lr": 0.01}] * 2)
    runs = train(pack, device=tiny.CPU)
    assert all(run.finished for run in runs)
    assert tiny.numbers(runs[1]) == tiny.numbers(tiny.alone(pack, 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"tokens": (64, 64)}, "tokens of every stage but the last"), ({"tokens": 64, "replay": 1.0}, "replay as a share"),
     ({"tokens": 0}, "tokens of every stage")],
)  # fmt: skip
def test_stages_that_do_not_fit_are_refused(two, options, says):
    with pytest.raises(InputError, match=says):
        wt.data.successive(*two, **options)


def test_a_stage_longer_than_its_plan_is_refused_before_anything_is_trained(two):
    first, second = two
    own = first.shape().train_tokens
    with pytest.raises(InputError, match=f"Stage 1 is to last {own + 1:,} tokens, but its plan has {own:,}"):
        wt.data.successive(first, second, tokens=own + 1)


def test_a_small_plan_is_replayed_again_from_its_beginning(two):
    first, second = two
    count = first.shape().train_tokens // tiny.CONTEXT
    plan = wt.data.successive(first, second, tokens=tiny.CONTEXT, replay=0.5)
    again = read(plan, [1 + 2 * count + 1], size=1)  # of every two the second is old
    assert np.array_equal(again, read(first, [0], size=1))


def test_plans_of_other_contexts_are_refused(two, corpus):
    with pytest.raises(InputError, match="same tokenizer and context"):
        wt.data.successive(two[0], tiny.text(corpus, context=8), tokens=64)
