"""Allocation: known optima are found, intervals hold hidden isoFLOP optima, and being off costs what it costs."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.allocation import Allocation, allocate, flops_for
from windtunnel.forecasts.budgets import Curves, near_frontier
from windtunnel.forecasts.fit import Fit, fit
from windtunnel.forecasts.price import Price
from windtunnel.laws.chinchilla import Chinchilla
from windtunnel.laws.fitting import LawFit
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations, with_flops

# Besiroglu's refit of Chinchilla (2404.10102)
E, A, ALPHA, B, BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658


def _loss(params, tokens):
    return E + A * params**-ALPHA + B * tokens**-BETA


def _best_params(flops):
    """Closed form of the optimum (2203.15556, equation 4)."""
    ratio = ALPHA * A / (BETA * B)
    return ratio ** (1 / (ALPHA + BETA)) * (flops / 6) ** (BETA / (ALPHA + BETA))


@pytest.fixture(scope="module")
def chinchilla() -> Fit:
    """60 runs of a known law at six budgets, with 0.3 % noise."""
    flops = np.repeat(np.geomspace(1e18, 1e21, 6), 10)
    params = _best_params(flops) * np.tile(np.geomspace(0.1, 10, 10), 6)
    tokens = flops / 6 / params
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(60))
    return fit(Observations(loss=_loss(params, tokens) * noise, params=params, tokens=tokens, flops=flops))


@pytest.fixture(scope="module")
def answer(chinchilla) -> Allocation:
    return allocate(chinchilla, 1e23)


def test_the_optimum_of_a_known_law_is_found_and_its_interval_holds_it(answer):
    truth = _best_params(1e23)
    assert answer.params.holds(truth)
    assert answer.tokens.holds(1e23 / 6 / truth)
    assert answer.exponent.holds(BETA / (ALPHA + BETA))
    assert answer.params.median == pytest.approx(truth, rel=0.25)
    assert answer.loss.holds(_loss(truth, 1e23 / 6 / truth))


def test_the_split_spends_the_budget(answer):
    assert 6 * answer.params.median * answer.tokens.median == pytest.approx(1e23, rel=0.02)


def test_the_cost_of_being_off_is_that_of_the_law(answer):
    best = _best_params(1e23)
    least = _loss(best, 1e23 / 6 / best)
    for off in answer.off:
        params = best * off.params_factor
        excess = _loss(params, 1e23 / 6 / params) / least - 1
        assert off.excess.median == pytest.approx(excess, rel=0.25)
        assert off.compute_multiple.median > 1.05


def test_being_further_off_costs_more_and_the_region_of_one_percent_holds_that_of_a_tenth(answer):
    quarter, half, double, four = (off.excess.median for off in answer.off)
    assert quarter > half > 0 and four > double > 0
    (low, high), (lower, higher) = answer.within[0.001], answer.within[0.01]
    assert lower < low < answer.params.median < high < higher


def test_serving_makes_the_best_model_smaller_and_longer_trained(chinchilla, answer):
    served = allocate(chinchilla, 1e23, inference_tokens=2e12)
    assert served.params.median < 0.9 * answer.params.median
    assert served.tokens_per_param.median > 1.2 * answer.tokens_per_param.median
    spent = served.params.median * (6 * served.tokens.median + 2 * 2e12)
    assert spent == pytest.approx(1e23, rel=0.03)


def test_the_published_example_of_serving_two_trillion_tokens_is_met():
    """Figure 1 of 2401.00448: 13B quality and 2T tokens served is cheapest at 7B, 1.7e22 FLOPs (17 %) below."""
    theta = np.array([1.69, 406.4, 410.7, 0.336, 0.283])  # the constants that paper takes from 2203.15556
    law = LawFit(Chinchilla(), theta, theta[None], np.zeros(1), 0.01, 1)
    curves = Curves(((law, 1.0),), Price(6.0), inference_tokens=2e12)
    tokens = ((0.283 * 410.7) / (0.336 * 406.4) * 13e9**0.336) ** (1 / 0.283)
    usual = 6 * 13e9 * tokens + 2 * 13e9 * 2e12
    wanted = float(law.law(theta, Sizes(params=np.array([13e9]), tokens=np.array([tokens])))[0])
    budgets = usual * np.linspace(0.7, 1.0, 61)
    best = [curves.optimum(flops) for flops in budgets]
    cheapest = next(i for i, found in enumerate(best) if found.loss[0] <= wanted)
    assert best[cheapest].params[0] == pytest.approx(7e9, rel=0.02)
    assert usual - budgets[cheapest] == pytest.approx(1.7e22, rel=0.05)


def test_the_flops_for_a_loss_undo_the_loss_for_flops(chinchilla):
    best = _best_params(1e22)
    needed = flops_for(chinchilla, float(_loss(best, 1e22 / 6 / best)))
    assert needed.holds(1e22)
    assert needed.median == pytest.approx(1e22, rel=0.3)


def test_a_loss_below_the_floor_needs_infinite_compute(chinchilla):
    assert flops_for(chinchilla, 0.5).median == np.inf


def test_plenty_of_unique_tokens_change_nothing_and_few_repeat_or_grow_the_model(chinchilla, answer):
    plenty = allocate(chinchilla, 1e23, unique_tokens=3e13)
    few = allocate(chinchilla, 1e23, unique_tokens=1e10)
    assert plenty.params.median == pytest.approx(answer.params.median, rel=0.02)
    assert plenty.loss.median == pytest.approx(answer.loss.median, rel=0.002)
    assert few.loss.median > answer.loss.median
    assert any("2305.16264" in caveat for caveat in few.caveats)
    assert not any("2305.16264" in caveat for caveat in plenty.caveats)


def test_wider_levels_hold_narrower_ones(chinchilla, answer):
    wide = allocate(chinchilla, 1e23, level=0.99)
    assert wide.params.low < answer.params.low < answer.params.high < wide.params.high


def test_runs_far_off_the_frontier_do_not_bend_the_optimum(chinchilla):
    o = chinchilla.observations
    off = o.loss > 1.2 * o.loss.min()
    bent = Observations(loss=o.loss * np.where(o.params > 8 * _best_params(o.flops), 1.3, 1.0), params=o.params,
                        tokens=o.tokens, flops=o.flops)  # fmt: skip
    assert off.any()
    found = allocate(fit(bent, [Chinchilla()], draws=60), 1e23)
    assert found.params.median == pytest.approx(_best_params(1e23), rel=0.35)
    assert len(near_frontier(bent)) < len(bent)


def test_runs_along_one_line_cannot_be_allocated():
    params = np.geomspace(1e7, 1e9, 8)
    path = fit(with_flops(Observations(loss=_loss(params, 20 * params), params=params, tokens=20 * params)))
    with pytest.raises(InputError, match="do not tell params from tokens"):
        allocate(path, 1e22)


@pytest.mark.parametrize(
    "wrong", [{"flops": 0.0}, {"flops": 1e22, "inference_tokens": -1.0}, {"flops": 1e22, "unique_tokens": 0.0}]
)
def test_impossible_budgets_are_refused_by_name(chinchilla, wrong):
    with pytest.raises(InputError, match=next(reversed(wrong))):
        allocate(chinchilla, **wrong)


def test_the_answer_is_plain_data_and_readable(answer):
    assert answer.to_json()["params"] == answer.params.to_json()
    assert "best params" in str(answer) and "4 x the best params" in str(answer)


def test_published_chinchilla_runs_give_about_twenty_tokens_per_parameter(shared_data):
    """Besiroglu's refit of the same runs: exponent 0.51, about 20 tokens per parameter at Chinchilla's own budget."""
    from windtunnel.laws import read_runs

    o = read_runs(shared_data("runs/chinchilla_epoch.csv"), "params=n_params,split=")
    found = allocate(fit(o), 5.76e23)
    assert found.exponent.holds(0.513)
    assert 12 < found.tokens_per_param.median < 35
    assert found.tokens_per_param.holds(20)


def test_hidden_isoflop_optima_of_porian_are_held(shared_data):
    """Fitted below a quarter of the top budget; 4 of the 15 series, one of each protocol (all 15: see the docs)."""
    errors, held = [], []
    for runs, flops, truth in _porian(shared_data):
        found = allocate(fit(runs, [Chinchilla()], draws=80), flops)
        errors.append(np.log(found.params.median / truth))
        held.append(found.params.holds(truth))
    assert len(held) == 4
    assert np.sqrt(np.mean(np.square(errors))) < 0.35  # 0.15 over all 15; fitted to all runs instead: 1.2
    assert sum(held) >= 3


def _porian(shared_data):
    wanted = {("base", "long", "kaplan", "val"), ("base", "short", "kaplan", "val"),
              ("base", "short", "chinchilla", "val"), ("tuned", "short", "const", "val")}  # fmt: skip
    names = ("hparams", "warmup", "decay", "loss_split")
    series = defaultdict(list)
    with open(shared_data("runs/porian_isoflop.csv")) as file:
        for row in csv.DictReader(file):
            if row["source"] == "rw" and tuple(row[n] for n in names) in wanted:
                series[tuple(row[n] for n in names)].append(
                    [float(row[n]) for n in ("n_params", "tokens", "flops", "loss")]
                )
    tops = {}
    with open(shared_data("runs/porian_optima.csv")) as file:
        for row in csv.DictReader(file):
            key = tuple(row[n] for n in names)
            if row["source"] == "rw" and key in wanted and row["n_opt"]:
                tops[key] = max(tops.get(key, (0.0, 0.0)), (float(row["flops"]), float(row["n_opt"])))
    for key, rows in series.items():
        params, tokens, flops, loss = np.array(rows).T
        low = flops <= tops[key][0] / 4 * 1.01
        yield (Observations(loss=loss[low], params=params[low], tokens=tokens[low], flops=flops[low]), *tops[key])


@pytest.mark.parametrize("flops", [1e11, 1e34])
def test_a_budget_in_another_unit_is_refused_and_one_far_off_is_said(chinchilla, flops):
    with pytest.raises(InputError, match=r"these runs cost .* are both in FLOPs\?"):
        allocate(chinchilla, flops)
    far = allocate(chinchilla, 1e15 if flops < 1e18 else 1e24)
    assert any("take the intervals as a lower bound" in each for each in far.caveats)
