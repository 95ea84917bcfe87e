"""The measuring of benchmarks/batch_rate.py: what counts as the largest rate, and weights equal to the engine's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import windtunnel as wt
from benchmarks.batch_rate_curvature import second_moment, start
from benchmarks.batch_rate_ladder import RATES, _bottom, _crossing, _excess
from benchmarks.batch_rate_runs import CentredDigits, edge, ended, everything, optimizer, recipe, runs


def test_the_largest_rate_is_the_last_before_the_first_that_fails():
    grid = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert edge(grid, np.array([0.9, 0.2, 0.3, 2.0, 0.1]), 1.0) == 16.0  # the best one is beyond the failure
    assert edge(grid, np.array([0.9, 0.1, 0.3, 2.0, 0.2]), 1.0) == 4.0
    assert edge(grid, np.array([0.9, 0.1, 0.3, np.inf, np.inf]), 0.2) == 2.0
    assert np.isnan(edge(grid, np.full(5, 2.0), 1.0))


def test_centred_digits_have_no_mean_and_the_same_order():
    images, labels = everything(CentredDigits())
    assert abs(images.mean(axis=0)).max() < 1e-5 and len(labels) == CentredDigits().shape().train_tokens
    plain = wt.data.digits().batch(seed=3, step=2, size=5)
    assert np.array_equal(CentredDigits().batch(seed=3, step=2, size=5)[1], plain[1])


def test_a_safe_run_begins_where_the_engine_s_run_begins():
    """The first training loss of a run is that of the weights that curvature is measured at."""
    rung = wt.Rung(width=64, depth=2, tokens=64, batch=32)
    (run,) = runs(recipe(optimizer("sgd")), rung, [(0.1, 4)], 1, rung)
    images, labels = (torch.from_numpy(each) for each in CentredDigits().batch(seed=4, step=0, size=32))
    loss = F.cross_entropy(start(4)(images)[:, 0], labels[:, 0])
    assert float(loss.detach()) == pytest.approx(run.curve["train_loss"][0], rel=1e-5)
    assert 0.8 < ended(run, 32) < 1.2


def test_adam_s_diagonal_is_what_divides_its_step():
    model = start(0)
    stepper = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.95), eps=1e-8)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    images, labels = (torch.from_numpy(each) for each in CentredDigits().batch(seed=0, step=0, size=32))
    F.cross_entropy(model(images)[:, 0], labels[:, 0]).backward()
    slope = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    stepper.step()
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    diagonal = second_moment(stepper, model)
    assert diagonal is not None
    torch.testing.assert_close(moved, -1e-3 * slope / diagonal, rtol=1e-3, atol=2e-7)


def test_a_parabola_s_bottom_and_a_rule_s_excess_are_read_between_grid_points():
    logs = 0.1 * (np.log2(RATES) + 6.3) ** 2
    rate, least = _bottom(logs)
    assert np.log2(rate) == pytest.approx(-6.3) and least == pytest.approx(0, abs=1e-12)
    assert _excess(logs, 2.0**-7) == pytest.approx(np.expm1(0.1 * (0.49 - 0.09)))
    assert 0 < _excess(logs, 2.0**-6.8) < _excess(logs, 2.0**-7)
    assert _excess(logs, 1e3) is None


def test_a_target_is_crossed_between_two_judgements():
    at, curve = np.array([10.0, 20.0]), np.array([1.0, 0.5])
    assert _crossing(at, curve, 0.75) == pytest.approx(15)
    assert np.isnan(_crossing(at, curve, 0.4))
