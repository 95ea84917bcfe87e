"""Worlds: the closed form matches what training really gives, limits hold, and truths are what they are said to be."""

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.laws.law import Sizes
from windtunnel.worlds import (
    BrokenWorld,
    PowerLawWorld,
    RidgeWorld,
    RunNoise,
    World,
    draw_idea,
    draw_ladder,
    draw_power_law,
    draw_ridge,
    draw_two_regimes,
    simulate,
)
from windtunnel.worlds.world import columns, deviations, flops_of, sizes_at

SMALL = RidgeWorld(decay=1.5, smooth=1.4, noise=0.1, modes=300)
SMOOTH = RidgeWorld(decay=1.2, smooth=2.0, noise=0.0, modes=300)
CLEAN = RidgeWorld(decay=1.4, smooth=1.3, noise=0.0)


def _generator(seed=0):
    return np.random.default_rng(seed)


# random-feature ridge regression


@pytest.mark.parametrize("world", [SMALL, SMOOTH])
@pytest.mark.parametrize(("features", "samples", "ridge"), [(60, 180, 0.05), (100, 100, 0.2), (200, 100, 0.02)])
def test_closed_form_is_the_mean_risk_of_regressions_really_done(world, features, samples, ridge):
    risks = [simulate(world, features, samples, ridge, _generator(seed)) for seed in range(24)]
    error = np.std(risks, ddof=1) / np.sqrt(len(risks))
    # the deterministic equivalent is off by a term of order 1 / size besides: a percent at these sizes (1000 draws)
    assert world.risk(features, samples, ridge) == pytest.approx(np.mean(risks), abs=3 * error + 0.01 * np.mean(risks))


def test_the_best_ridge_found_is_no_worse_than_any_other():
    risk, ridge = SMALL.best(80, 120)
    assert SMALL.risk(80, 120, ridge) == pytest.approx(risk, rel=1e-6)
    others = [SMALL.risk(80, 120, float(each)) for each in np.geomspace(1e-4, 1e2, 61)]
    assert risk <= min(others) * (1 + 1e-5)
    assert risk == pytest.approx(min(others), rel=2e-3)


@pytest.mark.parametrize("world", [SMALL, CLEAN, RidgeWorld(1.9, 1.1, 0.02)])
def test_more_features_and_more_samples_never_hurt_at_the_best_ridge(world):
    """The first theorem of 2311.14646."""
    sizes = np.geomspace(5, 250, 8)
    risk = np.array([[world.best(k, n)[0] for n in sizes] for k in sizes])
    assert np.all(np.diff(risk, axis=0) < 1e-9)
    assert np.all(np.diff(risk, axis=1) < 1e-9)


def test_infinitely_many_features_are_kernel_ridge_regression():
    """The omniscient risk estimate of kernel ridge regression (2110.03922), solved here on its own."""
    values, counts, energy = SMALL.spectrum
    samples, ridge = 90.0, 0.2
    low, high = 1e-9, 1e3
    for _ in range(200):
        kappa = np.sqrt(low * high)
        low, high = (kappa, high) if counts @ (values / (values + kappa)) + ridge / kappa > samples else (low, kappa)
    learnt = values / (values + kappa)
    overfit = samples / (samples - counts @ learnt**2)
    expected = overfit * (energy @ (1 - learnt) ** 2 + SMALL.noise)
    assert SMALL.risk(1e9, samples, ridge) == pytest.approx(expected, rel=1e-5)


def test_risk_goes_from_all_that_can_be_learnt_to_the_noise():
    huge_ridge = SMALL.risk(50, 50, 1e9)
    assert huge_ridge == pytest.approx(1.1, rel=1e-4)
    assert SMALL.best(1e7, 1e7)[0] == pytest.approx(SMALL.noise, rel=1e-3)


def test_binned_spectrum_gives_the_risk_of_the_whole_one():
    world = RidgeWorld(1.3, 1.2, 0.05, modes=20_000)
    modes = np.arange(1.0, 20_001)
    exact = RidgeWorld(1.3, 1.2, 0.05, modes=20_000)
    exact.__dict__["spectrum"] = modes**-1.3, np.ones(20_000), modes**-1.2 / np.sum(modes**-1.2)
    for features, samples in [(50, 100), (1000, 300)]:
        assert world.best(features, samples)[0] == pytest.approx(exact.best(features, samples)[0], rel=1e-3)


