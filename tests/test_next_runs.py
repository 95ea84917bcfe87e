"""What to run next: advice is worth its money in known worlds, and odd rungs and unsettled parameters are said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.design import design, places
from windtunnel.forecasts.fit import fit
from windtunnel.forecasts.identified import unidentified, unsettled
from windtunnel.forecasts.next_runs import next_runs
from windtunnel.forecasts.odd import odd_rungs
from windtunnel.forecasts.smaller import smaller_ladders, smallest_ladder
from windtunnel.ladder import Target
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations, with_flops
from windtunnel.worlds import draw_power_law
from windtunnel.worlds.world import World, sizes_at


def _world(seed, runs=8, design=""):
    """A world, the fit to its ladder, and its target."""
    generator = np.random.default_rng(seed)
    world = draw_power_law(generator, runs, design)
    o = replace(world.observations(generator).to_fit(), rung=None, split=None)
    return world, fit(o, draws=60), Target(params=world.ladder.target.params[0], tokens=world.ladder.target.tokens[0])


def _trained(world: World, o: Observations, params, tokens, seed):
    """The runs with new ones of the world added."""
    generator = np.random.default_rng(seed)
    sizes = sizes_at(np.asarray(params), np.asarray(tokens))
    shared = {flops: generator.standard_normal() for flops in sizes.flops}
    rung = np.array([shared[flops] for flops in sizes.flops])
    scatter = world.noise.run * generator.standard_normal(len(rung)) + world.noise.rung * rung
    loss = world.truth(sizes) * np.exp(world.noise.scale(sizes.flops) * scatter)
    join = np.concatenate
    return Observations(
        loss=join([o.loss, loss]), params=join([o.params, sizes.params]), tokens=join([o.tokens, sizes.tokens]),
        flops=join([o.flops, sizes.flops]), seed=join([o.seed, [f"new {i}" for i in range(len(loss))]]),
    )  # fmt: skip


def _width(fitted, target):
    at = sizes_at(np.array([target.params]), np.array([target.tokens]))
    interval = fitted.predict(at).interval(0.9)
    return interval.high - interval.low


def _at_random(o, target, budget, seed):
    """Affordable runs at random until the budget is spent."""
    generator, chosen = np.random.default_rng(seed), []
    at = places(o, sizes_at(np.array([target.params]), np.array([target.tokens])), budget)
    while len(affordable := np.flatnonzero(at.flops <= budget)) and len(chosen) < 12:
        chosen.append(generator.choice(affordable))
        budget -= at.flops[chosen[-1]]
    return at.params[chosen], at.tokens[chosen]


def test_following_the_advice_narrows_the_interval_more_than_other_ways_to_spend_it():
    """6 worlds, twice the ladder's price: against random runs, and against repeats of the smallest rung."""
    ratios = {"advice": [], "random": [], "smallest": []}
    said = []
    for seed in range(500, 506):
        world, fitted, target = _world(seed)
        o, before = fitted.observations, _width(fitted, target)
        budget = 2 * float(o.flops.sum())
        advice = next_runs(fitted, target, budget)
        assert sum(each.flops for each in advice) <= budget
        chosen = [(each.sizes["params"], each.sizes["tokens"]) for each in advice for _ in range(each.seeds)]
        small, repeats = int(o.flops.argmin()), min(int(budget / o.flops.min()), 24)
        plans = {
            "advice": tuple(np.array(chosen).T),
            "random": _at_random(o, target, budget, seed),
            "smallest": (np.full(repeats, o.params[small]), np.full(repeats, o.tokens[small])),
        }
        for name, (params, tokens) in plans.items():
            after = _width(fit(_trained(world, o, params, tokens, seed), draws=60), target)
            ratios[name].append(after / before)
        said.append(ratios["advice"][-1] / (advice[-1].width_after / advice[0].width_before))
    middle = {name: np.exp(np.mean(np.log(values))) for name, values in ratios.items()}
    assert middle["advice"] < middle["random"]
    assert middle["advice"] < 0.8 * middle["smallest"]
    assert np.mean(np.abs(np.log(said)) < np.log(2)) >= 0.8


def test_a_thousand_tiny_runs_do_not_settle_a_large_one():
    _, fitted, target = _world(3, 8, "horizon")
    o, goal = fitted.observations, sizes_at(np.array([target.params]), np.array([target.tokens]))
    found = design(fitted, places(o, goal, float(o.flops.max()) * 3), goal)
    none = np.zeros(len(found.price), int)
    tiny = none + 1000 * (found.price <= 2 * found.price.min())
    large = none + (found.price == found.price.max())
    assert found.variance(large) < found.variance(tiny) < found.variance(none)
    assert found.variance(tiny) > 0.5 * found.variance(none)


