"""Loss curves under any schedule: a known law is recovered, whatever the logging; replays set honest widths."""

import csv
import functools
import time

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.curves import fit_curves
from windtunnel.laws.annealing import AnnealingArea
from windtunnel.laws.curve_fit import CurveLawFit, fit_curve_law
from windtunnel.laws.curves import Curve, rows, schedule, unshared
from windtunnel.laws.multipower import MultiPower

PEAK, WARM, HORIZON = 3e-4, 500, 10_000
TRUTH = {
    MultiPower: (2.8, 1.0, 0.15, 0.5, 1.0, 3e-3, 1.0, 0.8),
    AnnealingArea: (2.8, 1.0, 0.15, 0.5, 1.0, 1000.0),
}


def constant(step, horizon=HORIZON):
    return PEAK * min(1.0, step / WARM)


def cosine(step, horizon=HORIZON):
    done = max(0.0, (step - WARM) / (horizon - WARM))
    return constant(step) * (0.1 + 0.45 * (1 + np.cos(np.pi * min(1.0, done))))


def two_stage(step, horizon=HORIZON):
    return constant(step) if step < 5000 else 0.3 * PEAK


def decay(step, horizon=HORIZON):
    return constant(step) * min(1.0, max(0.1, (horizon - step) / (0.2 * horizon)))


@functools.cache
def every_step(shape, horizon):
    """The shape's learning rate at each step up to the horizon."""
    return schedule(np.arange(1, horizon + 1), lambda step: shape(step, horizon), shape.__name__)


def world(law, *shapes, horizon=HORIZON, every=200, noise=0.0, seed=0, offset=0.0):
    """Curves drawn from `law` at its TRUTH under each schedule shape, logged once in `every` steps."""
    truth = CurveLawFit(law, np.array(TRUTH[type(law)]), PEAK, WARM / 2, np.zeros(1), np.zeros((3, 3)), (0.0,))
    generator = np.random.default_rng(seed)
    curves = []
    for shape in shapes:
        full = every_step(shape, horizon)
        at = np.arange(WARM, horizon + 1, every)
        loss = truth(full, at) * np.exp(noise * generator.standard_normal(len(at)) + offset)
        curves.append(Curve(at, full.lr[at - 1], loss, shape.__name__))
    return curves


@functools.cache
def three_schedules(noise=1e-3, seed=0):
    """The fit to one noisy world's constant, cosine and two-stage curves."""
    return fit_curves(world(MultiPower(), constant, cosine, two_stage, noise=noise, seed=seed))


def error(forecast, curve):
    return np.abs(forecast.median / curve.losses[curve.measured] - 1)


def held(forecast, curve):
    truth = curve.losses[curve.measured][-len(forecast.steps) :]
    return np.mean((forecast.low <= truth) & (truth <= forecast.high))


@pytest.mark.parametrize("law", [MultiPower(), AnnealingArea()])
def test_names_bounds_and_beliefs_agree_in_number(law):
    assert len(law.names) == len(law.bounds) == law.linear + len(law.typical)


@pytest.mark.parametrize("law", [MultiPower(), AnnealingArea()])
def test_another_schedule_is_foretold_from_exact_curves(law):
    fit = fit_curve_law(law, world(law, constant, cosine, two_stage))
    (hidden,) = world(law, decay)
    assert np.max(np.abs(fit(hidden, hidden.steps) / hidden.losses - 1)) < 2e-3
    assert fit.agreed == len(fit.starts) == 3


def test_the_multi_power_law_equals_its_published_formula():
    curve = schedule(np.arange(1, 61), lambda step: 1.0 if step <= 40 else 0.5)
    law, theta = MultiPower(), np.array(TRUTH[MultiPower])
    _, _, gain, alpha, _, pace, beta, gamma = theta
    fit = CurveLawFit(law, theta, 1.0, 1.0, np.zeros(1), np.zeros((3, 3)), (0.0,))
    progress = 0.5 + 39 + 1 + 0.5 * 19  # step 1 carries half a warm-up step; the drop acts from step 41 on
    since = 0.5 * 19
    expected = 2.8 + progress**-alpha - gain * 0.5 * (1 - (1 + pace * since * 0.5**-gamma) ** -beta)
    assert fit(curve, np.array([60.0]))[0] == pytest.approx(expected, rel=1e-9)


def test_a_sudden_drop_between_two_logged_rows_falls_on_the_later_one():
    at = rows(Curve(np.array([1, 100, 200, 300]), np.array([1.0, 1.0, 0.3, 0.3])), np.array([200.0]), 1.0)
    assert at.fall_step.tolist() == [200] and at.fall_size.tolist() == [0.7]
    assert at.progress[0] == pytest.approx(199.5)