def test_noise_free_risk_is_a_power_law_of_the_stated_exponent():
    sizes = np.array([1e3, 1e4, 1e5])
    risk = CLEAN(sizes_at(sizes, sizes))
    assert np.diff(np.log(risk)) / np.diff(np.log(sizes)) == pytest.approx([-0.3, -0.3], abs=0.02)


@pytest.mark.parametrize(("decay", "smooth", "noise"), [(1.0, 1.5, 0.1), (1.5, 0.9, 0.1), (1.5, 1.5, -0.1)])
def test_spectra_that_cannot_be_summed_are_refused(decay, smooth, noise):
    with pytest.raises(InputError, match=r"summable"):
        RidgeWorld(decay, smooth, noise)


def test_a_ridge_of_zero_is_refused():
    with pytest.raises(InputError, match="above 0"):
        SMALL.risk(10, 10, 0.0)


# power laws and breaks


def test_power_law_world_is_its_formula():
    law = PowerLawWorld(floor=1.7, params_term=(400.0, 0.34), tokens_term=(410.0, 0.28))
    expected = 1.7 + 400 * 1e9**-0.34 + 410 * 2e10**-0.28
    assert law(sizes_at(np.array([1e9]), np.array([2e10]))) == pytest.approx(expected)
    assert law(sizes_at(np.array([1e60]), np.array([1e60]))) == pytest.approx(1.7)


def _slope(law, size):
    sizes = sizes_at(np.array([size, size * 1.01]), np.array([1e9, 1e9]))
    return float(np.diff(np.log(law(sizes) - law.floor))[0] / np.log(1.01))


def test_a_break_changes_the_exponent_at_its_place():
    law = BrokenWorld(floor=0.5, factor=3.0, before=0.4, after=0.1, place=1e7, sharp=0.3, horizon=True)
    assert _slope(law, 1e4) == pytest.approx(-0.4, abs=1e-3)
    assert _slope(law, 1e7) == pytest.approx(-0.25, abs=0.01)
    assert _slope(law, 1e10) == pytest.approx(-0.1, abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_breaks_lie_where_they_are_said_to(seed):
    inside = draw_two_regimes(_generator(seed), 8, "horizon")
    beyond = draw_two_regimes(_generator(seed), 8, "horizon", beyond=True)
    assert inside.ladder.params.min() < inside.law.place < inside.ladder.params.max()
    assert beyond.ladder.params.max() <= beyond.law.place <= columns(beyond.ladder.target)[0][0]


def test_a_world_without_tokens_is_refused():
    with pytest.raises(InputError, match="both"):
        PowerLawWorld(floor=1.0, params_term=(1.0, 0.3))(Sizes(params=np.array([1e6])))


# ladders and noise


@pytest.mark.parametrize("design", ["horizon", "path", "grid"])
@pytest.mark.parametrize("runs", [5, 8, 20])
def test_targets_lie_3_to_100_times_beyond_a_ladder_of_the_asked_runs(design, runs):
    for seed in range(20):
        ladder = draw_ladder(_generator(seed), runs, design)
        beyond = float(flops_of(ladder.target)[0] / ladder.flops.max())
        assert len(ladder.params) == len(ladder.seed) == runs
        assert 2.999 < beyond < 100.001
        assert 3 <= len(np.unique(ladder.flops.round(-3))) <= runs


def test_only_a_grid_tells_params_and_tokens_apart():
    for design, apart in [("horizon", False), ("path", False), ("grid", True)]:
        ladder = draw_ladder(_generator(3), 20, design)
        table = np.stack([np.ones(20), np.log(ladder.params), np.log(ladder.tokens)], axis=1)
        assert (np.linalg.matrix_rank(table, tol=1e-6) == 3) == apart


def test_an_unknown_design_is_refused():
    with pytest.raises(InputError, match="horizon"):
        draw_ladder(_generator(), 8, "spiral")


def test_noise_has_the_stated_size_is_shared_within_a_rung_and_shrinks():
    noise = RunNoise(run=0.01, rung=0.02, flops=1e15, shrink=0.1, least=0.002)
    flops, rung = np.repeat([1e15, 1e18, 1e40], 2), np.repeat([0, 1, 2], 2)
    drawn = np.array([deviations(noise, flops, rung, _generator(seed)) for seed in range(4000)])
    total = np.hypot(0.01, 0.02) * np.array([1, 1, 1000**-0.1, 1000**-0.1, 0.2, 0.2])
    assert drawn.std(axis=0) == pytest.approx(total, rel=0.05)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.8, abs=0.03)
    assert np.corrcoef(drawn.T)[0, 2] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("draw", [draw_power_law, draw_ridge, draw_two_regimes])
