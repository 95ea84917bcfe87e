"""Rules of batch and horizon: what they promise of real Adam and SGD steps, and where they end."""

from __future__ import annotations

import pytest
import torch

from windtunnel.errors import InputError
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.recipe import Site
from windtunnel.scaling.rules import carry

SITE = Site(role="hidden", shape=(64, 64), fan_in=64, fan_out=64)
BASE = {"lr": 1e-3, "beta1": 0.99, "beta2": 0.995, "eps": 1e-8, "weight_decay": 0.1}


def walk(part, values, examples, steps, drift=0.0, seed=0):
    """Where steps on noisy gradients lead from zero: each is the mean of `examples` draws of mean `drift`."""
    generator = torch.Generator().manual_seed(seed)
    param = torch.zeros(SITE.shape)
    state = part.init(param, SITE)
    hp = {name: torch.tensor(value) for name, value in values.items()}
    for _ in range(steps):
        grad = drift + torch.randn(SITE.shape, generator=generator) / examples**0.5
        step, state = part.update(grad, state, param, hp, SITE)
        param = param + step
    return param


@pytest.mark.parametrize("growth", [2, 4])
def test_under_the_square_root_rule_adam_walks_as_far_over_the_same_examples(growth):
    """Pure noise: the spread after as many examples is the same, and without the rule it is not."""
    steps, values = 4000, BASE | {"weight_decay": 0.0}
    followed = carry.square_root(growth, 1).applied(values)
    kept = carry.unchanged(growth, 1).applied(values)
    apart = [walk(AdamW(), v, b, steps // b).std() for v, b in ((values, 1), (followed, growth), (kept, growth))]
    assert float(apart[1] / apart[0]) == pytest.approx(1, abs=0.08)
    assert float(apart[2] / apart[0]) == pytest.approx(growth**-0.5, rel=0.1)


def test_under_the_linear_rule_sgd_drifts_as_far_over_the_same_examples():
    values = {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}
    followed = carry.linear(4, 1).applied(values)
    far = [walk(SGD(), v, b, 400 // b, drift=1.0).mean() for v, b in ((values, 1), (followed, 4))]
    assert float(far[1] / far[0]) == pytest.approx(1, abs=0.02)


def test_decay_shrinks_as_much_over_the_same_examples():
    for rule in (carry.square_root, carry.complete):
        followed = rule(4, 1).applied(BASE)
        shrink = (1 - followed["lr"] * followed["weight_decay"]) ** (1000 / 4)
        assert shrink == pytest.approx((1 - BASE["lr"] * BASE["weight_decay"]) ** 1000, rel=1e-3), rule.__name__


# factors at 4 times the batch and 16 times the tokens: lr, 1 - beta1, 1 - beta2, eps, decay
PUBLISHED = {
    "unchanged": (1, 1, 1, 1, 1),
    "linear": (4, 1, 1, 1, 1),
    "square_root": (2, 4, 4, 0.5, 2),
    "constant_rate": (1, 1, 2, 0.5, 2),
    "complete": (0.5, 0.25, 0.25, 2, 0.5),
    "power_scheduler": (4 * 16**-0.51, 1, 1, 1, 1),
    "shorter_rate": (16**-0.32, 1, 1, 1, 1),
    "timescale": (1, 1, 1, 1, 0.25),
}


@pytest.mark.parametrize("rule", carry.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_is_as_published(rule):
    found = rule(4, 16)
    assert (found.lr, found.forget1, found.forget2, found.eps, found.decay) == pytest.approx(PUBLISHED[rule.__name__])
    assert rule(1, 1) == carry.Carry()


def test_a_rule_that_would_leave_no_memory_says_so():
    with pytest.raises(InputError, match=r"beta1=0\.9 would become -0\.6 at this batch and horizon"):
        carry.square_root(16, 1).applied({"beta1": 0.9})


def test_surge_is_the_square_root_below_the_noise_and_falls_beyond():
    assert carry.surge(1, 1) == 1
    assert carry.surge(1e-4, 1) / carry.surge(1e-6, 1) == pytest.approx(10, rel=1e-3)
    assert carry.surge(4, 1) < 1 and carry.surge(4, 1) == pytest.approx(carry.surge(0.25, 1))


def test_the_step_law_at_a_billion_parameters():
    """Published: about 1e-3 and 1e6 tokens there; exponents from the repository's fit (2503.04715)."""
    found, larger = carry.step_law(1e9, 1e11), carry.step_law(2e9, 1e11)
    assert 1e-3 < found["lr"] < 3e-3 and 5e5 < found["batch_tokens"] < 2e6
    assert larger["lr"] / found["lr"] == pytest.approx(2**-0.713) and larger["batch_tokens"] == found["batch_tokens"]
