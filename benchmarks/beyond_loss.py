"""Scores of what is not the loss at a larger size: schedules, hyperparameters, ideas, tasks, mixtures.

Each function answers one question of the public tables through the public API and returns plain figures. A newcomer
would judge the best learning rate by its distance to the best of a grid; grids are noisy and basins flat, so what is
judged is the regret: the loss at the grid point nearest the forecast over the lowest of that grid.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import multipower, tables, verdicts
from benchmarks.scored import Told, foretell, line, mean, rounded
from windtunnel.forecasts import fit
from windtunnel.forecasts.curves import fit_curves
from windtunnel.forecasts.hyperparameters import best_hyperparameters
from windtunnel.ladder import Target
from windtunnel.laws import Observations
from windtunnel.laws.curves import Curve
from windtunnel.laws.law import Sizes
from windtunnel.laws.mixture import fit_mixture
from windtunnel.laws.task import fit_task
from windtunnel.laws.two_stage import Adapted, HeadStart

CHANCE = {"hellaswag": 0.25, "arc_challenge": 0.25, "arc_easy": 0.25, "piqa": 0.5}  # the tasks that state accuracy


def schedules() -> dict[str, Any]:
    """MultiPowerLaw's split: three schedules foretell six. PredE and WorstE in %, and the rows inside 95 %.

    The published scores are means over schedules, of each one's mean error (PredE) and largest error (WorstE).
    """
    found = {}
    for model, rows in tables.read("mpl_lr_schedules.csv").groupby("model"):
        split: dict[str, list[Curve]] = {"fit": [], "predict": []}
        for which in split:
            for name, part in rows[rows.split == which].groupby("schedule"):
                split[which].append(Curve(*part[["step", "lr", "loss"]].to_numpy(float).T, name=str(name)))
        laws, each, held = fit_curves(split["fit"]), {}, []
        for curve in split["predict"]:
            told, truth = laws.forecast(curve, level=0.95), curve.losses[curve.measured]
            each[curve.name] = 100 * np.abs(told.median / truth - 1)
            held.append(np.mean((told.low <= truth) & (truth <= told.high)))
        every = np.concatenate(list(each.values()))
        found[str(model)] = {
            "schedules": len(each), "mean_of_schedules": mean([e.mean() for e in each.values()]),
            "pooled": float(every.mean()), "worst_mean_of_schedules": mean([e.max() for e in each.values()]),
            "worst": float(every.max()), "coverage_95": mean(held),
            "published_law": multipower.scores(str(model), rows),
        }  # fmt: skip
    return rounded(dict(sorted(found.items(), key=lambda pair: float(pair[0][:-1]))))


def grid() -> tuple[Observations, list[tuple[float, float]]]:
    """Step Law's dense grid, one entry a run, and its cells by params x tokens."""
    rows = tables.read("steplaw_dense.csv")
    rows = rows[rows.loss > 0]
    runs = Observations(
        loss=rows.loss.to_numpy(float), params=rows.n_params.to_numpy(float), tokens=rows.tokens.to_numpy(float),
        lr=rows.lr.to_numpy(float), batch_tokens=2048.0 * rows.batch_seqs.to_numpy(float),
    )  # fmt: skip
    cells = set(zip(rows.n_params.astype(float), rows.tokens.astype(float), strict=True))
    return runs, sorted(cells, key=lambda cell: cell[0] * cell[1])


def step_law() -> dict[str, Any]:
    """Regret in permille on the README's split (to 1.07B), and from the five smallest cells to the four largest."""
    runs, cells = grid()
    large = [cell for cell in cells if cell[0] > 1e9]
    return rounded({
        "to 1.07B": regrets(runs, of_cells(runs, [cell for cell in cells if cell[0] < 1e9]), large),
        "5 smallest cells to 4 largest": regrets(runs, of_cells(runs, cells[:5]), cells[-4:]),
    })  # fmt: skip


def of_cells(runs: Observations, cells: list[tuple[float, float]]) -> np.ndarray:
    """Which runs lie in these cells."""
    return np.any([(runs.params == n) & (runs.tokens == d) for n, d in cells], axis=0)