def test_coarse_logging_changes_the_forecast_little():
    logged = (world(MultiPower(), constant, cosine, two_stage, every=every) for every in (100, 250))
    fine, coarse = (fit_curves(curves, laws=[MultiPower()]) for curves in logged)
    (target,) = world(MultiPower(), decay)
    assert coarse.forecast(target).median == pytest.approx(fine.forecast(target).median, rel=2e-3)


def test_the_unit_of_the_learning_rate_does_not_change_the_forecast():
    curves = world(MultiPower(), constant, cosine, two_stage, noise=1e-3)
    scaled = [Curve(c.steps, 1e3 * c.lr, c.loss, c.name) for c in curves]
    (target,) = world(MultiPower(), decay)
    ours = fit_curves(curves, laws=[AnnealingArea()]).forecast(target)
    theirs = fit_curves(scaled, laws=[AnnealingArea()]).forecast(Curve(target.steps, 1e3 * target.lr))
    assert theirs.high == pytest.approx(ours.high, rel=1e-5)


def test_the_order_of_the_curves_does_not_change_the_forecast():
    curves = world(MultiPower(), constant, cosine, two_stage, noise=1e-3)
    fits = (fit_curves(each, laws=[AnnealingArea()]) for each in (curves, curves[::-1]))
    ours, theirs = (fit.forecast(cosine, HORIZON).final for fit in fits)
    assert theirs.median == pytest.approx(ours.median, rel=1e-4)


def trunk_and_branch():
    """A constant run and a two-stage one that logs the constant's rows again until its drop."""
    trunk, branch = world(MultiPower(), constant, two_stage, noise=1e-3)
    before = branch.lr == trunk.lr
    return trunk, Curve(branch.steps, branch.lr, np.where(before, trunk.losses, branch.losses), "branch"), before


def test_a_trunk_that_two_branches_log_is_counted_once():
    trunk, branch, before = trunk_and_branch()
    once = Curve(branch.steps, branch.lr, np.where(before, np.nan, branch.losses), "branch")
    assert 10 < before.sum() < len(before)
    assert np.array_equal(unshared([trunk, branch])[1].losses, once.losses, equal_nan=True)
    both, alone = (fit_curve_law(AnnealingArea(), [trunk, each]) for each in (branch, once))
    assert both.theta == pytest.approx(alone.theta, rel=1e-12)


def test_rows_equal_by_coincidence_are_no_trunk():
    one, other = world(MultiPower(), constant, two_stage, noise=1e-3)
    meets = Curve(other.steps, other.lr, np.where(other.steps == one.steps[3], one.losses[3], other.losses))
    assert np.isfinite(unshared([one, meets])[1].losses).all()


def test_a_replay_foretells_no_row_that_the_curves_shown_hold():
    curves = world(MultiPower(), constant, cosine, noise=1e-3)
    twin = Curve(curves[1].steps, curves[1].lr, curves[1].losses, "twin")
    hidden = {replay.hidden for replay in fit_curves([*curves, twin], laws=[AnnealingArea()]).replays}
    assert hidden == {"constant", "tails"}


def test_the_truth_lies_inside_the_interval_in_noisy_worlds():
    inside = []
    for seed in range(2):
        fit = three_schedules(seed=seed)
        for horizon in (HORIZON, 3 * HORIZON):
            (target,) = world(MultiPower(), decay, horizon=horizon)
            inside.append(held(fit.forecast(target, level=0.9), target))
    assert np.mean(inside) > 0.9


def test_intervals_widen_with_reach_and_with_fewer_schedules():
    three = three_schedules()
    one = fit_curves(world(MultiPower(), constant, noise=1e-3))
    near, far = (three.forecast(lambda step, h=h: decay(step, h), h).final for h in (HORIZON, 4 * HORIZON))
    alone = one.forecast(decay, HORIZON)
    width = [(i.high - i.low) / i.median for i in (near, far, alone.final)]
    assert width[1] > 1.3 * width[0] and width[2] > 1.3 * width[0]
    assert any("never" in said or "belief" in said for said in alone.caveats)


def test_the_rest_of_a_run_is_foretold_from_its_beginning_and_a_finished_one():
    (running,) = world(MultiPower(), cosine, horizon=20_000, noise=1e-3, seed=5, offset=0.01)
    finished = world(MultiPower(), cosine, two_stage, noise=1e-3)
    foretold = fit_curves([*finished, running.until(8000)]).forecast(running, after=8000)
    rest = running.losses[running.steps > 8000]
    assert foretold.steps[0] == 8100
    assert np.mean(np.abs(foretold.median / rest - 1)) < 0.005
    assert held(foretold, running) > 0.9


