"""Noise scale, steps to a target and the reach of batch rules, each beside a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.scaling.rules import carry

CURVE = wt.curvature


class Vector(nn.Module):
    """Weights whose gradient is the mean of the batch: loss = w . mean(batch)."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, rows):
        return (rows @ self.weight).mean()


def loss(model, rows):
    return model(rows)


def draws(mean, deviation, *, batches, examples, seed):
    rng = np.random.default_rng(seed)
    rows = mean + deviation * rng.standard_normal((batches, examples, len(mean)))
    return list(torch.from_numpy(rows))


def test_noise_scale_of_gaussian_gradients_is_their_variance_over_their_squared_mean():
    mean, deviation = np.full(20, 0.5), np.full(20, 3.0)
    true = 9 * 20 / (0.25 * 20)  # 36 examples
    found = [
        CURVE.noise_scale(Vector(20), loss, draws(mean, deviation, batches=40, examples=8, seed=s), examples=8)
        for s in range(40)
    ]
    assert np.median([f.scale for f in found]) == pytest.approx(true, rel=0.1)
    assert np.mean([f.low <= true <= f.high for f in found]) >= 0.75  # 0.9 asked; 40 draws err by 0.05


def test_noise_scale_does_not_depend_on_the_batch_it_is_measured_with():
    mean, deviation = np.linspace(-1, 1, 30), np.full(30, 2.0)
    found = [
        CURVE.noise_scale(Vector(30), loss, draws(mean, deviation, batches=60, examples=b, seed=b), examples=b).scale
        for b in (4, 16, 64)
    ]
    assert max(found) / min(found) < 1.4


def test_preconditioning_weighs_directions_as_adam_does():
    mean, deviation = np.array([1.0, 1.0]), np.array([10.0, 0.1])
    batches = draws(mean, deviation, batches=2000, examples=4, seed=0)
    diagonal = torch.tensor([100.0, 1.0], dtype=torch.float64)
    found = CURVE.noise_scale(Vector(2), loss, batches, examples=4, diagonal=diagonal)
    assert found.scale == pytest.approx((100 / 100 + 0.01) / (1 / 100 + 1), rel=0.1)


def test_gradients_without_a_mean_have_no_finite_upper_end():
    batches = draws(np.zeros(50), np.ones(50), batches=10, examples=8, seed=1)
    assert math.isinf(CURVE.noise_scale(Vector(50), loss, batches, examples=8).high)


def test_one_batch_has_no_noise_scale():
    with pytest.raises(InputError, match="two batches or more"):
        CURVE.noise_scale(Vector(2), loss, [torch.ones(3, 2, dtype=torch.float64)], examples=3)


BATCHES = [8, 16, 32, 64, 128, 256]


@settings(max_examples=30, deadline=None)
@given(st.floats(20, 5000), st.floats(12, 200))
def test_steps_to_target_recovers_the_critical_batch(fewest, critical):
    steps = fewest * (1 + critical / np.array(BATCHES))
    found = CURVE.steps_to_target(BATCHES, steps)
    assert found.critical == pytest.approx(critical, rel=0.02) and found.fewest_steps == pytest.approx(fewest, rel=0.02)
    assert found.fewest_examples == pytest.approx(fewest * critical, rel=0.03)


def test_the_interval_of_the_critical_batch_covers_it_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), []
    for _ in range(200):
        steps = 300 * (1 + 40 / np.array(BATCHES))[:, None] * np.exp(0.1 * rng.standard_normal((6, 3)))
        found = CURVE.steps_to_target(BATCHES, steps)
        covered.append(found.low <= 40 <= found.high)
    assert 0.83 <= np.mean(covered) <= 0.97


def test_runs_that_never_got_there_are_counted_and_left_out():
    steps = 100 * (1 + 40 / np.array(BATCHES))[:, None] * np.ones((6, 2))
    steps[2, 1] = np.nan
    found = CURVE.steps_to_target(BATCHES, steps)
    assert (found.runs, found.missing) == (11, 1) and found.critical == pytest.approx(40, rel=0.02)
    with pytest.raises(InputError, match="needs three"):
        CURVE.steps_to_target(BATCHES, np.where(np.arange(6) < 2, 1.0, np.nan))


def test_a_batch_far_above_all_runs_has_an_interval_without_an_end():
    found = CURVE.steps_to_target(BATCHES, 1e6 / np.array(BATCHES) * [1.01, 0.99, 1.01, 0.99, 1.01, 0.99])
    assert math.isinf(found.high) and found.low > 256


def test_rules_end_where_a_saturating_rate_leaves_them():
    """rate = B / (1 + B / 64): linear to a factor sqrt 2 while 1 + B/64 <= sqrt 2 (1 + 8/64), so to B = 37."""
    rates = np.array(BATCHES) / (1 + np.array(BATCHES) / 64)
    rules = (carry.linear, carry.square_root, carry.unchanged)
    linear, root, same = (CURVE.rule_reach(rule, BATCHES, rates) for rule in rules)
    assert (linear.until, linear.ended) == (32, True) and same.until == 8
    assert root.until == 16 and "holds to B = 32" in str(linear)
    whole = CURVE.rule_reach(carry.square_root, BATCHES, np.sqrt(BATCHES))
    assert not whole.ended and whole.measured.value == pytest.approx(0.5)


def test_rates_that_are_not_positive_and_batches_that_do_not_grow_are_refused():
    for batches, rates in (([8, 4], [1.0, 1.0]), ([4, 8], [1.0, 0.0])):
        with pytest.raises(InputError, match="growing batches"):
            CURVE.rule_reach(carry.linear, batches, rates)