def test_more_runs_never_widen_and_the_target_is_never_advised():
    _, fitted, target = _world(4)
    top = 6 * target.params * target.tokens
    for advice in (next_runs(fitted, target, 0.3 * top), next_runs(fitted, target, 30 * top)):
        widths = [each.width_after for each in advice]
        assert widths == sorted(widths, reverse=True)
        assert all(each.flops / each.seeds <= 0.5 * top * 1.001 and each.seeds <= 3 for each in advice)


def test_given_candidates_are_the_only_ones_advised():
    _, fitted, target = _world(5, 8, "path")
    o = fitted.observations
    params = np.array([2.0, 1.2]) * o.params.max()
    ratio = o.tokens[0] / o.params[0]
    advice = next_runs(fitted, target, 1e30, candidates=Sizes(params=params, tokens=ratio * params))
    assert advice and {each.sizes["params"] for each in advice} <= set(params)


def test_advice_needs_a_price_and_a_budget_that_buys_a_run():
    sizes = np.geomspace(1e6, 1e8, 6)
    unpriced = fit(Observations(loss=2 + 100 * sizes**-0.4, params=sizes))
    with pytest.raises(InputError, match="price"):
        next_runs(unpriced, Target(params=1e9), 1e20)
    _, fitted, target = _world(6)
    with pytest.raises(InputError, match="buys no run"):
        next_runs(fitted, target, 1.0)
    with pytest.raises(InputError, match="budget_flops"):
        next_runs(fitted, target, -1.0)


# smaller ladders


def test_smaller_ladders_are_cheaper_and_dropping_the_top_widens():
    _, fitted, target = _world(7, 8, "path")
    rows = smaller_ladders(fitted, target)
    assert rows[0].without == "" and rows[0].share == 1 and rows[0].widening == pytest.approx(1)
    tops = [row for row in rows if "top" in row.without]
    assert tops[-1].widening > 1.3 and all(row.share < 1 for row in tops)
    assert smallest_ladder(rows).flops <= rows[0].flops


# odd rungs


def _ladder(defect=0.0, rung=0, noise=0.002, seed=0):
    """8 rungs of 2 seeds of a known law, one of them off by `defect`."""
    params = np.repeat(np.geomspace(1e6, 1e8, 8), 2)
    loss = (1.7 + 300 * params**-0.4) * np.exp(noise * np.random.default_rng(seed).standard_normal(16))
    loss[2 * rung : 2 * rung + 2] *= 1 + defect
    return with_flops(Observations(loss=loss, params=params, tokens=20 * params, seed=np.tile(["0", "1"], 8)))


def test_a_smallest_rung_that_is_off_is_named():
    fitted = fit(_ladder(defect=0.08), draws=60)
    odd = odd_rungs(fitted, Target(params=1e9, tokens=2e10))
    assert odd[0].rung == 0 and odd[0].excess == pytest.approx(0.08, abs=0.03)
    assert "smallest rung" in str(odd[0]) and "Without it" in str(odd[0])


def test_a_middle_rung_that_is_off_is_named():
    odd = odd_rungs(fit(_ladder(defect=-0.04, rung=4), draws=60))
    assert odd[0].rung == 4


def test_sound_ladders_are_seldom_accused():
    """8 ladders; one in twenty may be (of 81 power-law worlds none was)."""
    assert sum(bool(odd_rungs(fit(_ladder(seed=seed), draws=20))) for seed in range(8)) <= 1


def test_ladders_of_four_rungs_accuse_none():
    o = _ladder(defect=0.3).where(np.arange(16) < 8)
    assert odd_rungs(fit(o, draws=20)) == ()


# identifiability


def test_a_short_noisy_ladder_says_that_floor_and_exponent_are_one_and_names_a_larger_rung():
    params = np.geomspace(1e6, 2.5e6, 6)
    loss = (1.7 + 300 * params**-0.4) * np.exp(0.003 * np.random.default_rng(0).standard_normal(6))
    fitted = fit(with_flops(Observations(loss=loss, params=params, tokens=20 * params)))
    (first, *_), (sentence, *_) = unsettled(fitted, 1e19), unidentified(fitted, 1e19)
    assert {first.parameter, first.partner} == {"E", "alpha"} and first.correlation > 0.9
    assert first.run is not None and first.run.params[0] > 2 * params.max()
    assert "cannot be told apart" in sentence and "add a rung at" in sentence


def test_a_long_ladder_settles_its_parameters():
    params = np.repeat(np.geomspace(1e5, 1e10, 12), 3)
    loss = (1.7 + 300 * params**-0.4) * np.exp(0.0005 * np.random.default_rng(0).standard_normal(36))
    assert unidentified(fit(with_flops(Observations(loss=loss, params=params, tokens=20 * params)))) == ()
