"""Critical momenta and the hypergradient rate: each beside its own rule written out, and beside what it should do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.ideas.critical_momenta import CriticalMomentaAdam
from windtunnel.ideas.hypergradient_rate import HypergradientSGD
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.recipe import Site
from windtunnel.train.pack import numbers_of

SITE = Site(role="hidden", shape=(3, 4), fan_in=4, fan_out=3)


def walked(optimizer, gradients, start):
    """Parameters after each gradient, and the last state."""
    hp = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers_of(optimizer).items()}
    param, state, path = start, optimizer.init(start, SITE), []
    for gradient in gradients:
        grad = gradient(param) if callable(gradient) else gradient
        sums = optimizer.totals(grad, state, param, hp, SITE) if hasattr(optimizer, "totals") else {}
        step, state = optimizer.update(grad, state, param, hp | sums, SITE)
        param = param + step
        path.append(param)
    return path, state


def draws(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.standard_normal(count))  # norms that differ, so that ranks matter
    return [torch.from_numpy(size * rng.standard_normal((3, 4))) for size in sizes]


def by_hand(o: CriticalMomentaAdam, gradients, param):
    """The rule with a list that is sorted: (priority, momentum), the least falls out."""
    mean, square, kept = torch.zeros_like(param), torch.zeros_like(param), []
    for t, grad in enumerate(gradients, 1):
        mean = o.beta1 * mean + (1 - o.beta1) * grad
        momentum = mean / (1 - o.beta1**t)
        critical = momentum + (sum(m for _, m in kept) / len(kept) if kept else 0)
        square = o.beta2 * square + (1 - o.beta2) * critical**2
        root = (square / (1 - o.beta2**t)).sqrt() + o.eps
        param = param - o.lr * critical / root
        norm = float(grad.norm())
        if len(kept) < o.capacity:
            kept.append((norm, momentum))
        elif norm > min(kept, key=lambda each: each[0])[0]:
            kept.remove(min(kept, key=lambda each: each[0]))
            kept.append((norm, momentum))
        kept = [(priority * o.decay, m) for priority, m in kept]
    return param, sorted(priority for priority, _ in kept)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.floats(0.3, 1.0), st.integers(1, 15), st.integers(0, 99))
def test_critical_momenta_keep_the_moments_of_the_largest_gradients(capacity, decay, steps, seed):
    optimizer = CriticalMomentaAdam(lr=0.1, capacity=capacity, decay=decay)
    gradients, start = draws(steps, seed), torch.zeros(3, 4, dtype=torch.float64)
    path, state = walked(optimizer, gradients, start)
    expected, priorities = by_hand(optimizer, gradients, start)
    torch.testing.assert_close(path[-1], expected, rtol=1e-9, atol=1e-12)
    assert sorted(float(p) for p in state["priority"] if p >= 0) == pytest.approx(priorities)


def test_the_first_step_of_critical_momenta_is_adam_s():
    """The buffer is empty then; the second step already differs."""
    start, gradients = torch.zeros(3, 4, dtype=torch.float64), draws(2)
    ours, _ = walked(CriticalMomentaAdam(lr=0.1), gradients, start)
    adams, _ = walked(AdamW(lr=0.1), gradients, start)
    torch.testing.assert_close(ours[0], adams[0])
    assert not torch.allclose(ours[1], adams[1])


def test_an_old_critical_moment_gives_way_even_to_a_smaller_gradient():
    """Priorities decay, so no momentum stays for ever."""
    gradients = [100 * torch.ones(3, 4, dtype=torch.float64)] + [torch.ones(3, 4, dtype=torch.float64)] * 30
    _, state = walked(CriticalMomentaAdam(lr=0.1, capacity=1, decay=0.7), gradients, torch.zeros(3, 4).double())
    _, kept = walked(CriticalMomentaAdam(lr=0.1, capacity=1, decay=1.0), gradients, torch.zeros(3, 4).double())
    assert float(state["buffer"].max()) < 50 < float(kept["buffer"].max())


def bowl(curvature):
    return lambda param: curvature * param


def test_the_hypergradient_rate_grows_where_steps_agree_and_shrinks_where_they_oppose():
    start = torch.ones(3, 4, dtype=torch.float64)
    _, slow = walked(HypergradientSGD(lr=1e-4, momentum=0.0), [bowl(1.0)] * 20, start)
    _, fast = walked(HypergradientSGD(lr=1.9, momentum=0.0), [bowl(1.0)] * 20, start)
    assert float(slow["factor"]) == pytest.approx(1.05**19)  # the first step has none before it
    assert float(fast["factor"]) < 1


def test_the_hypergradient_rate_stays_within_its_bounds():
    start = torch.ones(3, 4, dtype=torch.float64)
    _, state = walked(HypergradientSGD(lr=1e-6, bound=4.0), [bowl(1.0)] * 200, start)
    assert float(state["factor"]) == 4.0
    turning = [torch.ones(3, 4, dtype=torch.float64) * (-1) ** t for t in range(200)]
    _, state = walked(HypergradientSGD(lr=1e-6, momentum=0.0, bound=4.0), turning, start)
    assert float(state["factor"]) == 0.25


def test_without_speed_it_is_sgd():
    start, gradients = torch.zeros(3, 4, dtype=torch.float64), draws(10)
    ours, _ = walked(HypergradientSGD(lr=0.1, momentum=0.9, speed=0.0), gradients, start)
    plain, _ = walked(SGD(lr=0.1, momentum=0.9), gradients, start)
    torch.testing.assert_close(ours[-1], plain[-1])


def test_it_rescues_a_rate_that_is_thirty_times_too_small():
    start = torch.ones(3, 4, dtype=torch.float64)
    ours, _ = walked(HypergradientSGD(lr=1 / 300, momentum=0.0), [bowl(1.0)] * 150, start)
    plain, _ = walked(SGD(lr=1 / 300, momentum=0.0), [bowl(1.0)] * 150, start)
    assert float(ours[-1].norm()) < 0.01 * float(plain[-1].norm())
