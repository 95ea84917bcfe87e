"""Laws: a known truth is recovered, whatever the units and the order of the rows."""

from dataclasses import replace

import numpy as np
import pytest

from windtunnel.laws import Chinchilla, Observations, PlainPowerLaw, PowerLaw, Sizes
from windtunnel.laws.broken import BrokenPowerLaw
from windtunnel.laws.candidates import candidates
from windtunnel.laws.fitting import fit_law
from windtunnel.laws.kaplan import Kaplan
from windtunnel.laws.noise import rungs, seed_noise
from windtunnel.laws.shifted import ShiftedPowerLaw
from windtunnel.laws.solve import solve
from windtunnel.laws.together import Wanted, fit_selections, fit_together

N = np.geomspace(1e6, 1e9, 8)


def _grid(count=6):
    params, tokens = np.meshgrid(np.geomspace(1e7, 1e9, count), np.geomspace(2e8, 5e10, count))
    return params.ravel(), tokens.ravel()


def _observed(law, theta, noise=0.0, **sizes):
    loss = law(np.array(theta), Sizes(**sizes))
    return Observations(loss=loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(loss))), **sizes)


def test_chinchilla_equals_its_published_formula():
    value = Chinchilla()(
        np.array([1.69, 406.4, 410.7, 0.34, 0.28]), Sizes(params=np.array([7e10]), tokens=np.array([1.4e12]))
    )
    assert value[0] == pytest.approx(1.69 + 406.4 / 7e10**0.34 + 410.7 / 1.4e12**0.28)


@pytest.mark.parametrize("law", [PowerLaw("params"), PlainPowerLaw("params"), Chinchilla(), Chinchilla(tied=True)])
def test_names_bounds_and_beliefs_agree_in_number(law):
    assert len(law.names) == len(law.bounds) == law.linear + len(law.typical)


def test_power_law_with_floor_is_recovered_from_exact_losses():
    o = _observed(PowerLaw(), [1.8, 300.0, 0.35], params=N)
    fit = fit_law(PowerLaw(), o, draws=4, seed=0)
    assert fit.theta == pytest.approx([1.8, 300.0, 0.35], rel=0.02)
    assert np.max(np.abs(fit.residuals)) < 1e-3


