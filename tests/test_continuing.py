"""Going on with new data: what is forgotten is measured by a probe, and foretold like a loss."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.meaning import describe
from windtunnel.parts.probes import LossOn
from windtunnel.parts.schedules import Cooldown, Rewarmed
from windtunnel.recipe import Judge
from windtunnel.runs import RunSpec
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack

STAGE = 12 * tiny.CONTEXT * tiny.BATCH


def reversed_words(folder, seed=5):
    """Documents over other letters, so that learning them costs the first ones."""
    for path in tiny.write_corpus(folder, seed=seed).iterdir():
        path.write_text(
            path.read_text().translate(str.maketrans("abcdefghijklmnopqrstuvwxyz", "zyxwvutsrqponmlkjihgfedcba"))
        )
    return tiny.text(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    first = tiny.text(tiny.write_corpus(tmp_path_factory.mktemp("first")))
    return first, reversed_words(tmp_path_factory.mktemp("second"))


def continued(texts, *, replay=0.0, probes=None, seeds=(0, 1)):
    """Runs of two stages, judged on the second text and probed on the first."""
    first, second = texts
    probes = (LossOn(name="first", data=first, tokens=256),) if probes is None else probes
    schedule = Rewarmed(each=Cooldown(decay=0.5), at_tokens=(STAGE,))
    recipe = tiny.recipe(None, data=wt.data.successive(first, second, tokens=STAGE, replay=replay), schedule=schedule)
    judge = Judge(data=second, tokens=256, evaluations=2, probes=probes)
    described, rung = recipe.describe(), tiny.RUNG.but(tokens=2 * STAGE)
    specs = tuple(
        RunSpec(
            recipe=described, rung=rung, hyperparameters={"lr": 0.02}, seed=seed, judge=judge.describe(), base_rung=rung
        )
        for seed in seeds
    )
    return train(Pack(recipe=recipe, specs=specs, judge=judge), device=tiny.CPU)


@pytest.fixture(scope="module")
def runs(texts):
    return {share: continued(texts, replay=share) for share in (0.0, 0.5)}


def test_the_probe_is_the_judge_s_loss_on_its_own_data(texts):
    _, second = texts
    (run,) = continued(texts, seeds=(0,), probes=(LossOn(name="second", data=second, tokens=256),))
    assert run.metrics["loss_on_second"] == pytest.approx(run.loss, rel=1e-6)


def test_replay_keeps_what_was_learnt_first(runs):
    kept, lost = ([r.metrics["loss_on_first"] for r in runs[share]] for share in (0.5, 0.0))
    assert all(a < b for a, b in zip(kept, lost, strict=True))


def test_the_laws_are_given_the_metric_in_place_of_the_loss(runs):
    plain, probed = (wt.Observations.from_runs(runs[0.0], metric=name) for name in (None, "loss_on_first"))
    assert np.array_equal(probed.loss, [r.metrics["loss_on_first"] for r in runs[0.0]])
    assert np.array_equal(plain.loss, [r.loss for r in runs[0.0]]) and np.array_equal(plain.params, probed.params)
    with pytest.raises(InputError, match="no metric 'loss_on_third'"):
        wt.Observations.from_runs(runs[0.0], metric="loss_on_third")


def test_a_probe_is_what_it_reads_and_not_where_that_lies(texts, tmp_path):
    first, second = texts
    elsewhere = tiny.text(tiny.write_corpus(tmp_path))
    one, same, other = (describe(LossOn(name="first", data=data, tokens=256)) for data in (first, elsewhere, second))
    assert one == same != other
    assert one != describe(LossOn(name="first", data=first, tokens=512))


def test_a_name_that_cannot_be_a_metric_s_is_refused(texts):
    with pytest.raises(InputError, match="loss_on_english"):
        LossOn(name="old text", data=texts[0])
