"""Ideas that change the network: what each leaves as it was, what it adds, and what of it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.conformance.cost import costs
from windtunnel.conformance.finding import Mark
from windtunnel.conformance.subject import Subject, bench
from windtunnel.errors import InputError
from windtunnel.ideas.invariant_hypernetwork import Generated, Hypernetwork, SmoothedByStrength
from windtunnel.ideas.lora_sb import OfFirstStep, lora_sb
from windtunnel.ideas.nested_widths import Nested, PrefixLoss, take
from windtunnel.ideas.random_subspace import Subspace
from windtunnel.ideas.sparse_spectral import SparseSpectral
from windtunnel.ideas.wider_not_deeper import shared_norms, wider_not_deeper
from windtunnel.parts.models import Transformer
from windtunnel.parts.models.experts import Experts
from windtunnel.parts.models.transformer import GELU
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamWOn
from windtunnel.parts.phases import Adapting
from windtunnel.parts.transforms import LowRank
from windtunnel.recipe import Site
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.pack import build_model, table_of

RUNG = wt.Rung(width=16, depth=2, heads=2, tokens=tiny.TOKENS, batch=tiny.BATCH)
MODEL = Transformer()
ADDED = {
    "low rank": LowRank(of=MODEL, rank=3, where="blocks.*"),
    "core": LowRank(of=MODEL, rank=3, core=True),
    "subspace": Subspace(dimensions=20),
    "nested": Nested(),
    "hypernetwork": Hypernetwork(of=MODEL, features=4),
    "plain hypernetwork": Hypernetwork(of=MODEL, features=4, invariant=False),
}
TOKENS = torch.randint(0, 256, (8, tiny.CONTEXT), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", ADDED.values(), ids=list(ADDED))
def test_changed_networks_count_their_parameters_and_pack(corpus, transform):
    recipe = tiny.recipe(corpus, transforms=(transform,))
    pack = tiny.pack(recipe, [{"lr": 0.003}, {"lr": 0.01}], rung=RUNG)  # the engine compares counts with size()
    for member, run in enumerate(train(pack, device=tiny.CPU)):
        (alone,) = train(pack.part([member]), device=tiny.CPU, packed=False)
        np.testing.assert_allclose(run.curve["train_loss"], alone.curve["train_loss"], rtol=1e-5)


@pytest.mark.parametrize("transform", [ADDED["low rank"], ADDED["core"], ADDED["subspace"]], ids=["low", "core", "sub"])
def test_an_adapted_network_begins_as_what_it_was(corpus, transform):
    plain, changed = (tiny.recipe(corpus, transforms=added) for added in ((), (transform,)))
    outputs = []
    for recipe in (plain, changed):
        engine = Engine(tiny.pack(recipe, [{"lr": 0.01}], rung=RUNG), tiny.CPU, False)
        model, state = engine.model, engine.start()
        weights = {
            n: t for g, p in zip(engine.groups, state.params, strict=True) for n, t in zip(g.names, p[0], strict=True)
        }
        outputs.append(torch.func.functional_call(model, weights, (TOKENS,)))
    torch.testing.assert_close(outputs[0], outputs[1])


def test_a_transform_states_roles_and_a_wrong_one_is_named(corpus):
    recipe = tiny.recipe(corpus, transforms=(ADDED["core"],))
    sites = table_of(recipe, RUNG, RUNG.but(width=8)).sites
    assert {sites[f"blocks.0.mlp.down.{name}"].role for name in ("left", "right", "core")} == {
        "bias",
        "hidden",
        "fixed",
    }
    scales = table_of(recipe, RUNG, RUNG.but(width=8)).scales
    assert scales["blocks.0.mlp.up.right"].lr == 0.5 and scales["blocks.0.mlp.up.left"].lr == 1.0
    assert recipe.but(transforms=()).roles() == {}
    both = recipe.but(model=Transformer(mlp=Experts())).roles()
    assert both["*.router.weight"] == "router" and both["*.core"] == "fixed"


def test_only_named_tensors_are_trained(corpus):
    recipe = tiny.recipe(corpus, transforms=(ADDED["low rank"],), optimizer=AdamWOn(where="*.left, readout*"))
    pack = tiny.pack(recipe, [{"lr": 0.01}], rung=RUNG)
    engine = Engine(pack, tiny.CPU, True)
    state = engine.start()
    before = [p.clone() for p in state.params]
    for _ in range(3):
        engine.advance(state)
    for group, old, new in zip(engine.groups, before, state.params, strict=True):
        for i, name in enumerate(group.names):
            changed = not torch.equal(old[:, i], new[:, i])
            assert changed == (name.endswith(".left") or name.startswith("readout")), name
    with pytest.raises(InputError, match=r"trains nothing.*blocks.0.attention"):
        train(tiny.pack(recipe.but(optimizer=AdamWOn(where="nothing")), [{"lr": 0.01}], rung=RUNG), device=tiny.CPU)


def test_lora_sb_begins_where_the_first_step_cut_to_the_rank_leads():
    draw = torch.Generator().manual_seed(0)
    before = {"blocks.0.up.weight": torch.randn(12, 7, generator=draw), "readout.weight": torch.zeros(3, 7)}
    step = torch.randn(12, 7, generator=draw).sign()
    ended = {
        "pretrained": before,
        "one step": {n: w + (step if w.ndim and n[0] == "b" else 0) for n, w in before.items()},
    }
    found = OfFirstStep(rank=3)(ended)
    left, core, right = (found[f"blocks.0.up.{name}"] for name in ("left", "core", "right"))
    assert set(found) == {"blocks.0.up.left", "blocks.0.up.core", "blocks.0.up.right"}
    torch.testing.assert_close(left.T @ left, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(right @ right.T, torch.eye(3), atol=1e-5, rtol=0)
    u, s, v = torch.linalg.svd(step)
    torch.testing.assert_close(left @ core @ right, u[:, :3] * s[:3] @ v[:3], atol=1e-4, rtol=0)


def test_adapting_spends_the_rungs_tokens_and_pretrains_the_same_at_any_rate(corpus):
    recipe = lora_sb(tiny.recipe(corpus), rank=2)
    rung = RUNG.but(tokens=4096)
    stretches = recipe.phases.stretches(recipe.but(phases=None), rung)
    assert [s.name for s in stretches] == ["pretrained", "one step", "adapted"]
    assert sum(s.rung.tokens for s in stretches) == 4096 and stretches[0].recipe.tuned_fields() == {}
    runs = train(tiny.pack(recipe, [{"lr": 1e-3}, {"lr": 1e-1}], rung=rung, seeds=[0, 0]), device=tiny.CPU)
    steps = stretches[0].rung.tokens // (tiny.BATCH * tiny.CONTEXT)
    one, other = (run.curve["train_loss"] for run in runs)
    assert (one[:steps] == other[:steps]).all() and (one[steps + 2 :] != other[steps + 2 :]).any()
    with pytest.raises(InputError, match="nothing to begin from"):
        Adapting(share=0.0, step_of=4)


def test_every_weight_follows_one_coordinate_and_nothing_is_kept_in_buffers(corpus):
    model = build_model(tiny.recipe(corpus, transforms=(ADDED["subspace"],)), RUNG)
    layer: Any = model.get_submodule("blocks.0.mlp.up")
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    one = torch.zeros(20)
    one[5] = 1.0
    moved = one[layer.follows] * layer.signs
    assert set(moved.unique().tolist()) <= {-0.25, 0.0, 0.25} and 0.01 < float((moved != 0).float().mean()) < 0.12


def test_a_prefix_is_the_smaller_network(corpus):
    """With the first units' weights, its inputs' rows larger by what RMSNorm makes of the zeros."""
    draw, rung = torch.Generator().manual_seed(1), RUNG.but(width=32, heads=4)
    recipe = tiny.recipe(corpus, model=Transformer(mlp=GELU))  # whose hidden width is a multiple of the width
    nested = build_model(recipe.but(transforms=(Nested(),)), rung)
    small = build_model(recipe, rung.but(width=16, heads=2))
    with torch.no_grad():
        for parameter in nested.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.2)
        for name, parameter in small.named_parameters():
            first = nested.get_parameter(name)[: parameter.shape[0], : parameter.shape[1]]
            after_norm = name.split(".")[-2] in ("query", "key", "value", "up", "readout")
            parameter.copy_(first * 2**0.5 if after_norm else first)
    take(nested, 0.5)
    # not to the last digit, for RMSNorm's eps weighs more among zeros
    torch.testing.assert_close(nested(TOKENS), small(TOKENS), rtol=1e-3, atol=1e-3)
    take(nested, None)


def test_nested_networks_are_judged_whole_and_trained_by_prefixes(corpus):
    recipe = tiny.recipe(corpus, transforms=(Nested(),))
    model = build_model(recipe, RUNG)
    plain = build_model(recipe.but(transforms=()), RUNG)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(TOKENS), plain(TOKENS))
    model.train()
    for place in range(8):  # the fourth and eighth example see all units
        same = torch.allclose(model(TOKENS)[place], plain(TOKENS)[place], atol=1e-5)
        assert same == (place % 4 == 3)
    found = PrefixLoss()(model.eval(), [(TOKENS, TOKENS)])
    whole = CrossEntropy()(plain(TOKENS), TOKENS).mean().item()
    assert found["loss_at_1"] == pytest.approx(whole, rel=1e-5) and len(found) == 4


def test_one_block_does_not_grow_with_depth_but_for_its_norms(corpus):
    base = tiny.recipe(corpus)
    for idea, norms in ((wider_not_deeper, 2 * 16), (shared_norms, 0)):
        recipe = idea(base)
        counts = [sum(p.numel() for p in build_model(recipe, RUNG.but(depth=d)).parameters()) for d in (1, 2, 5)]
        assert counts == [recipe.size(RUNG.but(depth=d)).total for d in (1, 2, 5)]
        assert counts[1] - counts[0] == norms and counts[2] - counts[0] == 4 * norms
    with pytest.raises(InputError, match="made of a Transformer"):
        wider_not_deeper(wt.recipes.mlp_mup_sgd(data=wt.data.digits()))


def test_a_network_that_uses_a_module_twice_is_whole_again_after_training(corpus):
    """Else a probe gets a copy of the pack's tensors, or none."""
    for slots in ({"model": wider_not_deeper(tiny.recipe(corpus)).model}, {"model": Transformer(tied=True)}):
        pack = tiny.pack(tiny.recipe(corpus, **slots), [{"lr": 0.01}, {"lr": 0.003}], rung=RUNG)
        engine = Engine(pack, tiny.CPU, True)
        state, own = engine.start(), {id(p) for p in engine.model.parameters()}
        for _ in range(2):
            engine.advance(state)
        assert {id(p) for p in engine.model.parameters()} == own


