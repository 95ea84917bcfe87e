"""The hyperparameter surface and the forecast of best values: known truths recovered, and the Step Law grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.forecasts.hyperparameters import BestHyperparameters, best_hyperparameters
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations
from windtunnel.laws.surface_fit import fit_surface
from windtunnel.laws.sweeps import searched

LADDER = ((1e8, 2e9), (1e8, 8e9), (2e8, 4e9), (2e8, 1.6e10), (4e8, 8e9))
TARGET = (1.6e9, 3.2e10)


@dataclass(frozen=True)
class World:
    """A known truth: optimum = base x N^a D^b times a stray of each size, and a lopsided valley that is no LINEX."""

    lr: tuple[float, float] = (-0.45, 0.15)
    batch: tuple[float, float] = (0.0, 0.5)
    stray: float = 0.08
    noise: float = 0.001

    def best(self, params: float, tokens: float) -> np.ndarray:
        """Log of the true best lr and batch, without the stray."""
        n, d = np.log(params / 2e8), np.log(tokens / 6e9)
        lr, batch = self.lr[0] * n + self.lr[1] * d, self.batch[0] * n + self.batch[1] * d
        return np.log([2e-3, 2.5e5]) + np.array([lr, batch])

    def floor(self, params: float, tokens: float) -> float:
        """Loss at the best."""
        return 1.7 + 400 / params**0.34 + 410 / tokens**0.28

    def runs(self, generator: np.random.Generator, sizes=LADDER, lrs: int = 7, batches: int = 6) -> Observations:
        """A grid of factors of two about a guess that is the same at every size."""
        rows = [row for size in sizes for row in self.sweep(generator, size, lrs, batches)]
        params, tokens, lr, batch, loss = np.array(rows).T
        return Observations(loss=loss, params=params, tokens=tokens, lr=lr, batch_tokens=batch)

    def sweep(self, generator: np.random.Generator, size, lrs: int, batches: int) -> list[tuple[float, ...]]:
        """The runs of one size."""
        best = self.best(*size) + self.stray * generator.standard_normal(2)
        rows = []
        for x in np.log(2e-3) + np.log(2) * (np.arange(lrs) - lrs // 2):
            for y in np.log(2.5e5) + np.log(2) * (np.arange(batches) - batches // 2):
                excess = self.rise(x - best[0], y - best[1]) + self.noise * generator.standard_normal()
                rows.append((*size, np.exp(x), np.exp(y), self.floor(*size) * np.exp(excess)))
        return rows

    def rise(self, lr: float, batch: float) -> float:
        """Log loss above the best: lr counts against its best for the batch, and costs twice as much above it."""
        along = lr - 0.5 * batch
        return 0.006 * along**2 * (2.0 if along > 0 else 1.0) + 0.006 * batch**2


def at(params: float, tokens: float) -> Sizes:
    """One target."""
    return Sizes(params=np.array([params]), tokens=np.array([tokens]))


def step_law(path: Path) -> Observations:
    """The dense Step Law grid, one entry a run."""
    table = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    return Observations(
        loss=table["loss"],
        params=table["n_params"].astype(float),
        tokens=table["tokens"].astype(float),
        lr=table["lr"],
        batch_tokens=table["batch_seqs"] * 2048.0,
    )


def regrets(runs: Observations, fitted: np.ndarray, judged: list[tuple[float, float]]) -> list[float]:
    """Loss above the best run of each judged cell, at the grid point nearest the forecast, in permille."""
    surface = fit_surface(runs.where(fitted))
    found = []
    for params, tokens in judged:
        cell = runs.where((runs.params == params) & (runs.tokens == tokens))
        best = surface.best(at(params, tokens))
        away = np.log(cell.lr / best["lr"]) ** 2 + np.log(cell.batch_tokens / best["batch_tokens"]) ** 2
        found.append(1000 * (cell.loss[np.argmin(away)] / cell.loss.min() - 1))
    return found


def test_step_law_optima_at_a_billion_parameters_cost_less_than_a_permille(shared_data: Callable[[str], Path]) -> None:
    runs = step_law(shared_data("runs/steplaw_dense.csv"))
    large = runs.params > 1e9
    judged = sorted(set(zip(runs.params[large], runs.tokens[large], strict=True)))
    assert len(judged) == 2
    assert np.mean(regrets(runs, ~large, judged)) <= 1.0


def test_five_small_step_law_cells_foretell_the_four_largest(shared_data: Callable[[str], Path]) -> None:
    runs = step_law(shared_data("runs/steplaw_dense.csv"))
    cells = sorted(set(zip(runs.params, runs.tokens, strict=True)), key=lambda cell: cell[0] * cell[1])
    small = np.isin(runs.params * runs.tokens, [n * d for n, d in cells[:5]])
    assert np.mean(regrets(runs, small, cells[-4:])) <= 1.2


def test_intervals_cover_the_true_optimum_of_worlds_with_another_basin() -> None:
    generator, inside, costs, claimed = np.random.default_rng(0), [], [], []
    for _ in range(80):
        world = World(
            lr=(generator.normal(-0.4, 0.25), generator.normal(0.1, 0.2)),
            batch=(generator.normal(0.05, 0.12), generator.normal(0.5, 0.12)),
            stray=float(generator.uniform(0.02, 0.2)),
        )
        found = best_hyperparameters(world.runs(generator), at(*TARGET), level=0.9)
        truth = world.best(*TARGET) + world.stray * generator.standard_normal(2)
        inside += [found.values[n].holds(float(np.exp(t))) for n, t in zip(("lr", "batch_tokens"), truth, strict=True)]
        used = np.log([found.values["lr"].median, found.values["batch_tokens"].median])
        costs.append(np.expm1(world.rise(*(used - truth))))
        claimed.append(found.expected_regret)
    assert 0.84 <= np.mean(inside) <= 0.98
    assert 0.5 <= np.mean(claimed) / np.mean(costs) <= 3.0


def test_order_of_rows_and_units_do_not_change_the_answer() -> None:
    runs = World().runs(np.random.default_rng(1))
    found = best_hyperparameters(runs, at(*TARGET))
    shuffled = runs.where(np.random.default_rng(2).permutation(len(runs)))
    assert best_hyperparameters(shuffled, at(*TARGET)).to_json() == found.to_json()
    scaled = replace(runs, lr=1000 * runs.lr, batch_tokens=runs.batch_tokens / 2048, params=runs.params / 1e6)
    other = best_hyperparameters(scaled, at(TARGET[0] / 1e6, TARGET[1]))
    assert other.values["lr"].median == pytest.approx(1000 * found.values["lr"].median, rel=1e-3)
    assert other.values["batch_tokens"].high == pytest.approx(found.values["batch_tokens"].high / 2048, rel=1e-3)


def test_rows_to_predict_are_never_seen() -> None:
    runs = World().runs(np.random.default_rng(3), sizes=(*LADDER, TARGET))
    split = np.where(runs.params > 1e9, "predict", "fit")
    blind = best_hyperparameters(replace(runs, split=split), at(*TARGET))
    wild = replace(runs, split=split, loss=np.where(split == "fit", runs.loss, 9.0))
    assert best_hyperparameters(wild, at(*TARGET)).to_json() == blind.to_json()


def test_one_wrong_loss_moves_the_forecast_by_less_than_half_its_interval() -> None:
    runs = World().runs(np.random.default_rng(4))
    found = best_hyperparameters(runs, at(*TARGET))
    for factor in (0.9, 1.1):
        loss = runs.loss.copy()
        loss[10] *= factor
        moved = best_hyperparameters(replace(runs, loss=loss), at(*TARGET))
        for name, value in found.values.items():
            half = 0.5 * np.log(value.high / value.low)
            assert abs(np.log(moved.values[name].median / value.median)) < half


def test_floors_are_closer_to_the_truth_than_the_best_of_each_grid() -> None:
    world, errors, plain = World(noise=0.003), [], []
    for seed in range(5):
        runs = world.runs(np.random.default_rng(seed), lrs=5, batches=4)
        envelope, doubt = fit_surface(runs).envelope()
        truth = np.array([world.floor(n, d) for n, d in zip(envelope.params, envelope.tokens, strict=True)])
        errors += list(np.abs(np.log(envelope.loss / truth)))
        best = [runs.loss[(runs.params == n) & (runs.tokens == d)].min() for n, d in LADDER]
        plain += list(np.abs(np.log(np.sort(best) / np.sort(truth))))
        assert np.all(doubt > 0) and np.all(doubt < 0.01)
    assert np.mean(errors) < 0.8 * np.mean(plain)


def test_a_sweep_of_one_hyperparameter_alone_is_enough() -> None:
    world = World(stray=0.0)
    runs = world.runs(np.random.default_rng(5), batches=1)
    found = best_hyperparameters(replace(runs, batch_tokens=None), at(*TARGET))
    assert set(found.values) == {"lr"}
    runs = world.runs(np.random.default_rng(5), lrs=1)
    found = best_hyperparameters(runs, at(*TARGET))
    assert set(found.values) == {"batch_tokens"}


def test_three_runs_a_size_give_a_wide_interval_that_holds_the_truth() -> None:
    world = World(stray=0.0, batch=(0.0, 0.0), lr=(-0.45, -0.1))
    runs = world.runs(np.random.default_rng(6), lrs=3, batches=1)
    few, many = (
        best_hyperparameters(some, at(*TARGET)).values["lr"]
        for some in (runs, world.runs(np.random.default_rng(6), lrs=9, batches=1))
    )
    assert few.holds(float(np.exp(world.best(*TARGET)[0])))
    assert few.high / few.low > many.high / many.low


def test_a_third_hyperparameter_that_was_searched_is_forecast_too() -> None:
    generator = np.random.default_rng(7)
    runs = World(stray=0.0).runs(generator, lrs=5, batches=3)
    decay = 0.1 * 2.0 ** generator.integers(-3, 4, len(runs))
    loss = runs.loss * np.exp(0.004 * np.log(decay / 0.1) ** 2)
    surface = fit_surface(replace(runs, loss=loss), {"weight_decay": decay})
    found = best_hyperparameters(surface, at(*TARGET))
    assert found.values["weight_decay"].holds(0.1)


def test_one_size_alone_says_that_movement_with_size_is_unknown() -> None:
    runs = World(stray=0.0).runs(np.random.default_rng(8), sizes=((1e8, 2e9),))
    found = best_hyperparameters(runs, at(*TARGET))
    assert any("one size" in caveat for caveat in found.caveats)
    assert found.values["lr"].holds(float(np.exp(World().best(1e8, 2e9)[0])))


def test_an_optimum_beyond_the_grid_is_said() -> None:
    runs = World(stray=0.0).runs(np.random.default_rng(9))
    cut = runs.where(runs.lr < 1.2e-3)
    assert any("best lr seems to lie above" in caveat for caveat in best_hyperparameters(cut, at(*TARGET)).caveats)
    assert not any("seems to lie" in caveat for caveat in best_hyperparameters(runs, at(*TARGET)).caveats)


def test_an_exponent_that_no_sweep_tells_is_named_with_the_sweep_that_would() -> None:
    runs = World().runs(np.random.default_rng(10), sizes=((1e8, 2e9), (1e8, 8e9), (1.1e8, 3.2e10)))
    caveats = best_hyperparameters(runs, at(*TARGET)).caveats
    assert any("moves with params rests mostly on published" in caveat for caveat in caveats)
    advice = next(caveat for caveat in caveats if caveat.startswith("A sweep of"))
    named = float(advice.split("params=")[1].split("M")[0]) * 1e6
    assert named < 0.5e8 or named > 2e8


def test_what_was_never_searched_is_refused_with_a_remedy() -> None:
    runs = World().runs(np.random.default_rng(11))
    with pytest.raises(InputError, match="neither lr nor batch_tokens"):
        fit_surface(replace(runs, lr=None, batch_tokens=None))
    grows = replace(runs, lr=runs.params * 1e-12, batch_tokens=None)
    with pytest.raises(InputError, match="searched at one size"):
        fit_surface(grows)
    assert searched(grows) == () and searched(runs) == ("lr", "batch_tokens")
    with pytest.raises(InputError, match="tokens="):
        best_hyperparameters(runs, Sizes(params=np.array([1e9])))
    with pytest.raises(InputError, match="also state batch_tokens"):
        fit_surface(runs).excess({"lr": 1e-3}, at(*TARGET))


def test_excess_is_none_at_the_best_and_grows_on_every_side() -> None:
    surface = fit_surface(World().runs(np.random.default_rng(12)))
    best = {name: float(value[0]) for name, value in surface.best(at(*TARGET)).items()}
    assert surface.excess(best, at(*TARGET))[0] == pytest.approx(0.0, abs=1e-12)
    for name in best:
        for factor in (0.5, 2.0):
            assert surface.excess({**best, name: factor * best[name]}, at(*TARGET))[0] > 5e-4


def test_an_answer_survives_the_trip_through_json() -> None:
    found = best_hyperparameters(World().runs(np.random.default_rng(13)), at(*TARGET))
    assert BestHyperparameters.from_json(found.to_json()) == found


def test_runs_at_one_size_of_model_do_not_claim_to_know_other_models() -> None:
    runs = World(stray=0.0).runs(np.random.default_rng(14), sizes=((1e8, 2e9), (1e8, 8e9), (1e8, 3.2e10)))
    near, far = (best_hyperparameters(runs, at(params, 8e9)).values["lr"] for params in (1e8, 1.6e9))
    assert far.high / far.low > 3 * near.high / near.low
    unstated = best_hyperparameters(runs, Sizes(tokens=np.array([8e9]))).values["lr"]
    assert unstated.median == pytest.approx(near.median)
