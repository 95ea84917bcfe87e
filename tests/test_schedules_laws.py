"""Laws about schedules: (a, b) of a known power law recovered from sweeps, and the better schedule of a known world."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.forecasts.schedules import choose_schedule, curve_of, schedule_curve
from windtunnel.laws.annealing import AnnealingArea
from windtunnel.laws.curve_fit import CurveLawFit
from windtunnel.laws.curves import Curve
from windtunnel.laws.multipower import MultiPower
from windtunnel.laws.power_schedule import fit_power_schedule, swept_runs
from windtunnel.parts.schedules import Constant, Cooldown, Power, cosine_to, linear_to_zero
from windtunnel.train.loop import train

A, B, BATCH = 2e-3, -0.45, 512.0
HORIZONS = (1e5, 4e5, 1.6e6)
PEAK, A_STEP = 1e-3, 256.0


def sweep(horizons=HORIZONS, *, a=A, b=B, noise=5e-4, seed=0, points=5, params=None):
    """Losses of a lopsided valley whose bottom is batch x a x tokens^b."""
    draw = np.random.default_rng(seed)
    rows = [(t, BATCH * a * t**b * 2.0**k) for t in horizons for k in np.arange(points) - points // 2]
    tokens, lr = np.array(rows).T
    away = np.log(lr / (BATCH * a * tokens**b))
    loss = (1.5 + 60 / tokens**0.35) * (1 + 0.004 * (np.exp(1.2 * away) - 1 - 1.2 * away) + 0.003 * away**2)
    loss = loss * (1 + noise * draw.standard_normal(len(loss)))
    sizes = None if params is None else np.full(len(loss), params)
    return wt.Observations(loss=loss, tokens=tokens, lr=lr, batch_tokens=np.full(len(loss), BATCH), params=sizes)


def test_a_and_b_of_a_known_power_law_are_recovered_within_their_doubt():
    away = []
    for seed in range(12):
        fit = fit_power_schedule(sweep(seed=seed))
        away.append((fit.b - B) / fit.b_error)
        assert fit.rate(4e5) == pytest.approx(BATCH * A * 4e5**B, rel=0.25)
    assert np.mean(np.abs(away) < 2) >= 0.75


def test_the_knee_is_where_the_fitted_power_meets_the_peak():
    fit = fit_power_schedule(sweep())
    for batch in (BATCH, 4 * BATCH):
        assert fit.rate(fit.knee_tokens(PEAK, batch), batch) == pytest.approx(PEAK)
    made = Power.of(a=fit.a, b=fit.b, peak=PEAK, batch_tokens=BATCH)
    assert made.knee_tokens == pytest.approx(fit.knee_tokens(PEAK))
    assert made.at_batch(4 * BATCH).knee_tokens == pytest.approx(fit.knee_tokens(PEAK, 4 * BATCH))


def test_a_constant_column_of_parameters_changes_nothing():
    plain, stated = fit_power_schedule(sweep()), fit_power_schedule(sweep(params=1e6))
    assert (plain.a, plain.b) == (stated.a, stated.b)


def test_a_rate_that_does_not_fall_is_said_and_has_no_knee():
    fit = fit_power_schedule(sweep((1e5, 1e6, 1e7), a=1e-6, b=0.3))
    assert fit.b > 0 and any("does not fall" in caveat for caveat in fit.caveats)
    with pytest.raises(InputError, match="must fall with the horizon"):
        fit.knee_tokens(PEAK)


def test_a_best_rate_outside_the_sweep_is_said():
    low = sweep(points=9)
    fit = fit_power_schedule(low.where(np.asarray(low.lr) < BATCH * A * np.asarray(low.tokens) ** B * 0.4))
    assert any("outside the swept range" in caveat for caveat in fit.caveats)


def test_sweeps_that_cannot_tell_are_refused():
    with pytest.raises(InputError, match="one horizon"):
        fit_power_schedule(sweep(HORIZONS[:1]))
    mixed = sweep()
    with pytest.raises(InputError, match="2 batch sizes"):
        fit_power_schedule(
            wt.Observations(**{**vars(mixed), "batch_tokens": np.where(mixed.tokens > 2e5, 512.0, 64.0)})
        )
    with pytest.raises(InputError, match="lack one of them"):
        fit_power_schedule(wt.Observations(loss=mixed.loss, tokens=mixed.tokens))


@pytest.fixture(scope="module")
def stored(corpus, tmp_path_factory):
    """Two rates of a small recipe at one horizon, from a store."""
    schedule = Cooldown(warmup_tokens=64, decay=0.5)
    pack = tiny.pack(
        tiny.recipe(corpus, schedule=schedule), [{"lr": 0.01}, {"lr": 0.02}, {"lr": 0.01}], seeds=[0, 0, 1]
    )
    store = wt.Store(tmp_path_factory.mktemp("store"))
    for run in train(pack, device=tiny.CPU):
        store.add(run)
    return schedule, store.runs()


def test_stored_runs_are_read_with_their_rate_and_batch(stored):
    _, runs = stored
    read = swept_runs(runs)
    assert sorted(read.lr) == [0.01, 0.01, 0.02] and set(read.batch_tokens) == {tiny.CONTEXT * tiny.BATCH}
    with pytest.raises(InputError, match="have no hyperparameter momentum"):
        swept_runs(runs, "momentum")


def test_a_run_s_curve_has_its_judged_losses_beside_the_rates_it_was_trained_with(stored):
    schedule, runs = stored
    one, two = (r for r in runs if r.spec.hyperparameters["lr"] == 0.01)
    curve, both = curve_of(one, schedule, peak=0.01), curve_of([one, two], schedule, peak=0.01)
    measured = np.isfinite(curve.losses)
    assert np.array_equal(curve.losses[measured], one.curve["judged_loss"]) and curve.losses[-1] == one.loss
    assert np.allclose(both.losses[measured], (one.curve["judged_loss"] + two.curve["judged_loss"]) / 2)
    a_step, horizon = tiny.CONTEXT * tiny.BATCH, tiny.TOKENS
    assert curve.lr[9] == 0.01 * schedule(9.5 * a_step, horizon) < curve.lr[7] == 0.01


def world(law, theta, schedules, steps):
    """Curves of a known law under schedules."""
    truth = CurveLawFit(law, np.array(theta), PEAK, 50.0, np.zeros(1), np.zeros((3, 3)), (0.0,))
    found = []
    for name, schedule in schedules.items():
        whole = schedule_curve(schedule, steps * A_STEP, tokens_per_step=A_STEP, peak=PEAK, name=name)
        at = whole.steps[whole.warm][::20]
        at = np.unique(np.append(at, whole.steps[-1]))
        loss = np.full(len(whole.steps), np.nan)
        loss[np.searchsorted(whole.steps, at)] = truth(whole, at)
        found.append(Curve(whole.steps, whole.lr, loss, name))
    return found


WARM = {"warmup_tokens": 100 * A_STEP}
CANDIDATES = {
    "constant": Constant(warmup=0.05),
    "wsd": Cooldown(decay=0.1, **WARM),
    "line": linear_to_zero(**WARM),
    "cosine": cosine_to(0.1, **WARM),
}
WORLDS = {
    "decay pays": (MultiPower(), (2.8, 1.0, 0.15, 0.5, 1.0, 3e-3, 1.0, 0.8)),
    "decay hardly pays": (AnnealingArea(), (2.8, 1.0, 0.003, 0.5, 1.0, 100.0)),
}


@functools.cache
def chosen(name):
    law, theta = WORLDS[name]
    shown = world(law, theta, {n: CANDIDATES[n] for n in ("wsd", "cosine", "constant")}, 2000)
    budget = 8000
    truth = {c.name: c.losses[-1] for c in world(law, theta, CANDIDATES, budget)}
    return choose_schedule(shown, CANDIDATES, budget=budget * A_STEP, tokens_per_step=A_STEP, peak=PEAK), truth


@pytest.mark.parametrize("name", WORLDS)
def test_the_schedule_chosen_for_four_times_the_budget_is_as_good_as_the_best(name):
    choice, truth = chosen(name)
    assert list(choice.finals) == sorted(choice.finals, key=lambda n: choice.finals[n].median)
    assert choice.best == next(iter(choice.finals))
    spread = max(truth.values()) / min(truth.values()) - 1
    assert truth[choice.best] / min(truth.values()) - 1 < 0.2 * spread
    best = min(truth, key=truth.__getitem__)
    assert best == choice.best or best in choice.undecided


def test_worlds_that_differ_in_what_decay_brings_choose_differently():
    assert {chosen(name)[0].best for name in WORLDS} > {chosen("decay pays")[0].best}


def test_what_cannot_be_told_from_the_best_is_named():
    choice, _ = chosen("decay hardly pays")
    top = choice.finals[choice.best].median
    assert set(choice.undecided) == {n for n, i in choice.finals.items() if n != choice.best and i.low <= top}
    assert choice.best in str(choice) and all(name in str(choice) for name in choice.finals)


def test_a_peak_that_was_not_fitted_is_said():
    law, theta = WORLDS["decay pays"]
    shown = world(law, theta, {"wsd": CANDIDATES["wsd"], "cosine": CANDIDATES["cosine"]}, 2000)
    choice = choose_schedule(shown, CANDIDATES, budget=2000 * A_STEP, tokens_per_step=A_STEP, peak=3 * PEAK)
    assert any("peak learning rate" in caveat for caveat in choice.caveats)


def test_wrong_questions_are_refused():
    ask = {"budget": 100.0, "tokens_per_step": 1.0, "peak": 1.0}
    with pytest.raises(InputError, match="needs candidates"):
        choose_schedule([], {}, **ask)
    with pytest.raises(InputError, match="needs candidates"):
        choose_schedule([], {"wsd": "wsd"}, **ask)
    with pytest.raises(InputError, match="below one step"):
        choose_schedule([], CANDIDATES, budget=0.5, tokens_per_step=1.0, peak=1.0)
    with pytest.raises(InputError, match="must have finished"):
        curve_of([], CANDIDATES["wsd"], peak=1.0)
