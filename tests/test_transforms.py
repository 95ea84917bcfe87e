"""Weights that pass through a map: what is used, what is trained, and what the engine still knows of the tensors."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.ideas.structured_sparsity import Largest, Tightening
from windtunnel.ideas.ternary_weights import Ternary
from windtunnel.ideas.weight_compander import Compander
from windtunnel.ideas.weight_standardization import Standardized
from windtunnel.parts.transforms import Mapped
from windtunnel.train.loop import train
from windtunnel.train.pack import build_model, table_of

WEIGHT = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), requires_grad=True)


def passed_straight(through) -> bool:
    """Whether a map's gradient is the weight's own."""
    (slope,) = torch.autograd.grad(through(WEIGHT).sum(), WEIGHT)
    return torch.equal(slope, torch.ones_like(slope))


def test_ternary_weights_have_three_values_and_gradients_pass_straight():
    for median in (True, False):
        used = Ternary(median)(WEIGHT)
        sizes = WEIGHT.detach().abs()
        scale = float(sizes.flatten().median() if median else sizes.mean())
        np.testing.assert_allclose(used.detach().round(decimals=5).unique(), [-scale, 0, scale], atol=1e-5)
        assert passed_straight(Ternary(median))


def test_the_largest_of_every_few_are_used():
    used = Largest(2, 8)(WEIGHT).detach()
    lots = nn.functional.pad(used, (0, 4)).unflatten(1, (-1, 8))
    assert int((lots != 0).sum(-1).max()) == 2 and passed_straight(Largest(2, 8))
    dropped = WEIGHT.detach()[:, :8].abs().masked_fill(used[:, :8] != 0, 0).amax(1)
    kept = WEIGHT.detach()[:, :8].abs().masked_fill(used[:, :8] == 0, torch.inf).amin(1)
    assert (kept > dropped).all()
    torch.testing.assert_close(Largest(8, 8)(WEIGHT), WEIGHT)


def test_standardised_filters_do_not_feel_the_size_of_their_weights():
    used = Standardized()(WEIGHT)
    torch.testing.assert_close(used, Standardized()(7 * WEIGHT + 3), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(used.square().sum(1), torch.ones(12), rtol=1e-4, atol=1e-5)
    assert used.mean(1).abs().max() < 1e-6


def test_squashed_weights_are_bounded_odd_and_as_they_were_near_zero():
    bound = 3 * 20**-0.5 * np.pi / 2
    huge = Compander()(1e6 * WEIGHT)
    assert huge.abs().max() <= bound + 1e-6
    torch.testing.assert_close(Compander()(-WEIGHT), -Compander()(WEIGHT))
    torch.testing.assert_close(Compander()(1e-4 * WEIGHT), 1e-4 * WEIGHT, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("through", [Ternary(), Compander(), Standardized(), Largest(1, 4)], ids=repr)
def test_mapped_networks_keep_names_sites_and_sizes_and_pack(corpus, through):
    plain = tiny.recipe(corpus)
    recipe = plain.but(transforms=(Mapped(through=through),))
    tables = [table_of(r, tiny.RUNG.but(width=16), tiny.RUNG) for r in (plain, recipe)]
    assert tables[0].scales == tables[1].scales and tables[0].sites == tables[1].sites
    assert recipe.size(tiny.RUNG) == plain.size(tiny.RUNG)
    pack = tiny.pack(recipe, [{"lr": 0.003}, {"lr": 0.01}])
    together = train(pack, device=tiny.CPU)
    for member, run in enumerate(together):
        (alone,) = train(pack.part([member]), device=tiny.CPU, packed=False)
        np.testing.assert_allclose(run.curve["train_loss"], alone.curve["train_loss"], rtol=1e-5)


def test_the_readout_is_left_alone_and_a_pattern_chooses(corpus):
    recipe = tiny.recipe(corpus)
    model = build_model(recipe.but(transforms=(Mapped(through=Ternary(), where="*.mlp.*"),)), tiny.RUNG)
    mapped = {name for name, module in model.named_modules() if type(module).__name__ == "MappedLinear"}
    assert mapped == {"blocks.0.mlp.gate", "blocks.0.mlp.up", "blocks.0.mlp.down"}
    everything = build_model(recipe.but(transforms=(Mapped(through=Ternary()),)), tiny.RUNG)
    assert type(everything.get_submodule("readout")) is nn.Linear
    with pytest.raises(InputError, match=r"No layer before the last matches 'conv\*'.*blocks.0.attention.query"):
        build_model(recipe.but(transforms=(Mapped(through=Ternary(), where="conv*"),)), tiny.RUNG)


def test_convolutions_are_mapped_too():
    data = wt.data.digits()
    recipe = wt.recipes.cnn_mup_adamw(data=data).but(transforms=(Mapped(through=Ternary()),))
    rung = wt.Rung(width=8, depth=1, tokens=64, batch=8)
    model = build_model(recipe, rung)
    kinds = [type(module).__name__ for module in model.modules()]
    assert "MappedConv2d" in kinds
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 1, 10)


def test_a_pattern_tightens_by_halves_under_one_schedule(corpus):
    rung = tiny.RUNG.but(tokens=10_000)
    recipe = tiny.recipe(corpus)
    stretches = Tightening(kept=1, of=8).stretches(recipe, rung)
    assert [s.name for s in stretches] == ["8 of 8", "4 of 8", "2 of 8", "1 of 8"]
    assert sum(s.rung.tokens for s in stretches) == 10_000
    at = 0
    for stretch in stretches:  # each reads its piece of the one schedule
        for share in (0.1, 0.9):
            tokens = share * stretch.rung.tokens
            wanted = recipe.schedule(at + tokens, 10_000)
            assert stretch.recipe.schedule(tokens, stretch.rung.tokens) == pytest.approx(wanted, rel=1e-3, abs=1e-3)
        at += stretch.rung.tokens