def test_plain_power_law_is_recovered_from_exact_losses():
    fit = fit_law(PlainPowerLaw(), _observed(PlainPowerLaw(), [11.0, 0.07], params=N), draws=4, seed=0)
    assert fit.theta == pytest.approx([11.0, 0.07], rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_chinchilla_is_recovered_from_exact_losses(tied):
    params, tokens = _grid()
    truth = [1.7, 400.0, 410.0, 0.33] if tied else [1.7, 400.0, 410.0, 0.34, 0.28]
    law = Chinchilla(tied=tied)
    fit = fit_law(law, _observed(law, truth, params=params, tokens=tokens), draws=4, seed=0)
    far = Sizes(params=np.array([1e10]), tokens=np.array([5e11]))
    assert law(fit.theta, far)[0] == pytest.approx(law(np.array(truth), far)[0], rel=2e-3)
    assert np.max(np.abs(fit.residuals)) < 2e-3


def test_a_floor_is_never_negative():
    steep = Observations(loss=np.array([3.0, 2.0, 1.0, 0.4]), params=np.array([1e6, 2e6, 4e6, 8e6]))
    fit = fit_law(PowerLaw(), steep, draws=50, seed=0)
    assert (fit.draws[:, :2] >= 0).all()


def test_the_unit_of_size_does_not_change_the_curve():
    o = _observed(PowerLaw(), [1.8, 300.0, 0.35], noise=0.003, params=N)
    in_millions = Observations(loss=o.loss, params=N / 1e6)
    ours, theirs = (fit_law(PowerLaw(), each, draws=4, seed=0) for each in (o, in_millions))
    assert ours.law(ours.theta, o) == pytest.approx(theirs.law(theirs.theta, in_millions), rel=1e-6)


def test_one_wild_run_hardly_moves_the_curve():
    o = _observed(PowerLaw(), [1.8, 300.0, 0.35], noise=0.002, params=np.repeat(N, 3))
    wild = Observations(loss=np.where(np.arange(24) == 10, o.loss * 1.2, o.loss), params=o.params)
    far = Sizes(params=np.array([5e9]))
    clean, hit = (fit_law(PowerLaw(), each, draws=4, seed=0) for each in (o, wild))
    assert hit.law(hit.theta, far)[0] == pytest.approx(clean.law(clean.theta, far)[0], rel=0.01)


def test_the_solver_finds_no_worse_a_point_than_scipy_from_many_starts():
    from scipy.optimize import least_squares

    o = _observed(PowerLaw(), [1.8, 300.0, 0.35], noise=0.01, params=N)
    weights = 1 / o.loss**2
    value = solve(PowerLaw(), o, o.loss[None], weights).value
    starts = [(e, a, x) for e in (0.1, 1.0, 2.0) for a in (10.0, 1000.0) for x in (0.1, 0.3, 0.6)]
    bounds = ([0, 0, 0.02], [np.inf, np.inf, 3.0])
    found = [
        least_squares(lambda t: PowerLaw()(t, o) / o.loss - 1, start, bounds=bounds, x_scale=start) for start in starts
    ]
    assert value[0] <= 2 * min(result.cost for result in found) * 1.01


def test_the_same_seed_gives_the_same_digits():
    o = _observed(PowerLaw(), [1.8, 300.0, 0.35], noise=0.005, params=N)
    first, second = (fit_law(PowerLaw(), o, draws=20, seed=3) for _ in range(2))
    assert (first.draws == second.draws).all()
    assert (first.draws != fit_law(PowerLaw(), o, draws=20, seed=4).draws).any()


@pytest.mark.parametrize("law", [Kaplan((1e8, 1e9)), Chinchilla(), Chinchilla(tied=True), Chinchilla(floor=False)])
def test_a_fit_does_not_depend_on_what_it_is_made_with(law):
    """Also where the others have other sizes and units, and where a floor of theirs ends at zero."""
    wanted = []
    for number in range(5):
        params, tokens = (axis * 3.0**number for axis in _grid(4))
        noise = np.exp(0.01 * np.random.default_rng(number).standard_normal(16))
        loss = (number % 2 + 400 * params**-0.3 + 400 * tokens**-0.3) * noise
        own = replace(law, unit=(1e8 * 3.0**number, 1e9)) if isinstance(law, Kaplan) else law
        selection = (np.arange(16) < np.array([[12], [16]])).astype(float)
        wanted.append(Wanted(own, Observations(loss=loss, params=params, tokens=tokens), selection))
    for each, found in zip(wanted, fit_together(wanted), strict=True):
        alone = fit_selections(each.law, each.observations, each.selection)
        assert (found.theta == alone.theta).all() and (found.doubt == alone.doubt).all()
        assert found.law is each.law and found.sizes is each.observations


def test_of_two_terms_that_no_run_tells_apart_the_first_is_taken():
    o = Observations(loss=np.array([2.0, 2.01, 1.99, 2.0]), params=np.full(4, 1e7))
    for scale in (1.0, 1.1, 1.3, 1.7):  # rounding differs, the answer does not
        theta = solve(PowerLaw(), o, o.loss[None] * scale, 1 / o.loss**2).theta[0]
        assert theta[0] == pytest.approx(2.0 * scale, rel=1e-3) and theta[1] == 0


def test_draws_spread_more_where_runs_are_noisier():
    far = Sizes(params=np.array([1e10]))
    quiet, loud = (
        fit_law(
            PowerLaw(), _observed(PowerLaw(), [1.8, 300.0, 0.35], noise=sd, params=np.repeat(N, 3)), draws=200, seed=0
        )
        for sd in (0.002, 0.02)
    )
    assert np.std(loud.log_loss(far)) > 2 * np.std(quiet.log_loss(far))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"params": N}, "params"),
        ({"params": N, "tokens": np.full(8, 1e9), "flops": 6e9 * N}, "params"),
        ({"params": N, "tokens": 20 * N, "flops": 120 * N**2}, "flops"),
        ({"params": np.full(8, 1e7), "tokens": N, "flops": 6e7 * N}, "tokens"),
        ({"flops": N}, "flops"),
    ],
)
def test_laws_are_chosen_by_what_varies(sizes, expected):
    laws = candidates(Observations(loss=np.ones(8), **sizes))
    assert {column for law in laws for column in law.columns} == {expected}
    assert {type(law) for law in laws} >= {PowerLaw, PlainPowerLaw}


def test_laws_with_a_bend_are_offered_only_where_many_sizes_could_show_one():
    few, many = (
        candidates(Observations(loss=np.ones(count), params=np.geomspace(1e6, 1e8, count))) for count in (5, 9)
    )
    assert len(few) == 2
    assert {BrokenPowerLaw, ShiftedPowerLaw} <= {type(law) for law in many}


def test_columns_that_only_grow_with_the_model_offer_no_law_of_their_own():
    params, tokens = _grid()
    grown = Observations(loss=np.ones(36), params=params, tokens=tokens, batch_tokens=0.01 * params)
    free = np.exp(np.random.default_rng(0).normal(10, 1, 36))
    assert not any("batch_tokens" in law.columns for law in candidates(grown))
    assert all("batch_tokens" in law.columns for law in candidates(replace(grown, batch_tokens=free)))


def test_sizes_and_horizons_that_vary_apart_get_laws_in_both():
    params, tokens = _grid()
    assert candidates(Observations(loss=np.ones(36), params=params, tokens=tokens)) == (
        Chinchilla(tied=True),
        Chinchilla(),
        Kaplan((float(np.exp(np.log(params).mean())), float(np.exp(np.log(tokens).mean())))),
        Chinchilla(floor=False),
    )


def test_noise_is_pooled_within_sizes_not_between_them():
    loss = np.array([3.0, 3.03, 2.0, 2.02])
    sd, df = seed_noise(Observations(loss=loss, params=np.array([1e6, 1e6, 1e7, 1e7])))
    assert df == 2
    assert sd == pytest.approx(0.01 / np.sqrt(2), rel=0.02)


def test_runs_at_other_learning_rates_are_not_repeats():
    runs = Observations(loss=np.array([3.0, 3.5]), params=np.array([1e6, 1e6]), lr=np.array([1e-3, 1e-1]))
    assert seed_noise(runs)[1] == 0


def test_scattered_sizes_are_gathered_into_a_few_rungs():
    assert rungs(Observations(loss=np.ones(200), flops=np.geomspace(1e18, 1e22, 200))).max() == 7
