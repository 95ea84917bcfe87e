"""A mixture of experts: routing, what sizes count, and the role that the router states in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from torch import nn

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.parts.models import Experts, Transformer
from windtunnel.parts.models.experts import Mixture, routed
from windtunnel.parts.optimizers import SGD, AdamW, Muon
from windtunnel.scaling.rules import MuP
from windtunnel.train.loop import train
from windtunnel.train.pack import build_model, check_count, table_of

BASE, WIDE = (Rung(width=w, depth=2, heads=w // 8, tokens=100) for w in (16, 64))
M = 4
MODEL = Transformer(mlp=Experts(count=4, active=2, share=0.5))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_shares_are_mixtral_s():
    """Softmax over the chosen logits equals what transformers does: the largest of all shares, made to sum to one."""
    logits = draw(7, 5)
    kept, chosen = logits.softmax(-1).topk(2, dim=-1)
    expected = torch.zeros(7, 5).scatter(1, chosen, kept / kept.sum(-1, keepdim=True))
    torch.testing.assert_close(routed(logits, 2), expected)


def test_each_token_is_the_weighted_sum_of_its_own_experts():
    mixture, x = Mixture(8, 16, count=4, active=2), draw(3, 5, 8)
    found = mixture(x)
    for place in ((0, 0), (2, 4)):
        shares = routed(mixture.router(x[place]), 2)
        mine = [share * expert(x[place]) for share, expert in zip(shares, mixture.experts, strict=True) if share > 0]
        assert len(mine) == 2
        torch.testing.assert_close(found[place], sum(mine))


def test_an_expert_that_no_token_chose_has_no_gradient():
    mixture = Mixture(8, 16, count=3, active=1)
    nn.init.zeros_(mixture.router.weight)
    with torch.no_grad():
        mixture.router.weight[1] += 1.0
    mixture(draw(4, 8).abs()).square().sum().backward()
    moved = [max(float(p.grad.abs().max()) for p in expert.parameters()) for expert in mixture.experts]
    assert moved[1] > 0 and moved[0] == moved[2] == 0


def test_laws_count_what_a_token_meets(corpus):
    recipe = tiny.recipe(corpus, model=MODEL)
    size = MODEL.size(BASE, recipe.data.shape())
    check_count(build_model(recipe, BASE), size, MODEL)
    all_active = replace(MODEL, mlp=Experts(count=2, active=2, share=0.5)).size(BASE, recipe.data.shape())
    assert size.params - all_active.params == BASE.depth * 2 * BASE.width  # two more rows of the router, no more
    assert size.total - size.params - size.embedding == BASE.depth * 2 * 3 * 16 * 8


@pytest.mark.parametrize("optimizer, router, expert", [(AdamW(), 1 / M, 1 / M), (SGD(), 1 / M, 1), (Muon(), 1 / M, 1)])
def test_a_router_is_one_and_each_expert_a_matrix(corpus, optimizer, router, expert):
    recipe = tiny.recipe(corpus, model=MODEL, optimizer=optimizer, parametrization=MuP())
    found = table_of(recipe, WIDE, BASE)
    assert found.sites["blocks.0.mlp.router.weight"].role == "router"
    assert found.scales["blocks.0.mlp.router.weight"].lr == pytest.approx(router)
    experts = {found.scales[name].lr for name in found.scales if ".experts." in name}
    assert experts == {expert}
    assert list(found.forward) == ["readout"]


def test_a_row_is_the_run_alone(corpus):
    whole = tiny.pack(tiny.recipe(corpus, model=MODEL), [{"lr": 1e-3}, {"lr": 1e-2}], rung=WIDE.but(batch=4), base=BASE)
    rows = train(whole, device=tiny.CPU)
    assert [tiny.numbers(row) for row in rows] == [tiny.numbers(tiny.alone(whole, i)) for i in range(2)]


class Stacked(nn.Module):
    """Experts as one tensor (copies, in, out), as Mixtral in transformers has them."""

    def __init__(self, width, classes):
        super().__init__()
        self.embedding, self.readout = nn.Embedding(classes, width), nn.Linear(width, classes, bias=False)
        self.experts = nn.Parameter(torch.empty(3, width, width))

    def forward(self, tokens):
        return self.readout(torch.einsum("btd,edo->bto", self.embedding(tokens), self.experts))


@dataclass(frozen=True)
class StackedExperts:
    roles = {"experts": ("hidden", "-io")}  # noqa: RUF012

    def build(self, rung, data):
        return Stacked(rung.width, data.classes)

    def size(self, rung, data):
        n, table = 3 * rung.width**2, rung.width * data.classes
        return Size(embedding=table, non_embedding=n + table, flops_per_token=6.0 * (n + table))


@dataclass(frozen=True)
class Unstated:
    build, size = StackedExperts.build, StackedExperts.size


def test_a_model_part_states_roles_and_axes_that_shapes_cannot_tell(corpus):
    stated, silent = (tiny.recipe(corpus, model=part()) for part in (StackedExperts, Unstated))
    found = table_of(stated, WIDE, BASE)
    assert (found.sites["experts"].fan_in, found.sites["experts"].fan_out) == (64, 64)
    assert found.scales["experts"].lr == 1 / M
    with pytest.raises(InputError, match="The role of tensor experts"):
        table_of(silent, WIDE, BASE)


def test_more_active_experts_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"Experts\(count=2, active=3\)"):
        Experts(count=2, active=3)