def test_what_idle_experts_compute_here_is_not_a_cost_that_an_idea_hides():
    subject = Subject(wider_not_deeper, Path(__file__), bench())
    found = costs(subject)
    assert found.mark is Mark.PASSED and subject.recipe.size(RUNG).idle > 0, found


def test_spectral_factors_stay_the_weight_and_few_vectors_move_a_round():
    rule = SparseSpectral(lr=0.01, round_steps=4.0, rounds=2.0)
    site = Site(role="hidden", shape=(24, 16), fan_in=16, fan_out=24)
    draw = torch.Generator().manual_seed(0)
    param = torch.randn(24, 16, generator=draw) / 4
    hp = {n: torch.tensor(getattr(rule, n), dtype=torch.float64) for n in ("lr", "beta1", "beta2", "weight_decay")}
    hp["key"] = torch.tensor(3.0, dtype=torch.float64)
    state, moved = rule.init(param, site), []
    for step in range(16):
        old = state
        change, state = rule.update(torch.randn(24, 16, generator=draw), state, param, hp, site)
        param = param + change
        product = state["left"] * state["values"] @ state["right"].T
        torch.testing.assert_close(product, param, atol=1e-5, rtol=1e-4)
        if (step + 1) % 8 == 0:
            for side in ("left", "right"):
                off = state[side].T @ state[side] - torch.eye(16)
                assert off.abs().max() < 1e-4  # the bar of the idea's check
        else:
            moved.append(((state["left"] - old["left"]).abs().amax(0) > 1e-7).nonzero().flatten().tolist())
            assert len(moved[-1]) == 2 and (state["values"] != old["values"]).all()
    assert moved[0] == moved[1] == moved[2] and len({tuple(m) for m in moved}) > 1  # drawn anew in each round


def test_plain_hypernetworks_are_proportional_to_their_input_and_invariant_ones_are_not():
    spread = {}
    for invariant in (True, False):
        layer = torch.nn.Linear(16, 16, bias=False)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: Any = Hypernetwork(of=MODEL, features=16, invariant=invariant)(
                torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Linear(16, 4))
            )
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.25)
        made = model[0]
        assert isinstance(made, Generated)
        norms = made.generated(8).detach().flatten(1).norm(dim=1)
        spread[invariant] = float(norms.max() / norms.min())
    assert spread[False] == pytest.approx(15.0, rel=1e-4)  # strengths are 1/16 to 15/16
    assert spread[True] < 1.5


def test_labels_are_smoothed_by_each_examples_strength():
    outputs = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2]] * 4)
    found = SmoothedByStrength(most=0.4)(outputs, targets)
    for i, strength in enumerate((0.125, 0.375, 0.625, 0.875)):
        smoothed = CrossEntropy(smoothing=0.4 * strength)(outputs[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], smoothed)
