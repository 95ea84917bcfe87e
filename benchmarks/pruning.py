"""What pruning by forecast saves in a made-up sweep, and how often it throws the best run away, beside Optuna's own.

Runs of a learning-rate basin under a schedule that decays at the end, whose gain by the decay grows with the rate; 20
runs of 50 reports, random rates over four decades. `lost` is by how much the best run's noiseless final loss is worse
than without pruning, in per cent; `steps` the share of all reports that were trained. Run: python -m benchmarks.pruning
"""

from __future__ import annotations

import sys

import numpy as np
import optuna

from benchmarks.common import write
from windtunnel.bridge import ForecastPruner

ROWS, TRIALS = 50, 20


def curve(lr: float, number: int, seed: int, gain: float) -> np.ndarray:
    """Losses of a run: power law, the decay's gain in the last fifth (more at high rates), noise."""
    share = np.linspace(1 / ROWS, 1, ROWS)
    more = gain * max(0.2, 1 + 0.5 * np.log10(lr / 1e-2))
    noise = 0.003 * np.random.default_rng([seed, number]).standard_normal(ROWS)
    late = more * np.minimum(1, (1 - share) / 0.2)
    return final_of(lr) * np.exp(noise + late) * (1 + 0.12 * (share**-0.45 - 1))


def final_of(lr: float) -> float:
    """A basin with its floor at 1e-2."""
    return 2.5 + 0.03 * np.log(lr / 1e-2) ** 2


def studied(pruner: optuna.pruners.BasePruner | ForecastPruner, seed: int, gain: float) -> tuple[float, float]:
    """The noiseless final loss of the run that was found best, and the share of reports trained."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed), pruner=pruner)
    trained = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal trained
        lr = trial.suggest_float("lr", 1e-4, 1e0, log=True)
        losses = curve(lr, trial.number, seed, gain)
        for step, loss in enumerate(losses, 1):
            trained += 1
            trial.report(float(loss), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(losses[-1])

    study.optimize(objective, n_trials=TRIALS)
    return final_of(study.best_params["lr"]), trained / (ROWS * TRIALS)


PRUNERS = {
    "forecast": lambda: ForecastPruner(horizon=ROWS),
    "median": lambda: optuna.pruners.MedianPruner(),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(),
}


def main(seeds: int = 20) -> None:
    """Measure and write."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for gain in (0.0, 0.03, 0.1):
        whole = [studied(optuna.pruners.NopPruner(), seed, gain)[0] for seed in range(seeds)]
        for name, make in PRUNERS.items():
            rows = [studied(make(), seed, gain) for seed in range(seeds)]
            worse = [100 * (loss / best - 1) for (loss, _), best in zip(rows, whole, strict=True)]
            found[f"{name}, decay gain {gain:g}"] = {
                "n": seeds,
                "steps": round(float(np.mean([steps for _, steps in rows])), 3),
                "lost_percent_mean": round(float(np.mean(worse)), 3),
                "lost_percent_worst": round(float(np.max(worse)), 3),
                "another_best": int(np.sum(np.abs(worse) > 1e-9)),
            }
            print(name, gain, found[f"{name}, decay gain {gain:g}"], flush=True)
    write("pruning", {"setting": "20 runs of 50 reports", "measured": found})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