def test_losses_after_the_step_given_are_not_read():
    curves = world(MultiPower(), constant, two_stage, noise=1e-3)
    (run,) = world(MultiPower(), cosine)
    other = Curve(run.steps, run.lr, np.where(run.steps > 5000, 9.0, run.losses), run.name)
    fit = fit_curves(curves)
    assert (fit.forecast(run, after=5000).median == fit.forecast(other, after=5000).median).all()


def test_best_of_prefers_the_schedule_that_is_best_in_truth():
    fit = three_schedules()
    options = {c.name: c for c in world(MultiPower(), constant, decay, cosine, horizon=2 * HORIZON)}
    best, finals = fit.best_of(options)
    assert best == min(options, key=lambda name: options[name].losses[-1])
    assert finals[best].median < finals["constant"].median


def test_dense_schedules_of_70000_steps_are_fitted_in_seconds():
    curves = world(MultiPower(), cosine, two_stage, horizon=70_000, every=1, noise=5e-3)
    began = time.perf_counter()
    fit = fit_curves(curves)
    (target,) = world(MultiPower(), decay, horizon=70_000, every=10)
    assert np.mean(error(fit.forecast(target), target)) < 2e-3
    assert time.perf_counter() - began < 30  # 5 s measured on an idle core; the rest is for a shared one


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (([1, 2, 2], [1, 1, 1], [3, 2, 1]), "strictly rising"),
        (([1, 2, 3], [1, 1], [3, 2, 1]), "give one each"),
        (([1, 2, 3], [0, 0, 0], [3, 2, 1]), "not all zero"),
        (([1, 2, 3], [1, 1, 1], [3, 2, -1]), "not positive"),
    ],
)
def test_a_bad_curve_is_refused_with_its_remedy(columns, words):
    with pytest.raises(InputError, match=words):
        Curve(*columns)


def test_too_few_losses_and_no_curves_are_refused():
    with pytest.raises(InputError, match="20 or more"):
        fit_curves([Curve(np.arange(1, 11), np.ones(10), np.ones(10))])
    with pytest.raises(InputError, match="at least one"):
        fit_curves([])
    with pytest.raises(InputError, match="steps"):
        fit_curves(world(MultiPower(), cosine)).forecast(cosine)


def test_unseen_schedules_of_published_runs_lie_inside(shared_data):
    """MultiPowerLaw (2503.12811): 3 schedules foretell 6 unseen; what our 4-parameter form missed by 0.16 to 0.26 %."""
    models = {}
    for row in csv.DictReader(shared_data("runs/mpl_lr_schedules.csv").read_text().splitlines()):
        key = (row["schedule"], row["split"])
        models.setdefault(row["model"], {}).setdefault(key, []).append(
            (float(row["step"]), float(row["lr"]), float(row["loss"]))
        )
    assert sorted(models) == ["100M", "25M", "400M"]
    for curves in models.values():
        split = {key: Curve(*np.array(part).T, name=key[0]) for key, part in curves.items()}
        fit = fit_curves([curve for key, curve in split.items() if key[1] == "fit"])
        unseen = [curve for key, curve in split.items() if key[1] == "predict"]
        assert len(unseen) == 6
        assert np.mean([error(fit.forecast(curve), curve).mean() for curve in unseen]) < 2.2e-3
        assert np.mean([held(fit.forecast(curve, level=0.95), curve) for curve in unseen]) > 0.9


def test_a_row_that_leaps_out_and_a_curve_of_another_model_are_said():
    """One spike of 200 rows made intervals 13 times as wide; losses 1.2 times as high, 30 times; neither was said."""
    curves = world(MultiPower(), constant, cosine, two_stage, noise=2e-3)
    assert fit_curves(curves).doubts == ()
    whole, at = curves[1], int(np.flatnonzero(curves[1].measured)[len(curves[1].steps) // 2])
    losses = np.where(np.arange(len(whole.losses)) == at, 9.0, whole.losses)
    spiked = fit_curves([curves[0], Curve(whole.steps, whole.lr, losses, whole.name), curves[2]])
    assert f"{whole.name} at step {whole.steps[at]:g}; write nan for them" in spiked.doubts[0]
    assert str(spiked).startswith(f"caveat: {spiked.doubts[0]}") and "3 curves: " in str(spiked)
    foretold = spiked.forecast(curves[0])
    assert str(foretold).splitlines()[-1] == f"loss of constant at step {foretold.steps[-1]:g}: {foretold.final}"
    assert spiked.doubts[0] in spiked.forecast(curves[0]).caveats
    other = fit_curves([curves[0], Curve(whole.steps, whole.lr, 1.2 * whole.losses, whole.name), curves[2]])
    (said,) = other.doubts
    assert whole.name in said and "of one model, data and batch size?" in said
    assert fit_curves(curves[1]).doubts == ()
