"""Rules that wrap another rule or concern one kind of tensor: decay, vocabulary, experts; and multipliers' places."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.rules import Decay, LargeVocabulary, MeanField, MuP, Standard, complete_p
from windtunnel.scaling.rules.decay import independent, inverse_width, square_root, unchanged

HIDDEN = Site(role="hidden", shape=(256, 256), fan_in=256, fan_out=256)
BASE = Site(role="hidden", shape=(16, 16), fan_in=16, fan_out=16)


@pytest.mark.parametrize(
    "follows, geometry, decay, shrinks",
    [
        (independent, "entrywise", 16, 1.0),
        (unchanged, "entrywise", 1, 1 / 16),
        (square_root, "entrywise", 4, 1 / 4),
        (independent, "spectral", 1, 1.0),
        (inverse_width, "spectral", 1 / 16, 1 / 16),
        (inverse_width, "entrywise", 1, 1 / 16),
    ],
)
def test_decay_rules_are_those_of_their_papers(follows, geometry, decay, shrinks):
    """16 times wider: PyTorch's factor, and by how much a step shrinks a weight, over the base's."""
    scale = Decay(follows=follows).scale(HIDDEN, BASE, geometry)
    assert (scale.decay, scale.lr * scale.decay) == pytest.approx((decay, shrinks))


def test_what_does_not_decay_stays_so():
    gain = Site(role="gain", shape=(16,), fan_in=1, fan_out=16)
    assert Decay(follows=unchanged, rule=complete_p()).scale(gain, gain, "entrywise").decay == 0.0


def test_decay_of_your_own_is_a_function():
    half = lambda scale, site, base: 0.5  # noqa: E731
    assert Decay(follows=half).scale(HIDDEN, BASE, "entrywise").decay == 0.5


def test_a_large_vocabularys_embedding_learns_less_as_width_grows_and_nothing_else_changes():
    here, there = (Site(role="embedding", shape=(50, w), fan_in=50, fan_out=w) for w in (256, 16))
    assert LargeVocabulary().scale(here, there, "entrywise").lr == 1 / 4
    ratio = LargeVocabulary().scale(here, there, "entrywise").lr / LargeVocabulary().scale(HIDDEN, BASE, "entrywise").lr
    assert ratio == pytest.approx(16**0.5)  # 2506.15025: embedding over hidden as sqrt(width)
    assert LargeVocabulary().scale(HIDDEN, BASE, "entrywise") == MuP().scale(HIDDEN, BASE, "entrywise")


def expert(role, width, share):
    """A stacked weight of experts whose width is `share` of the model's."""
    fans = (width, round(share * width)) if role == "expert_up" else (round(share * width), width)
    return Site(role=role, shape=(4, *fans), fan_in=fans[0], fan_out=fans[1], axes="-io")


def test_experts_follow_their_own_fans():
    """2601.20205, n the model's width, f the experts' share of it: up 1/sqrt(n), down 1/(f sqrt(n)); Adam 1/fan_in."""
    up, down = (MuP().scale(expert(r, 256, 0.5), expert(r, 64, 2.0), "entrywise") for r in ("expert_up", "expert_down"))
    assert (up.init_std, up.lr) == pytest.approx((256**-0.5, 1 / 4))
    base_down = MuP().scale(expert("expert_down", 64, 2.0), expert("expert_down", 64, 2.0), "entrywise")
    assert down.init_std / base_down.init_std == pytest.approx((256**-0.5 / 0.5) / (64**-0.5 / 2.0))
    assert down.lr == 1.0  # its fan-in is the same: 128


def test_a_router_learns_as_one_over_width_and_is_not_multiplied():
    here, there = (Site(role="router", shape=(8, w), fan_in=w, fan_out=8) for w in (256, 16))
    scale = MuP().scale(here, there, "entrywise")
    assert (scale.lr, scale.forward) == (1 / 16, 1.0)
    assert scale.init_std == pytest.approx(16**-0.5 / 16)  # as a readout without a multiplier
    grown = MuP().scale(replace(here, shape=(128, 256), fan_out=128), there, "entrywise")
    assert grown.init_std == pytest.approx(256**-0.5)  # as many experts more as channels: hidden
    assert Standard().scale(here, there, "entrywise").init_std == pytest.approx(256**-0.5)