def regrets(runs: Observations, fitted: np.ndarray, judged: list[tuple[float, float]]) -> dict[str, Any]:
    """True regret in permille at each judged cell, and what was said of it beforehand (its 95 % interval)."""
    found, said, held = [], [], []
    for n, d in judged:
        cell = runs.where(of_cells(runs, [(n, d)]))
        best = best_hyperparameters(runs.where(fitted), Sizes(params=np.array([n]), tokens=np.array([d])), 0.95)
        truth = regret(cell, {name: interval.median for name, interval in best.values.items()})
        found.append(1000 * truth)
        said.append(1000 * best.expected_regret)
        held.append(truth <= best.regret.high)
    names = [f"{n / 1e9:.3g}B, {d / 1e9:.3g}B tokens" for n, d in judged]
    each = dict(zip(names, found, strict=True))
    return {
        "cells": len(judged), "mean_permille": mean(found), "largest_permille": max(found), "said_permille": mean(said),
        "within_said_95": mean(held), "each": each,
    }  # fmt: skip


def regret(cell: Observations, best: Mapping[str, float]) -> float:
    """Loss at the grid point nearest (in logarithms) the named values, over the lowest of the cell, minus one."""
    away = sum(np.log(getattr(cell, name) / value) ** 2 for name, value in best.items())
    return float(cell.loss[np.argmin(away)] / cell.loss.min() - 1)


def ideas() -> dict[str, Any]:
    """Marin: Muon, NAdamW and SOAP minus AdamW at 1.2B, in nats; see `benchmarks/verdicts.py`."""
    with contextlib.redirect_stdout(io.StringIO()):
        return rounded(verdicts.by_idea(verdicts.scored()))


def tasks() -> dict[str, Any]:
    """OLMo ladder: accuracy at 7B and 13B in two steps, from a task loss that is itself foretold."""
    final, found = tables.olmo_final(), {}
    shown, hidden = final[final.split == "fit"], final[final.split == "predict"]
    for task, chance in CHANCE.items():
        loss, score = f"bpb_{task}", f"acc_{task}"
        sigmoid, law = fit_task(shown[loss], shown[score], chance), fit(observations(shown, loss))
        errors, held = [], []
        for n, d, truth in hidden[["n_params_nonembed", "tokens", score]].to_numpy(float):
            told = sigmoid.predict(law.forecast(Target(params=n, tokens=d)), 0.95)
            errors.append(told.median / truth - 1)
            held.append(told.low <= truth <= told.high)
        found[task] = {
            "runs": len(errors),
            "error_percent": 100 * float(np.mean(np.abs(errors))),
            "coverage_95": mean(held),
        }
    names = ("error_percent", "coverage_95")
    found["mean"] = {"runs": len(hidden)} | {name: mean([row[name] for row in found.values()]) for name in names}
    return rounded(found)


def observations(rows: pd.DataFrame, loss: str) -> Observations:
    """OLMo ladder rows with one of their losses."""
    n, d = (rows[name].to_numpy(float) for name in ("n_params_nonembed", "tokens"))
    return Observations(loss=rows[loss].to_numpy(float), params=n, tokens=d, flops=6 * n * d)


def mixtures() -> dict[str, Any]:
    """regmix: 512 runs of 1M rank 64 runs of 1B; Spearman's rank correlation by judged domain."""
    rows, found = tables.read("regmix_mixtures.csv"), {}
    shares = [name for name in rows if name.startswith("w_")]
    small, large = (
        rows[(rows.model == "1m") & (rows.split == "fit") & (rows.source_split == "train")],
        rows[rows.split == "predict"],
    )
    for loss in [name for name in rows if name.startswith("loss_")]:
        law = fit_mixture(small[shares], small[loss])
        found[loss.removeprefix("loss_")] = float(stats.spearmanr(law(large[shares]), large[loss]).statistic)
    each = list(found.values())
    counts = {"fitted": len(small), "ranked": len(large), "domains": len(each)}
    return counts | rounded({"pile_cc": found["pile_cc"], "mean": mean(each), "least": min(each)})


def adapted(map_all: Callable[..., Any]) -> dict[str, Any]:
    """Fine-tuning with the laws of adaptation named by the user, beside the automatic choice of the main table."""
    told: list[Told] = list(map_all(adapt, tables.sft()))
    return line(told)


def adapt(series: tables.Series) -> Told:
    """One model and task."""
    return foretell(series, (HeadStart(), Adapted()))