def test_a_seed_gives_the_same_world_and_runs_and_another_gives_others(draw):
    first, again, other = (draw(_generator(seed), 8) for seed in (1, 1, 2))
    runs = [world.observations(_generator(5)).loss for world in (first, again)]
    assert np.array_equal(runs[0], runs[1])
    assert first.fall == again.fall != other.fall
    assert not np.array_equal(runs[0], first.observations(_generator(6)).loss)


@pytest.mark.parametrize("draw", [draw_power_law, draw_ridge, draw_two_regimes])
@pytest.mark.parametrize("runs", [5, 8, 20])
def test_losses_fall_to_the_target_and_runs_scatter_about_the_truth(draw, runs):
    for seed in range(10):
        world: World = draw(_generator(seed), runs)
        observed = world.observations(_generator(seed + 100))
        assert world.fall > 0
        assert (len(observed.to_fit()), len(observed.to_predict())) == (runs, 1)
        truth = world.truth(Sizes(params=observed.params, tokens=observed.tokens, flops=observed.flops))
        assert np.max(np.abs(np.log(observed.loss / truth))) < 0.06


# ideas


def test_an_idea_of_no_worth_changes_nothing():
    idea = draw_idea(_generator(), 8, "none")
    assert np.all(idea.delta(idea.base.ladder.sizes) == 0)


@pytest.mark.parametrize("design", ["horizon", "path", "grid"])
def test_a_constant_idea_is_its_base_with_more_compute(design):
    idea = draw_idea(_generator(4), 8, "constant", design)
    times, sizes = float(np.exp(idea.gain)), idea.base.ladder.sizes
    both = 1.0 if design == "horizon" else 0.5
    more = sizes_at(sizes.params * times**both, sizes.tokens * times ** (1 - both))
    assert idea.truth(sizes) == pytest.approx(idea.base.truth(more))
    assert np.all(np.sign(idea.delta(sizes)) == -np.sign(idea.gain))


@pytest.mark.parametrize("seed", range(10))
def test_fading_ideas_keep_their_sign_and_crossing_ones_change_it_once(seed):
    fading, crossing = (draw_idea(_generator(seed), 20, kind, "path") for kind in ("fading", "crossing"))
    worth = np.abs(np.log(fading.multiplier(fading.base.ladder.sizes)))
    assert np.all(np.diff(worth) <= 1e-12)
    params = crossing.base.ladder.params.max() * np.geomspace(1 / 10, 10, 200)
    signs = np.sign(crossing.delta(sizes_at(params, 20 * params)))
    assert np.sum(np.diff(signs) != 0) <= 1
    far = crossing.base.ladder.params.max() * np.array([1e-2, 1e2])
    assert np.prod(np.sign(crossing.delta(sizes_at(far, 20 * far)))) == -1


def test_pairing_by_seed_cuts_the_scatter_of_the_gap_as_published():
    """Published: 1.5 to 6 times."""
    cuts = []
    for seed in range(300):
        idea = draw_idea(_generator(seed), 20)
        base, changed = idea.observations(_generator(seed + 1000))
        gap = np.log(changed.loss / base.loss)
        sizes = Sizes(params=base.params, tokens=base.tokens, flops=base.flops)
        true = np.log(idea.truth(sizes) / idea.base.truth(sizes))
        alone = np.log(base.loss / idea.base.truth(sizes))
        cuts.append(np.sqrt(2) * alone.std() / (gap - true).std())
    assert 1.3 < np.quantile(cuts, 0.1) < np.quantile(cuts, 0.9) < 7
