"""A pruner by forecast inside Optuna's and Ray Tune's own loops, on runs whose ends are known."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from windtunnel.bridge import ForecastPruner
from windtunnel.bridge.pruning import chance_of
from windtunnel.errors import InputError
from windtunnel.forecasts.band import typical_shapes

ROWS = 50


def curve(final, number, decay=False):
    """A made-up run's losses; with `decay` the last 3 % of it come in its last fifth, as under WSD."""
    share = np.linspace(1 / ROWS, 1, ROWS)
    late = 0.03 * np.minimum(1, (1 - share) / 0.2) if decay else 0.0
    noise = 0.004 * np.random.default_rng(number).standard_normal(ROWS)
    return final * np.exp(noise + late) * (1 + 0.12 * (share**-0.45 - 1))


def final_of(lr):
    """A basin with its floor at lr 1e-2."""
    return 2.5 + 0.08 * np.log(lr / 1e-2) ** 2


def optimized(pruner, trials=14, decay=False, first=1, every=1):
    """An Optuna study over the made-up basin in somebody's own loop."""
    optuna = pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = pruner or optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-4, 1e0, log=True)
        losses = curve(final_of(lr), trial.number, decay)
        for step, loss in list(enumerate(losses, first))[::every]:
            trial.report(float(loss), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(losses[-1])

    study.optimize(objective, n_trials=trials)
    return study


@pytest.mark.parametrize("decay", [False, True])
def test_an_optuna_study_is_cheaper_and_finds_the_same_best(decay):
    pruner = ForecastPruner(horizon=ROWS)
    whole, pruned = optimized(None, decay=decay), optimized(pruner, decay=decay)
    assert pruned.best_params == whole.best_params
    stopped = [trial for trial in pruned.trials if trial.state.name == "PRUNED"]
    assert len(stopped) >= 3 and set(pruner.pruned) == {f"trial {trial.number}" for trial in stopped}
    ends = {trial.number: final_of(trial.params["lr"]) for trial in pruned.trials}
    assert all(ends[trial.number] > final_of(whole.best_params["lr"]) for trial in stopped)


@pytest.mark.parametrize("first, every", [(0, 1), (0, 5), (1, 8)])
def test_steps_from_0_and_far_apart_end_at_the_last_report(first, every, caplog):
    pruner = ForecastPruner(horizon=ROWS)
    whole, study = optimized(None, first=first, every=every), optimized(pruner, first=first, every=every)
    assert len(pruner.pruned) >= 3 and study.best_params == whole.best_params
    assert not caplog.records


def test_a_horizon_that_no_run_reaches_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "windtunnel"):
        optimized(pruner := ForecastPruner(horizon=2 * ROWS), trials=6)
    (record,) = caplog.records
    assert record.getMessage().startswith("None of 3 finished runs reaches the horizon of 100: the longest ended at st")
    assert "ForecastPruner(horizon=50)" in caplog.text and not pruner.pruned


def test_a_finished_trials_curve_is_computed_once(monkeypatch):
    from windtunnel.bridge import pruning

    made = []
    monkeypatch.setattr(pruning, "_past", lambda *given, make=pruning._past: made.append(given[1]) or make(*given))
    study = optimized(ForecastPruner(horizon=ROWS))
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(set(made)) == len(made) <= len(done)


def test_in_ray_a_run_whose_function_returned_is_over_wherever_its_steps_ended():
    pruner, losing = ForecastPruner(horizon=ROWS), curve(3.2, 9)
    for number in range(3):
        rows = [{"training_iteration": step, "loss": loss} for step, loss in enumerate(curve(2.5, number))]
        assert not any(pruner(f"run {number}", row) for row in [*rows, rows[-1] | {"done": True}])
    assert any(pruner("last", {"training_iteration": step, "loss": loss}) for step, loss in enumerate(losing))


def test_a_run_that_will_cross_the_best_is_not_pruned_for_its_loss_so_far():
    late, pruner = curve(2.4, 9), ForecastPruner(horizon=ROWS)
    for number in range(3):
        assert reported(pruner, f"run {number}", curve(2.5, number)) == ROWS
    for step, loss in enumerate(late, 1):
        assert not pruner("late", {"training_iteration": step, "loss": loss})
        assert loss < 2.5 or step < ROWS - 5  # it stands above the best's end for most of its way


def test_the_chance_falls_as_a_losing_curve_grows_and_is_nothing_for_one_that_diverged():
    share, loss = np.linspace(1 / ROWS, 1, ROWS), curve(2.7, 0)
    chances = [chance_of(np.stack([share[:n], loss[:n]]), 2.5, typical_shapes()) for n in (1, 10, 25, 45)]
    assert chances[0] == 1 and chances == sorted(chances, reverse=True) and chances[-1] < 0.02
    loss[20] = np.nan
    assert chance_of(np.stack([share[:21], loss[:21]]), 2.5, typical_shapes()) == 0


def test_nothing_is_pruned_before_a_run_has_finished_or_in_the_warm_up():
    pruner = ForecastPruner(horizon=ROWS, warm_up=0.5)
    for number, final in enumerate((9.0, 4.0, 20.0)):
        assert reported(pruner, f"run {number}", curve(final, number)) == ROWS
    assert reported(pruner, "last", curve(20.0, 3)) == ROWS // 2


def reported(pruner, name, losses):
    """How many reports a run makes to Ray's side of the pruner before it is stopped."""
    for step, loss in enumerate(losses, 1):
        if pruner(name, {"training_iteration": step, "loss": float(loss)}):
            return step
    return len(losses)


def test_ray_tune_stops_the_runs_that_lose(tmp_path, monkeypatch):
    """Slow: starts Ray."""
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'ray[tune]'")
    tune = pytest.importorskip("ray.tune", reason="needs Ray Tune: pip install 'ray[tune]'")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", "")
    finals = {1: 2.5, 2: 2.9, 3: 2.45, 4: 3.2, 5: 2.4}

    def trainable(given):
        share = np.linspace(1 / 50, 1, 50)
        noise = 0.004 * np.random.default_rng(given["number"]).standard_normal(50)
        for loss in finals[given["number"]] * np.exp(noise) * (1 + 0.12 * (share**-0.45 - 1)):
            tune.report({"loss": float(loss)})

    pruner = ForecastPruner(horizon=ROWS)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        tuner = tune.Tuner(
            trainable, param_space={"number": tune.grid_search([1, 2, 3, 4, 5])},
            run_config=tune.RunConfig(stop=pruner, storage_path=str(tmp_path), verbose=0),
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
        )  # fmt: skip
        results = tuner.fit()
    finally:
        ray.shutdown()
    assert not results.errors
    done = {result.config["number"]: result.metrics["training_iteration"] for result in results}
    assert done[1] == done[2] == done[3] == done[5] == ROWS and done[4] < ROWS


@pytest.mark.parametrize(
    "given, said",
    [({"horizon": 0}, "above zero"), ({"horizon": 5, "chance": 0}, "within 0 and 1"), ({"horizon": 5}, "no val_loss")],
)
def test_wrong_use_is_said(given, said):
    with pytest.raises(InputError, match=said):
        ForecastPruner(**given, metric="val_loss")("run", {"loss": 1.0, "training_iteration": 1})


def test_a_study_that_maximizes_is_refused():
    optuna = pytest.importorskip("optuna", reason="needs optuna: pip install optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", pruner=ForecastPruner(horizon=5))
    trial = study.ask()
    trial.report(1.0, 1)
    with pytest.raises(InputError, match="minimize"):
        trial.should_prune()
