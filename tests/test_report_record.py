"""What a report says of the store's past and of what things took: only forecasts are counted, only what is known."""

from __future__ import annotations

import pytest
from test_notebook import table
from test_store import run

import windtunnel as wt
from windtunnel.report.energy import kilowatt_hours, watts
from windtunnel.report.record import held, past_forecasts
from windtunnel.store import Store

EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00"


@pytest.fixture
def forecast() -> wt.Forecast:
    """A forecast for the size that `test_store.run` has."""
    told = wt.fit(table()).forecast(wt.Target(params=1e9, tokens=2e10))
    there = run()
    target = {"params": float(there.size.params), "tokens": float(there.spec.rung.tokens)}
    return told.but(study="s", idea="base", target=target, created="2026-03-01T00:00:00+00:00")


def truth(seed: int, created: str, loss: float = 2.0, **labels: str) -> wt.Run:
    told = {"study": "s", "idea": "base", "stage": "target"} | labels
    return run(seed, loss=loss, created=created, labels=told)


@pytest.fixture
def store(tmp_path, forecast: wt.Forecast) -> Store:
    there = Store(tmp_path / "store")
    there.add_forecast(forecast.to_json())
    return there


def test_a_forecast_meets_the_mean_of_the_target_runs_that_came_later(store: Store, forecast: wt.Forecast):
    assert past_forecasts(store) == []
    for seed, loss in enumerate((forecast.loss.median - 0.001, forecast.loss.median + 0.003)):
        store.add(truth(seed, LATE, loss))
    (found,) = past_forecasts(store)
    assert found["n"] == 2 and found["truth"] == pytest.approx(forecast.loss.median + 0.001)
    assert found["held"] and found["inside"][0.9] is True
    assert {"level": 0.9, "held": 1, "n": 1} in held([found])


def test_a_forecast_made_after_its_truth_is_named_and_not_counted(store: Store):
    store.add(truth(0, EARLY))
    (found,) = past_forecasts(store)
    assert found["inside"] is None and held([found]) == []


def test_a_truth_outside_counts_against_the_forecast(store: Store, forecast: wt.Forecast):
    store.add(truth(0, LATE, 2 * forecast.loss.high))
    (found,) = past_forecasts(store)
    assert not found["held"] and all(row["held"] == 0 and row["n"] == 1 for row in held([found]))


@pytest.mark.parametrize("other", [{"study": "another"}, {"idea": "muon"}, {"stage": "ladder"}])
def test_runs_of_another_study_idea_or_stage_are_no_truth(store: Store, other: dict[str, str]):
    store.add(truth(0, LATE, **other))
    assert past_forecasts(store) == []


def test_energy_is_power_times_time_over_all_devices_and_missing_where_a_device_is_unknown():
    assert kilowatt_hours([("NVIDIA H200", 1, 2, 3600.0)]) == pytest.approx(1.4)
    assert kilowatt_hours([("cpu", 4, 1, 3600.0)]) == pytest.approx(0.04)
    assert kilowatt_hours([("cpu", 1, 1, 10.0), ("Abacus 9000", 1, 1, 1.0)]) is None
    assert watts("NVIDIA L40S", 1) != watts("NVIDIA L4", 1) and kilowatt_hours([]) == 0.0
