"""Schedules: each is the published curve, reaches what it promises at the ends, and branches off one trunk."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.parts.schedules import (
    WSD,
    Cooldown,
    Cosine,
    Exponential,
    HalfCosine,
    Infinite,
    Linear,
    OneMinusSqrt,
    Power,
    Rewarmed,
    cosine_to,
    linear_to_zero,
)
from windtunnel.train.loop import train
from windtunnel.train.pack import Pack
from windtunnel.train.rows import trained_tokens

STEP = tiny.CONTEXT * tiny.BATCH
HORIZONS = (8 * STEP, 16 * STEP, 32 * STEP)
SHAPES = (Linear(), OneMinusSqrt(), HalfCosine(), Exponential(halvings=4))
WARM = 2 * STEP
BRANCHING = (
    Cooldown(warmup_tokens=WARM, decay=0.25, shape=OneMinusSqrt()),
    Power(knee_tokens=3 * STEP, warmup_tokens=WARM, decay=0.25),
    Infinite(warmup_tokens=WARM, cooldown_tokens=3 * STEP, decay=0.25),
)


@dataclass(frozen=True)
class Squared:
    """A user's own shape."""

    def __call__(self, done):
        return (1 - done) ** 2


def over_horizons(corpus, schedule, horizons=HORIZONS):
    recipe = tiny.recipe(corpus, schedule=schedule)
    packs = [tiny.pack(recipe, [{"lr": 0.01}], rung=tiny.RUNG.but(tokens=t), base=tiny.RUNG) for t in horizons]
    specs = sum((pack.specs for pack in packs), ())
    return Pack(recipe=recipe, specs=specs, judge=packs[0].judge, labels=packs[0].labels * len(specs))


def sampled(schedule, horizon=1000, count=401):
    return np.array([schedule(t, horizon) for t in np.linspace(0, horizon, count)])


@pytest.mark.parametrize("shape", [*SHAPES, Squared()])
def test_every_shape_falls_from_one_and_a_cooldown_ends_at_its_floor(shape):
    left = np.array([shape(d) for d in np.linspace(0, 1, 101)])
    assert left[0] == 1 and np.all(np.diff(left) < 1e-12) and left[-1] >= -1e-12
    for floor in (0.0, 0.1):
        last = Cooldown(decay=0.5, shape=shape, floor=floor)(1000, 1000)
        assert last == pytest.approx(floor + (1 - floor) * shape(1.0))


def test_a_linear_cooldown_is_the_stock_wsd():
    ours, stock = Cooldown(warmup_tokens=100, decay=0.3, floor=0.1), WSD(warmup_tokens=100, decay=0.3, floor=0.1)
    assert np.allclose(sampled(ours), sampled(stock))


def test_an_exponential_cooldown_is_minicpm_s_formula():
    horizon, start, tau = 1000, 900, 20.0
    schedule = Cooldown(decay=0.1, shape=Exponential(halvings=100 / tau))
    for tokens in (905, 940, 1000):
        assert schedule(tokens, horizon) == pytest.approx(0.5 ** ((tokens - start) / tau))


def test_a_cosine_with_a_warm_up_in_tokens_is_the_stock_cosine():
    assert np.allclose(sampled(cosine_to(0.1, warmup_tokens=50)), sampled(Cosine(warmup=0.05, floor=0.1)))


def test_linear_to_zero_reaches_the_peak_and_then_falls_in_one_line_to_zero():
    rates = sampled(linear_to_zero(warmup_tokens=200))
    assert rates.max() == 1 and rates[-1] == 0
    fall = rates[81:]  # behind the warm-up
    assert np.allclose(np.diff(fall), np.diff(fall)[0])


def test_power_is_the_paper_s_formula_before_its_decay():
    a, b, peak, batch = 4.0, -0.51, 0.02, 16
    schedule = Power.of(a=a, b=b, peak=peak, batch_tokens=batch, decay=0.1)
    for tokens in 10.0 ** np.arange(3, 12):
        assert peak * schedule(tokens, 1e13) == pytest.approx(min(peak, batch * a * tokens**b))


def test_power_at_another_batch_is_the_paper_s_formula_with_that_batch():
    at = {"a": 4.0, "b": -0.4, "peak": 0.02}
    moved, made = Power.of(**at, batch_tokens=16).at_batch(64), Power.of(**at, batch_tokens=64)
    assert moved.knee_tokens == pytest.approx(made.knee_tokens)
    assert moved.at_batch(16).knee_tokens == pytest.approx(Power.of(**at, batch_tokens=16).knee_tokens)
    assert Power(knee_tokens=10).at_batch(64) == Power(knee_tokens=10)


def test_a_prefix_of_power_does_not_know_its_horizon():
    schedule = Power(knee_tokens=50, warmup_tokens=20, decay=0.1)
    tokens = np.linspace(1, 899, 100)
    assert [schedule(t, 1000) for t in tokens] == [schedule(t, 9000) for t in tokens]


