"""Depth: stacks and residual branches found in models of others, the rule's exponents, real steps at depth 2 to 32."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from steps import adam, lamb, lion, muon, sgd
from torch import nn
from torch.nn import functional as F

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.recipe import Site
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.rules import Depth, MuP, complete_p, depth_mup
from windtunnel.scaling.table import ScaleTable

BASE, TARGET = (16, 2), (16, 8)
TOKENS = torch.randint(32, (2, 6), generator=torch.Generator().manual_seed(0))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


class Sequential(nn.Module):
    """x + a(norm x), then x + b(norm x)."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(width), MLP(width), MLP(width)

    def forward(self, x):
        x = x + self.first(self.norm(x))
        x += self.second(self.norm(x))  # in place, as some write it
        return x


class Parallel(Sequential):
    def forward(self, x):
        y = self.norm(x)
        return self.first(y) + self.second(y) + x


class Scaled(Sequential):
    """A gain, a dropout and a view between the branch's last layer and the stream."""

    def __init__(self, width):
        super().__init__(width)
        self.gain, self.drop = nn.Parameter(torch.ones(width)), nn.Dropout(0.1)

    def forward(self, x):
        x = x + self.drop(self.gain * self.first(self.norm(x)).flatten(0, 1)).view(x.shape)
        return x + 0.5 * self.second(self.norm(x))


class Nested(Sequential):
    """A branch with a residual addition of its own."""

    def forward(self, x):
        y = self.first(self.norm(x))
        return x + self.second(y + self.first(y))


class Inline(Sequential):
    """The second branch is no module's output."""

    def forward(self, x):
        x = x + self.first(self.norm(x))
        return x + F.gelu(self.second.up(self.norm(x)))[..., : x.shape[-1]]


