"""The track record's arithmetic on made-up forecasts, and that its page shows what was measured. Nothing heavy runs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from benchmarks import beyond_loss, forecasting, page, paired
from benchmarks.forecasting import Row, digits
from benchmarks.scored import Told, foretell, line, oracle, over_series, rmsle, rounded
from benchmarks.tables import Series
from windtunnel.laws import Observations


def told(errors, half=0.02, table="made up", name="a", domain="", epochs=None):
    """A forecast of 1.0 nats whose truths are off by `errors` in log loss; 80 % intervals are half as wide."""
    truth = np.asarray(errors, float)
    ends = np.outer([-1, 1], np.full(len(truth), half))
    repeated = np.ones(len(truth)) if epochs is None else np.asarray(epochs, float)
    return Told(table, name, domain, truth, np.zeros(len(truth)), {0.8: 0.5 * ends, 0.95: ends}, repeated, 1.5)


def ladder(hidden_loss=2.0):
    n = np.geomspace(1e7, 1e9, 7)
    loss = 1.7 + 300 * n**-0.35
    loss[-1] = hidden_loss
    return Series("made up", "ladder", Observations(loss=loss, params=n, split=np.repeat(["fit", "predict"], [6, 1])))


def test_the_oracle_width_holds_95_percent_of_the_runs_and_nothing_less_does():
    errors = np.random.default_rng(0).standard_normal(200)
    width = oracle(errors)
    assert np.mean(np.abs(errors) <= width) == 0.95
    assert np.mean(np.abs(errors) <= 0.999999 * width) < 0.95


def test_the_oracle_of_a_few_runs_holds_all_of_them():
    assert oracle(np.array([0.01, -0.03, 0.02])) == 0.03


def test_an_interval_as_wide_as_the_oracles_has_ratio_one():
    found = line([told([0.01, -0.03], half=0.03), told([0.02], half=0.03)])
    assert found["width_over_oracle"] == pytest.approx(1.0)
    assert found["width_over_own_largest_error"] == pytest.approx(np.median([1.0, 1.5]))


def test_every_series_counts_once_however_many_hidden_runs_it_has():
    few, many = told([0.03]), told([0.0] * 9)
    found = line([few, many])
    error = 100 * -np.expm1(-0.03)
    assert found["error_percent"] == pytest.approx(error / 2, rel=1e-3)
    assert found["error_pooled_percent"] == pytest.approx(error / 10, rel=1e-3)
    assert found["coverage_95"] == 0.5 and found["coverage_80"] == 0.5


def test_the_error_is_relative_to_the_truth():
    assert told([np.log(2.0)]).error == pytest.approx(0.5)


def test_both_ends_of_an_interval_count():
    assert told([-0.015, 0.015, 0.0, 0.5]).held(0.8) == 0.25
    assert told([-0.015, 0.015, 0.0, -0.5]).held(0.95) == 0.75


def test_a_refused_series_is_counted_and_never_filled_in():
    refused = replace(told([]), refused="too few runs")
    assert line([refused])["series"] == 0
    both = line([told([0.01]), refused])
    assert (both["series"], both["refused"]) == (1, 1)
    assert over_series([told([0.01]), refused])["series"] == 1


def test_widths_over_all_series_are_measured_by_the_oracle_of_each_table():
    found = over_series([told([0.01], half=0.02, table="one"), told([0.1], half=0.2, table="two")])
    assert found["width_over_oracle"] == pytest.approx(2.0)
    assert found["tables"] == 2


def test_rmsle_is_the_mean_over_the_series_of_a_domain():
    found = rmsle([told([0.3, -0.3], domain="x"), told([0.1], domain="x"), told([0.2], domain="y")], lambda t: t.domain)
    assert found == pytest.approx({"x": 0.2, "y": 0.2})


def test_a_hidden_loss_never_moves_its_own_forecast():
    one, other = foretell(ladder(2.0)), foretell(ladder(5.0))
    assert one.median == other.median and (one.bounds[0.95] == other.bounds[0.95]).all()
    assert one.truth != other.truth


def test_what_cannot_be_fitted_is_refused_with_its_reason():
    series = ladder()
    two = series.observations.where(np.array([0, 5, 6]))
    found = foretell(Series("made up", "two sizes", two))
    assert "at least 3" in found.refused and len(found.truth) == 0


def test_a_row_takes_its_part_of_a_table_and_no_more_epochs_than_it_says():
    near, far = told([0.01], name="C4 -> 3B"), told([0.02], name="C4 -> 7B")
    assert Row("near", "made up", part="-> 3B").of([near, far]) == [near]
    (kept,) = Row("few", "made up", most_epochs=60).of([told([0.1, 0.9], epochs=[4, 100])])
    assert kept.truth == [0.1] and kept.bounds[0.8].shape == (2, 1)


@pytest.mark.parametrize(("error", "met"), [(0.004, True), (0.02, False)])
def test_a_row_says_whether_its_bar_is_met(error, met):
    row = forecasting.scored(Row("made up", "made up", "1.0", 0.5), [told([error])], {})
    assert row["met"] is met
    assert f"| {page.verdict(met)} |" in page.losses([row])


@pytest.mark.parametrize(("error", "met"), [(0.019, True), (0.021, False)])
def test_a_row_whose_bar_is_coverage_is_met_only_inside(error, met):
    assert forecasting.scored(Row("made up", "made up", inside=True), [told([error, 0.0])], {})["met"] is met


def test_two_runs_are_the_same_but_for_seconds_and_machine():
    one = {"machine": {"date": "x"}, "rows": [{"error": 1.0, "seconds": 2.0}], "seconds": 3}
    other = {"machine": {"date": "y"}, "rows": [{"error": 1.0, "seconds": 9.0}], "seconds": 4}
    assert digits(one) == digits(other)
    assert digits(one) != digits({"rows": [{"error": 1.1, "seconds": 2.0}]})


def test_numbers_are_rounded_to_four_digits_at_any_depth():
    assert rounded({"a": [0.123456, {"b": np.float64(98765.4)}], "n": 12345}) == {
        "a": [0.1235, {"b": 98770.0}],
        "n": 12345,
    }


def test_regret_is_that_of_the_nearest_grid_point():
    cell = Observations(loss=np.array([2.0, 2.02, 2.1]), lr=np.array([1e-3, 2e-3, 4e-3]), batch_tokens=np.full(3, 1e5))
    assert beyond_loss.regret(cell, {"lr": 1.1e-3, "batch_tokens": 2e5}) == 0.0
    assert beyond_loss.regret(cell, {"lr": 1.6e-3, "batch_tokens": 1e5}) == pytest.approx(0.01)


def test_kin_are_tables_that_constants_are_learned_from_or_scored():
    named = {row.table for row in forecasting.ROWS}
    assert all(group <= named for group in forecasting.KIN)


def test_left_out_coverage_stands_for_the_series_that_constants_were_learned_from():
    without = {("made up", "a"): np.array([0.0, 0.5])}
    found = forecasting.over_left_out([told([0.0]), told([0.0], name="b"), told([0.9], name="c")], without)
    assert list(found.values()) == [0.3333, 0.5]


def test_the_page_shows_what_the_result_files_hold():
    assert page.PAGE.read_text() == page.page(*forecasting.results()), "run python -m benchmarks.forecasting"


def test_beliefs_on_gaps_are_chosen_on_larger_sizes_and_never_on_the_scored_optimizers(shared_data):
    shared_data("runs/marin_optimizers_best.csv")
    chosen = paired.chosen_series()
    assert len(chosen) > 60
    assert not [s.name for s in chosen if any(scored in s.name for scored in paired.SCORED)]
    for series in chosen:
        for shown, hidden in paired.cuts(series):
            assert series.params[hidden].min() > series.params[shown].max()