def test_infinite_holds_until_the_anneal_and_its_anneal_is_a_straight_line_in_the_logarithm():
    schedule = Infinite(warmup_tokens=100, cooldown_tokens=300, hold=0.4, decay=0.2, floor=0.01)
    assert schedule(100, 2000) == 1 and schedule(400, 2000) == schedule(1600, 2000) == pytest.approx(0.4)
    logs = np.log([schedule(t, 2000) for t in np.linspace(1600, 2000, 9)])
    assert np.allclose(np.diff(logs), np.diff(logs)[0]) and math.exp(logs[-1]) == pytest.approx(0.01)
    assert Infinite(hold=0.4, decay=0.0, cooldown_tokens=300)(2000, 2000) == 0.4


def test_rewarmed_begins_each_stage_where_the_last_was_left_and_ends_it_where_the_schedule_ends():
    each = cosine_to(0.1, warmup_tokens=50)
    schedule = Rewarmed(each=each, at_tokens=(400, 700), warmup_tokens=50, again=0.5)
    for tokens in (30, 50, 200, 400):
        assert schedule(tokens, 1000) == each(tokens, 400)
    assert schedule(400.001, 1000) == pytest.approx(0.1, abs=1e-3)
    assert schedule(450, 1000) == pytest.approx(0.5) and schedule(750, 1000) == pytest.approx(0.5)
    assert schedule(700, 1000) == schedule(1000, 1000) == pytest.approx(0.05)
    assert schedule(300, 350) == each(300, 350)  # a run that ends in the first stage knows nothing of later ones


@pytest.mark.parametrize("schedule", [*BRANCHING, Rewarmed(each=BRANCHING[0], at_tokens=(99 * STEP,))])
def test_a_branch_is_the_run_trained_apart_and_the_trunk_is_trained_once(corpus, schedule):
    pack = over_horizons(corpus, schedule)
    assert trained_tokens(pack) == (32 + 2 + 4) * STEP
    for member, run in enumerate(train(pack, device=tiny.CPU)):
        assert tiny.numbers(run) == tiny.numbers(tiny.alone(pack, member))


@pytest.mark.parametrize("schedule", [linear_to_zero(warmup_tokens=WARM), cosine_to(0.1, warmup_tokens=WARM)])
def test_schedules_over_the_whole_horizon_share_their_warm_up_only(corpus, schedule):
    assert trained_tokens(over_horizons(corpus, schedule)) == sum(HORIZONS) - 2 * WARM


def test_the_engine_asks_a_power_schedule_for_the_batch_it_trains_at(corpus):
    def trained(**fields):
        (run,) = train(over_horizons(corpus, Power(exponent=-0.5, decay=0.25, **fields), HORIZONS[:1]), device=tiny.CPU)
        return tiny.numbers(run)

    at_a_quarter = trained(knee_tokens=2 * STEP / 4**2, batch_tokens=STEP / 4)
    assert at_a_quarter == trained(knee_tokens=2 * STEP) != trained(knee_tokens=2 * STEP / 4**2)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Cooldown(decay=0.0), "decay is the last share"),
        (lambda: Cooldown(floor=1.5), "floor a share of the peak"),
        (lambda: Cooldown(warmup_tokens=-1), "warmup_tokens is -1"),
        (lambda: Cooldown(shape="linear"), "shape is 'linear'"),
        (lambda: Cooldown(shape=Linear), "such as Linear"),
        (lambda: Cooldown(shape=lambda done: done), "1 at 0"),
        (lambda: Exponential(halvings=0), "halvings"),
        (lambda: Power(knee_tokens=0), "knee is a count"),
        (lambda: Power(knee_tokens=10, exponent=0.5), "exponent lies in"),
        (lambda: Power(knee_tokens=10, batch_tokens=0), "batch_tokens is 0"),
        (lambda: Power.of(a=4, b=0.5, peak=0.02, batch_tokens=16), "b is negative"),
        (lambda: Infinite(hold=0.0), "0 < floor <= hold <= 1"),
        (lambda: Infinite(floor=0.0), "an exponential never reaches zero"),
        (lambda: Rewarmed(each=Linear(), at_tokens=(5, 3)), "rising tuple"),
        (lambda: Rewarmed(each=cosine_to(), at_tokens=()), "rising tuple"),
        (lambda: Rewarmed(each=0.1, at_tokens=(5,)), "each is a schedule"),
    ],
)
def test_a_wrong_field_is_refused_with_what_it_should_be(made, says):
    with pytest.raises(InputError, match=says):
        made()


def test_a_tuned_field_is_left_open_and_then_checked(corpus):
    recipe = tiny.recipe(corpus, schedule=Cooldown(decay=wt.tuned(0.05, 0.5)))
    assert recipe.fill({"lr": 0.01, "decay": 0.1}).schedule.decay == 0.1
    with pytest.raises(InputError, match="decay is the last share"):
        recipe.fill({"lr": 0.01, "decay": 2.0})
