"""What an answer costs, in small: the replay's arithmetic on loss curves that are known."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from benchmarks import answer, answer_bills, answer_replay, answer_runs
from benchmarks.answer_replay import Landscape
from windtunnel.recipe import Tuned
from windtunnel.tune import Tuning, coarse_values

RANGE = Tuned(2.0**-10, 2.0**-4)
BEST = -6.3  # log2 of the best rate


def bowl(level=2.5, evaluations=4, flops=8.0):
    """A parabola in the logarithm, higher the earlier it is judged."""
    rates = tuple(coarse_values(RANGE, 9))
    final = np.array([level + 0.02 * (math.log2(rate) - BEST) ** 2 for rate in rates])
    losses = final[:, None] + np.linspace(1.0, 0.0, evaluations)[None, :]
    return Landscape(rates, losses, flops)


def test_a_landscape_goes_through_what_was_measured_and_has_no_loss_for_what_was_not():
    found = bowl()
    for index, rate in enumerate(found.rates):
        assert found(rate)[-1] == pytest.approx(found.losses[index, -1]) == pytest.approx(found.at(rate))
    with pytest.raises(KeyError):
        found.at(2.0**-6.3)


def test_regret_is_nothing_at_the_best_rate_and_the_parabola_elsewhere():
    regret = answer_replay.regret_over(bowl())
    assert regret(2.0**BEST) == pytest.approx(0.0, abs=2e-4)
    assert regret(2.0**-4) == pytest.approx(0.02 * 2.3**2 / 2.5, abs=2e-4)


def test_a_value_that_does_not_stay_good_was_not_reached():
    def regret(value):
        return value

    assert answer_replay.reached([(1.0, 0.5), (2.0, 0.0), (3.0, 0.5), (4.0, 0.0), (5.0, 0.0)], regret, 0.1) == 4.0
    assert answer_replay.reached([(1.0, 0.0), (2.0, 0.5)], regret, 0.1) is None


def test_our_tuning_finds_the_best_rate_in_as_many_runs_as_the_searches_are_given_beside_it():
    found = answer_replay.ours({0: bowl(2.5), 3: bowl(2.6)}, RANGE, (0, 3), Tuning())
    assert math.log2(found[-1][1]) == pytest.approx(BEST, abs=0.05)
    assert [spent / 8.0 for spent, _ in found] == [5, answer.EQUAL]


def test_a_search_pays_pruned_runs_in_part_and_repeats_itself():
    pytest.importorskip("optuna", reason="pip install optuna")
    once = answer_replay.searched(bowl(), RANGE, trials=20, seed=1)
    assert once == answer_replay.searched(bowl(), RANGE, trials=20, seed=1)
    assert once[4][0] == pytest.approx(5 * 8.0)  # the median pruner lets five runs finish first
    steps = np.diff([0.0, *(spent for spent, _ in once)]) / 2.0  # a quarter of a run between judgements
    assert set(steps.round(6)) <= {1.0, 2.0, 3.0, 4.0} and steps.min() < 4
    regret = answer_replay.regret_over(bowl())
    assert regret(once[-1][1]) <= regret(once[0][1])


def test_a_trunk_never_costs_more_than_its_runs_apart_and_one_horizon_shares_nothing():
    trunk, apart = answer_bills.ladder_flops(0.01, answer_runs.HORIZONS, 2)
    assert all(trunk[w] < apart[w] for w in answer_runs.WIDTHS)
    trunk, apart = answer_bills.ladder_flops(0.01, answer_runs.HORIZONS[:1], 2)
    assert trunk == apart


def test_a_bill_by_hand():
    """Two searches, unit speeds but for the plain loop: every sum can be done in the head."""
    widths = answer_runs.WIDTHS
    search = {w: {"reached": 5.0, "all": 50.0, "equal": 20.0} for w in widths}
    never = {w: {"reached": None, "all": 50.0, "equal": 20.0} for w in widths}
    tuning = {"ours_flops": 6.0, "usual": [search, never], "one_run": dict.fromkeys(widths, 1.0)}
    design = {"recheck": {widths[1]: 4.0}, "trunk": dict.fromkeys(widths, 2.5), "apart": dict.fromkeys(widths, 11.0)}
    speed = {w: {"plain": 2.0, "tuning pack": 1.0, "trunk pack": 1.0} for w in widths}
    found = answer_bills.bills(tuning, design, {"float32": speed})
    count = len(widths)
    ours = 6 + 4 + 2.5 * count
    assert found["ours_flops"] == found["ours_core_seconds"]["float32"] == ours
    assert found["good"]["times_flops"]["low"] == count * (5 + 11 - 1) / ours
    assert found["good"]["times_flops"]["high"] == count * (50 + 11 - 1) / ours
    assert found["equal"]["times_core_seconds"]["float32"]["median"] == count * (20 + 11 - 1) / 2 / ours
    assert found["times_flops_of_the_ladder_alone"] == 11 / 2.5
