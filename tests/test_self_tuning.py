"""Self-tuning networks: which examples move what, and what is set aside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.ideas.self_tuning import SelfTuned, self_tuning
from windtunnel.parts.data.set_aside import SHARE_OF_BATCH, SetAside
from windtunnel.parts.transforms.dropout import normal

DIGITS = wt.data.digits()
BASE = wt.recipes.mlp_mup_sgd(data=DIGITS)
RUNG = wt.Rung(width=16, depth=2, tokens=640, batch=12)


def network(start=0.3):
    model = SelfTuned(of=BASE.model, start=start)(BASE.model.build(RUNG, DIGITS.shape()))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "response" in name:
            torch.nn.init.normal_(parameter)
    model.noise.fill_(5)
    return model


def gradients(model, rows):
    """Of the loss of some rows of a batch of twelve."""
    inputs, targets = (torch.from_numpy(a) for a in DIGITS.batch(seed=0, step=0, size=12))
    losses = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    model.zero_grad()
    losses[rows].sum().backward()
    return {name: float(p.grad.abs().sum()) if p.grad is not None else 0.0 for name, p in model.named_parameters()}


def test_training_examples_move_the_weights_and_those_set_aside_the_rate_alone():
    model = network()
    trained, tuned = gradients(model, slice(0, 8)), gradients(model, slice(8, 12))
    for name in trained:
        if name.startswith(("logit", "log_spread")):
            assert trained[name] == 0 < tuned[name]
        elif ".layers." in name:
            assert tuned[name] == 0 < trained[name]  # the readout, which does not answer, learns from both


def test_a_judged_network_drops_nothing_and_answers_at_the_rate_itself():
    model, inputs = network().eval(), torch.from_numpy(DIGITS.batch(seed=0, step=0, size=12)[0])
    whole = model(inputs)
    assert torch.equal(whole, model(inputs)) and torch.allclose(whole[:5], model(inputs[:5]), atol=1e-6)
    assert not torch.allclose(whole, network(start=0.6).eval()(inputs), atol=1e-3)


def test_normal_numbers_are_normal():
    drawn = normal(torch.tensor(77), 1 << 16).double()
    error = len(drawn) ** -0.5
    assert abs(float(drawn.mean())) < 4 * error and abs(float(drawn.var()) - 1) < 4 * 2**0.5 * error
    assert abs(float((drawn**4).mean()) - 3) < 4 * 96**0.5 * error


def test_what_is_set_aside_is_never_trained_on_and_both_cover_the_data():
    data, size = SetAside(DIGITS), 30
    tuning = int(size * SHARE_OF_BATCH)
    seen = [data.indices(seed=1, step=step, size=size) for step in range(200)]
    trained, aside = (
        {int(i) for batch in seen for i in batch[part]} for part in (slice(0, -tuning), slice(-tuning, None))
    )
    assert not trained & aside and trained | aside == set(range(DIGITS.examples()))
    assert abs(len(aside) / DIGITS.examples() - 0.2) < 0.001
    inputs, targets = data.batch(seed=1, step=3, size=size)
    np.testing.assert_array_equal(inputs, DIGITS.taken(seen[3])[0])
    assert data.shape().train_tokens == len(trained) and len(targets) == size


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        SetAside(DIGITS, share)


def test_the_count_is_that_of_the_network():
    recipe = self_tuning(BASE)
    size = recipe.size(RUNG)
    model = recipe.transforms[0](BASE.model.build(RUNG, DIGITS.shape()))
    assert size.total == sum(p.numel() for p in model.parameters())