def moved_by_what_is_below(role, width, seed):
    """How far a router's logits go when each feature takes one step of its gradient's sign, as Adam and Lion do."""
    here, there = (Site(role=role, shape=(4, w), fan_in=w, fan_out=4) for w in (width, 64))
    generator = torch.Generator().manual_seed(seed)
    router = torch.randn(4, width, generator=generator) * MuP().scale(here, there, "entrywise").init_std
    x = torch.randn(32, width, generator=generator).requires_grad_()
    torch.nn.functional.cross_entropy(x @ router.T, torch.arange(32) % 4).backward()
    return float((0.1 * x.grad.sign() @ router.T).abs().mean())


@pytest.mark.parametrize("role, exponent", [("hidden", 0.5), ("router", 0.0)])
def test_features_push_the_logits_of_a_router_that_starts_as_hidden_ever_further(role, exponent):
    """The reason of the rule: such features are the signs of its own weights, so each logit sums n of n^-1/2."""
    widths = [64, 256, 1024, 4096]
    logs = [math.log(statistics.mean(moved_by_what_is_below(role, w, seed) for seed in range(4))) for w in widths]
    assert np.polyfit(np.log(widths), logs, 1)[0] == pytest.approx(exponent, abs=0.05)


class Experts(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        self.up, self.down = nn.Parameter(torch.ones(4, width, width)), nn.Parameter(torch.ones(4, width, width))


ROLES = {"*router*": "router", "*.up": ("expert_up", "-io"), "*.down": ("expert_down", "-io")}


def mixture(width):
    return nn.Sequential(nn.Embedding(8, width), Experts(width), nn.Linear(width, 8))


def test_a_stated_router_leaves_one_readout():
    table = adopt(mixture, base=16, target=64, optimizer=torch.optim.AdamW, roles=ROLES).table
    assert table.forward == {"2": 1 / 4} and table.sites["1.up"].axes == "-io"


def test_a_multiplier_without_a_place_is_refused():
    """Mean field multiplies every matrix's input; stacked experts share one module, so none could be told apart."""
    with pytest.raises(InputError, match=r"multiplies the input of 1\.up, but 1 \(a Experts\) holds 3 weights"):
        adopt(mixture, base=16, target=64, optimizer=torch.optim.AdamW, roles=ROLES, rule=MeanField())


# what weight decay means in groups


def grouped(decay_is, optimizer=torch.optim.AdamW):
    build = lambda width: nn.Sequential(nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3))  # noqa: E731
    scales = adopt(build, base=16, target=64, optimizer=optimizer)
    groups = scales.groups(build(64), 0.01, pretrained=True, weight_decay=0.1, decay_is=decay_is)
    return {name: group for group in groups for name in group["names"]}


def test_independent_decay_shrinks_every_weight_by_the_same_share():
    shares = {
        group["lr"] * group["weight_decay"] for name, group in grouped("independent").items() if "bias" not in name
    }
    assert [*shares] == [pytest.approx(0.1)]


def share(width, seed):
    """Norm of a hidden layer's gradient over the norm of its weight, for an output that is a mean over the layer."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(width, width, generator=generator) * width**-0.5).requires_grad_()
    x, out = torch.randn(1, width, generator=generator), torch.randn(width, generator=generator) / width
    (torch.tanh(x @ weight.T) @ out).mean().backward()
    return float(weight.grad.norm() / weight.detach().norm())


def test_a_coupled_penalty_keeps_its_share_of_the_gradient():
    """Real gradients and weights at widths 64 and 1024: their ratio grows as the factor says (median of 9 draws)."""
    grows = statistics.median(share(1024, seed) / share(64, seed) for seed in range(9))
    site = lambda n: Site(role="hidden", shape=(n, n), fan_in=n, fan_out=n)  # noqa: E731
    factor = MuP().scale(site(1024), site(64), "entrywise").coupled
    assert factor == pytest.approx(1 / 4) and grows == pytest.approx(factor, rel=0.2)
    assert MuP().scale(site(1024), site(64), "gradient").coupled == 1.0


def test_an_unknown_meaning_of_decay_is_refused():
    with pytest.raises(InputError, match="decay_is='l2': what weight decay means is one of 'decoupled'"):
        grouped("l2")