class Net(nn.Module):
    def __init__(self, width, depth, block=Sequential):
        super().__init__()
        self.embedding, self.place = nn.Embedding(32, width), nn.Embedding(6, width)
        self.blocks = nn.ModuleList(block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 32, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.place.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def adopted(build=Net, base=BASE, target=TARGET, **more):
    return adopt(build, **{"base": base, "target": target, "optimizer": torch.optim.AdamW, "example": TOKENS, **more})


def of(block):
    return lambda width, depth: Net(width, depth, block)


# what is found


@pytest.mark.parametrize("block", [Sequential, Parallel], ids=lambda each: each.__name__)
def test_branches_of_plain_and_parallel_blocks_end_in_their_last_layers(block):
    residual = adopted(of(block)).table.residual
    assert residual == {f"blocks.{i}.{name}.down": 0.25 for i in range(8) for name in ("first", "second")}


def test_a_branch_is_followed_through_gains_dropout_and_views():
    roles = {"*.gain": "gain"}
    residual = adopted(of(Scaled), roles=roles).table.residual
    assert set(residual) == {f"blocks.{i}.{name}.down" for i in range(8) for name in ("first", "second")}


def test_an_addition_inside_a_branch_is_left_to_the_outer_one():
    assert set(adopted(of(Nested)).table.residual) == {f"blocks.{i}.second.down" for i in range(8)}


def test_what_no_module_returns_cannot_be_scaled_and_says_where():
    with pytest.raises(InputError, match=r"blocks\.0 adds to the stream what no module of it returns"):
        adopted(of(Inline))


def test_additions_outside_growing_stacks_are_left_alone():
    class Longer(Net):
        def forward(self, tokens):
            return super().forward(tokens) + 0

    build = lambda width, depth: nn.Sequential(Longer(width, depth), Sequential(32))  # noqa: E731
    assert all(name.startswith("0.blocks") for name in adopted(build, roles={"1.*weight": "hidden"}).table.residual)


def test_stated_branches_are_taken_as_they_are():
    table = adopted(branches=("*.first", "*.second.down")).table
    assert set(table.residual) == {f"blocks.{i}.{end}" for i in range(8) for end in ("first", "second.down")}
    with pytest.raises(InputError, match=r"No residual branch is known in blocks\.0 of build\(16, 8\)"):
        adopted(branches=("*.third",))


def test_a_stack_without_branches_is_refused_for_depth_and_taken_for_width():
    def build(width, depth):
        return nn.Sequential(
            nn.Linear(4, width), nn.Sequential(*(nn.Linear(width, width) for _ in range(depth))), nn.Linear(width, 3)
        )

    with pytest.raises(InputError, match="No residual branch was seen in 1: nothing"):
        adopted(build, example=torch.zeros(2, 4))
    assert adopted(build, target=(64, 8), rule=MuP()).table.scales["1.7.weight"].lr == 0.25


def test_a_forward_pass_that_fails_everywhere_says_how_to_go_on():
    with pytest.raises(InputError, match=r"forward pass fails.*on meta: .*; on cpu: .*branches="):
        adopted(example=torch.zeros(2, 6))
    with pytest.raises(InputError, match=r"must be known\. Give an input of a forward pass"):
        adopted(example=None)


def test_a_forward_pass_that_needs_values_is_made_on_the_cpu():
    class Peeks(Net):
        def forward(self, tokens):
            return super().forward(tokens[: int(tokens.max() >= 0) + 1])

    assert len(adopted(lambda width, depth: Peeks(width, depth)).table.residual) == 16


def test_blocks_that_are_used_several_times_are_refused():
    with pytest.raises(InputError, match="differ in depth, yet no list of numbered blocks grows"):
        adopted(lambda width, depth: Net(width, 1))


def test_sizes_of_two_kinds_are_refused():
    with pytest.raises(InputError, match=r"base is 16 and target \(16, 8\); give both as widths"):
        adopted(base=16)


def test_rungs_give_the_same_table_as_pairs():
    rungs = {"base": Rung(width=16, depth=2, tokens=1), "target": Rung(width=32, depth=8, tokens=1)}
    by_rung = adopted(lambda rung: Net(rung.width, rung.depth), **rungs).table
    assert by_rung == adopted(target=(32, 8)).table


# what is done with it


def test_hooks_scale_the_branches_and_fold_into_the_weights():
    scales, model = adopted(target=(32, 8)), Net(32, 8)
    scales.initialize(model, seed=0)
    bare = copy.deepcopy(model)
    expected = scales.attach(model)(TOKENS)
    torch.testing.assert_close(copy.deepcopy(model)(TOKENS), expected)
    torch.testing.assert_close(scales.fold(bare)(TOKENS), expected)
    assert not torch.allclose(Net(32, 8)(TOKENS), expected)
    assert ScaleTable.from_json(scales.table.to_json()) == scales.table


def test_a_branch_without_a_last_weight_is_not_folded():
    scales = adopted(branches=("*.first", "*.second"))
    with pytest.raises(InputError, match=r"branch that ends in blocks\.0\.first has no last weight"):
        scales.fold(Net(*TARGET))


def test_at_the_bases_depth_nothing_changes():
    assert adopted(target=(64, 2)).table == adopted(target=(64, 2), rule=MuP()).table


# the rule (2505.01618, 2310.02244; `grown` is the growth of the depth, 4)

BLOCK = Site(role="hidden", shape=(64, 64), fan_in=64, fan_out=64, layers=8)
VECTOR = Site(role="gain", shape=(64,), fan_in=1, fan_out=64, layers=8)


def at_base(site):
    wide = {"shape": tuple(n // 2 for n in site.shape), "fan_out": site.fan_out // 2, "layers": 2}
    return Site(role=site.role, fan_in=max(1, site.fan_in // 2), **wide)


@pytest.mark.parametrize("rule, alpha", [(complete_p(), 1.0), (depth_mup(), 0.5)])
def test_factors_of_adam_are_those_of_the_literature(rule, alpha):
    matrix, vector = (rule.scale(site, at_base(site), "entrywise") for site in (BLOCK, VECTOR))
    assert (matrix.residual, matrix.lr, matrix.eps) == pytest.approx((4**-alpha, 4 ** (alpha - 1) / 2, 4**-alpha / 2))
    assert (vector.lr, vector.eps) == pytest.approx((4 ** (alpha - 1), 4**-alpha / 2))
    assert matrix.lr * matrix.decay == pytest.approx(1.0) and vector.decay == 0.0


def test_sgd_with_the_square_root_keeps_its_rate():
    """Depth-muP's SGD (2310.02244): the rate does not change; with alpha 1 it grows with the depth."""
    rates = [rule.scale(BLOCK, at_base(BLOCK), "gradient").lr for rule in (depth_mup(), complete_p())]
    assert rates == pytest.approx([1.0, 4.0])


def test_tensors_outside_the_stack_have_no_depth_factor():
    table = adopted().table
    for name in ("embedding.weight", "place.weight", "norm.weight", "head.weight"):
        assert table.scales[name] == adopted(rule=MuP()).table.scales[name]


# epsilon


class Flat(Sequential):
    def forward(self, x):
        x = x + self.first(self.norm(x))
        return x + self.second(self.norm(x))


def gradients(size, base, seed):
    """Root mean square gradient and epsilon factor of the tensors of the first block and outside, at first."""
    scales, model = adopted(of(Flat), base=base, target=size), Net(*size, Flat)
    scales.initialize(model, seed=seed)
    scales.attach(model)
    tokens = torch.randint(32, (64, 6), generator=torch.Generator().manual_seed(seed))
    F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    named = {n: p for n, p in model.named_parameters() if not n.startswith("blocks.") or n.startswith("blocks.0.")}
    return {n: (float(p.grad.square().mean().sqrt()), scales.table.scales[n].eps) for n, p in named.items()}


@pytest.mark.parametrize(
    "sizes", [[(w, 2) for w in (32, 64, 128, 256)], [(32, d) for d in (2, 4, 8, 16)]], ids=["width", "depth"]
)
def test_epsilon_follows_the_gradients_of_every_tensor(sizes):
    """The final norm's is steeper than its rule at first, as muP's random logits start as 1/sqrt(width)."""
    growth = [np.log(np.prod(size)) for size in sizes]
    found = [[gradients(size, sizes[0], seed) for size in sizes] for seed in (0, 1)]
    for name in found[0][0]:
        logs = np.log([[at[name] for at in each] for each in found]).mean(axis=0)
        grad, eps = np.polyfit(growth, logs, 1)[0]
        assert abs(grad - eps) < (0.6 if name.startswith("norm.") else 0.3), (name, grad, eps)


# real steps

DEPTHS = (2, 4, 8, 16, 32)
WIDTH, STEPS, MOVE = 32, 3, 0.02


def moved(rule, geometry, step, depth, rates, seed):
    """How far a few steps in the blocks alone move the stream (root mean square), at the base's rates for the rule.

    Residual blocks stream + multiplier B tanh(A norm stream), 10 classes of a random teacher. Rates at the base are
    those whose first step moves a block's own output by MOVE; `rates` holds them, and is filled by the first call.
    """
    generator = torch.Generator().manual_seed(seed)
    site = Site(role="hidden", shape=(WIDTH, WIDTH), fan_in=WIDTH, fan_out=WIDTH, layers=depth)
    scale = rule.scale(site, Site(role="hidden", shape=(WIDTH, WIDTH), fan_in=WIDTH, fan_out=WIDTH, layers=2), geometry)
    weights = [torch.randn(WIDTH, WIDTH, generator=generator) * WIDTH**-0.5 for _ in range(2 * depth)]
    readout = torch.randn(10, WIDTH, generator=generator) / WIDTH
    start, x = list(weights), torch.randn(64, WIDTH, generator=generator)
    classes = (x @ torch.randn(WIDTH, 10, generator=torch.Generator().manual_seed(9))).argmax(dim=1)
    states: list[dict] = [{} for _ in weights]
    for _ in range(STEPS):
        leaves = [w.clone().requires_grad_() for w in weights]
        loss = F.cross_entropy(stream(leaves, x, scale.residual) @ readout.T, classes)
        directions = [step(s, g, w) for s, g, w in zip(states, torch.autograd.grad(loss, leaves), weights, strict=True)]
        rate = rates.setdefault("rate", float(MOVE / (x @ directions[0].T).square().mean().sqrt())) * scale.lr
        weights = [w - rate * d for w, d in zip(weights, directions, strict=True)]
    return float((stream(weights, x, scale.residual) - stream(start, x, scale.residual)).square().mean().sqrt())


def stream(weights, x, multiplier):
    for inner, outer in zip(weights[::2], weights[1::2], strict=True):
        normed = x / x.square().mean(-1, keepdim=True).sqrt()
        x = x + multiplier * torch.tanh(normed @ inner.T) @ outer.T
    return x


def slope(rule, geometry, step):
    """Slope of the log of `moved` over log depth, mean of three seeds."""
    found = []
    for seed in range(3):
        rates: dict = {}
        logs = [np.log(moved(rule, geometry, step, depth, rates, seed)) for depth in DEPTHS]
        found.append(np.polyfit(np.log(DEPTHS), logs, 1)[0])
    return float(np.mean(found))


OPTIMIZERS = [("gradient", sgd), ("entrywise", adam), ("entrywise", lion), ("spectral", muon), ("relative", lamb)]
CASES = [(alpha, geometry, step) for alpha in (0.5, 1.0) for geometry, step in OPTIMIZERS]


@pytest.mark.slow
@pytest.mark.parametrize("alpha, geometry, step", CASES, ids=lambda each: getattr(each, "__name__", str(each)))
def test_real_steps_move_the_stream_as_much_at_every_depth(alpha, geometry, step):
    """Slow: trains networks of up to 32 blocks; the only oracle of the depth rule that knows no exponent."""
    assert abs(slope(Depth(alpha=alpha), geometry, step)) < 0.15


@pytest.mark.parametrize("geometry, step", [("entrywise", adam), ("spectral", muon)])
def test_without_the_rule_deeper_streams_move_more(geometry, step):
    assert slope(MuP(), geometry, step) > 0.3


def test_a_multiplier_without_its_rate_shows():
    """SGD's rate for alpha 1/2 used with alpha 1, and Adam's the other way round."""
    assert slope(Mixed(residual=1.0, rate=0.5), "gradient", sgd) < -0.3
    assert slope(Mixed(residual=0.5, rate=1.0), "entrywise", adam) > 0.3


class Mixed:
    def __init__(self, residual, rate):
        self.residual, self.rate = Depth(alpha=residual), Depth(alpha=rate)

    def scale(self, site, base, geometry):
        return replace(self.residual.scale(site, base, geometry), lr=self.rate.scale(site, base, geometry).lr)
