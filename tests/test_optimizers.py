"""Stock optimizers and schedules against torch's, through the engine's own update, on the same gradients.

Every case has two members with different numbers and two tensors of one site, so that the batching is tested as well.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import steps as plain
import torch
from torch import nn

from windtunnel.errors import InputError
from windtunnel.parts.optimizers import LAMB, LARS, SGD, AdamAtan2, AdamW, Lion, Muon, Shampoo
from windtunnel.parts.optimizers.muon import orthogonalize
from windtunnel.parts.optimizers.shampoo import inverse_root
from windtunnel.parts.schedules import WSD, Constant, Cosine
from windtunnel.recipe import Site
from windtunnel.scaling.table import Scale
from windtunnel.train.pack import Group, stacked_hyperparameters
from windtunnel.train.steps import first_states, update

CPU = torch.device("cpu")
STEPS = 6


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def group(shape, role="hidden", **scale):
    site = Site(role=role, shape=shape, fan_in=shape[-1], fan_out=shape[0])
    return Group(site, Scale(init_std=1.0, **scale), ("first", "second"))


def ours(optimizers, groups, packed=True, dtype=torch.float32):
    """Parameters (member, tensor, ...) of each group after every step."""
    params = [draw(len(optimizers), 2, *g.site.shape, seed=i, dtype=dtype) for i, g in enumerate(groups)]
    states = first_states(groups, optimizers[0], params, packed)
    step, hps = update(groups, optimizers[0], packed), stacked_hyperparameters(groups, optimizers, CPU)
    after = [params]
    for k in range(STEPS):
        grads = [draw(*p.shape, seed=100 + 10 * k + i, dtype=dtype) for i, p in enumerate(params)]
        params, states = step(params, grads, states, hps)
        after.append(params)
    return after


def torchs(make, members, groups, dtype=torch.float32):
    """The same for an optimizer of torch, one for each member."""
    start = [draw(members, 2, *g.site.shape, seed=i, dtype=dtype) for i, g in enumerate(groups)]
    after = [[torch.empty_like(p) for p in start] for _ in range(STEPS + 1)]
    for m in range(members):
        leaves = [[nn.Parameter(p[m, j].clone()) for j in range(2)] for p in start]
        optimizer = make(m, [leaf for pair in leaves for leaf in pair])
        for k in range(STEPS + 1):
            for i, pair in enumerate(leaves):
                for j, leaf in enumerate(pair):
                    after[k][i][m, j] = leaf.detach()
                    leaf.grad = draw(members, 2, *leaf.shape, seed=100 + 10 * k + i, dtype=dtype)[m, j]
            optimizer.step()
    return after


GROUPS = [group((6, 4)), group((3,), role="gain")]
ADAMS = [
    (AdamW(lr=0.01), AdamW(lr=0.1, beta1=0.5, beta2=0.7)),
    (AdamW(lr=0.01, weight_decay=0.3, eps=0.1), AdamW(lr=0.02, weight_decay=0.0, eps=1e-3)),
]
SGDS = [
    (SGD(lr=0.01, momentum=0.0), SGD(lr=0.1, momentum=0.9)),
    (SGD(lr=0.01, momentum=0.9, weight_decay=0.2), SGD(lr=0.3, momentum=0.5, weight_decay=0.0)),
]


@pytest.mark.parametrize("pair", ADAMS)
def test_adamw_is_torch_s(pair):
    def make(member, leaves):
        o = pair[member]
        return torch.optim.AdamW(leaves, o.lr, (o.beta1, o.beta2), o.eps, o.weight_decay)

    torch.testing.assert_close(ours(pair, GROUPS), torchs(make, 2, GROUPS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", [*ADAMS, *SGDS])
def test_without_batching_an_update_is_the_same(pair):
    alone = ours(pair[:1], GROUPS, packed=False)
    torch.testing.assert_close(alone, ours(pair[:1], GROUPS), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pair", SGDS)
def test_sgd_is_torch_s(pair):
    def make(member, leaves):
        o = pair[member]
        return torch.optim.SGD(leaves, o.lr, momentum=o.momentum, weight_decay=o.weight_decay)

    torch.testing.assert_close(ours(pair, GROUPS), torchs(make, 2, GROUPS), rtol=1e-5, atol=1e-6)


class PaperLion(torch.optim.Optimizer):
    """Algorithm 2 of 2302.06675, tensor by tensor."""

    def __init__(self, leaves, o):
        super().__init__(leaves, {})
        self.o, self.m = o, {leaf: torch.zeros_like(leaf) for leaf in leaves}

    @torch.no_grad()
    def step(self, closure=None):
        for leaf, m in self.m.items():
            c = self.o.beta1 * m + (1 - self.o.beta1) * leaf.grad
            leaf -= self.o.lr * (torch.sign(c) + self.o.weight_decay * leaf)
            m.copy_(self.o.beta2 * m + (1 - self.o.beta2) * leaf.grad)


def test_lion_is_the_paper_s():
    pair = (Lion(lr=0.01, weight_decay=0.1), Lion(lr=0.1, beta1=0.5, beta2=0.6))
    reference = torchs(lambda member, leaves: PaperLion(leaves, pair[member]), 2, GROUPS)
    torch.testing.assert_close(ours(pair, GROUPS), reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (12, 6)])
def test_muon_is_torch_s_up_to_its_sixteen_bits(shape):
    """torch iterates in bfloat16, so a step's entries agree to about two digits; its sqrt(max(1, rows/columns)) is our
    sqrt(fan_out / fan_in) for matrices that are not wide."""
    pair = (Muon(lr=0.1, weight_decay=0.2, others_lr=0.1), Muon(lr=0.02, momentum=0.5, others_lr=0.1))

    def make(member, leaves):
        o = pair[member]
        return torch.optim.Muon(leaves, o.lr, o.weight_decay, momentum=o.momentum, nesterov=True)

    groups = [group(shape)]
    mine, reference = ours(pair, groups), torchs(make, 2, groups)
    for member, o in enumerate(pair):
        moved = mine[-1][0][member] - mine[0][0][member]
        there = reference[-1][0][member] - reference[0][0][member]
        assert (moved - there).norm() / there.norm() < 0.03, o


def test_muon_treats_what_is_not_hidden_as_adamw():
    muons = (Muon(lr=0.01, others_lr=0.005), Muon(lr=0.1, others_lr=0.2))
    adams = (AdamW(lr=0.005), AdamW(lr=0.2))
    groups = [group((6, 4), role="embedding"), group((3,), role="gain")]
    torch.testing.assert_close(ours(muons, groups), ours(adams, groups))


class Plain(torch.optim.Optimizer):
    """A direction of tests/steps.py, tensor by tensor."""

    def __init__(self, leaves, direction, lr):
        super().__init__(leaves, {})
        self.direction, self.lr, self.states = direction, lr, {leaf: {} for leaf in leaves}

    @torch.no_grad()
    def step(self, closure=None):
        for leaf, state in self.states.items():
            leaf -= self.lr * self.direction(state, leaf.grad, leaf)


def corrected_shampoo(state, grad, param):
    """steps.shampoo has means of squares that start at zero; two fourth roots of their correction make one half."""
    return plain.shampoo(state, grad, param) * (1 - 0.95 ** state["count"]) ** 0.5


WRITTEN_OUT = [
    (plain.lamb, lambda lr: LAMB(lr=lr, beta2=0.95, eps=1e-20)),
    (plain.adam_atan2, lambda lr: AdamAtan2(lr=lr)),
    (corrected_shampoo, lambda lr: Shampoo(lr=lr, others_lr=0.1, damping=1e-10)),
]


@pytest.mark.parametrize("direction, part", WRITTEN_OUT, ids=lambda each: getattr(each, "__name__", "part"))
def test_an_optimizer_is_its_plain_form(direction, part):
    pair, groups = (part(0.01), part(0.1)), [group((6, 6)), group((7, 4))]
    reference = torchs(lambda m, leaves: Plain(leaves, direction, pair[m].lr), 2, groups, torch.float64)
    torch.testing.assert_close(ours(pair, groups, dtype=torch.float64), reference, rtol=1e-6, atol=1e-7)


def test_lamb_is_the_paper_s_with_decay_and_moves_vectors_as_adam_does():
    pair = (LAMB(lr=0.01, weight_decay=0.5), LAMB(lr=0.1, beta1=0.5))
    adams = [AdamW(lr=o.lr, beta1=o.beta1, beta2=o.beta2, eps=o.eps) for o in (LAMB(lr=0.01), pair[1])]
    gains = [group((3,), role="gain", decay=0.0)]
    torch.testing.assert_close(ours(pair, gains), ours(adams, gains))

    def paper(state, grad, param):
        mean, square = (0.9 * state.get("m", 0) + 0.1 * grad, 0.999 * state.get("v", 0) + 0.001 * grad**2)
        state |= {"m": mean, "v": square, "t": state.get("t", 0) + 1}
        r = mean / (1 - 0.9 ** state["t"]) / ((square / (1 - 0.999 ** state["t"])).sqrt() + 1e-6) + 0.5 * param
        return r * param.norm() / r.norm()

    reference = torchs(lambda m, leaves: Plain(leaves, paper, 0.01), 1, GROUPS[:1])
    torch.testing.assert_close(ours(pair[:1], GROUPS[:1]), reference, rtol=1e-5, atol=1e-6)


def test_lars_is_the_paper_s():
    """Its steps.lars has another momentum; this is Algorithm 1, and SGD for what has no fan-in."""
    pair = (LARS(lr=0.01, weight_decay=0.5), LARS(lr=0.1, momentum=0.5))
    gains, sgds = [group((3,), role="gain")], (SGD(lr=0.01, weight_decay=0.5), SGD(lr=0.1, momentum=0.5))
    torch.testing.assert_close(ours(pair, gains), ours(sgds, gains))

    def paper(state, grad, param):
        local = param.norm() / (grad + 0.5 * param).norm()
        state["v"] = 0.9 * state.get("v", 0) + local * (grad + 0.5 * param)
        return state["v"]

    reference = torchs(lambda m, leaves: Plain(leaves, paper, 0.01), 1, GROUPS[:1])
    torch.testing.assert_close(ours(pair[:1], GROUPS[:1]), reference, rtol=1e-5, atol=1e-6)


def test_an_angle_does_not_change_with_the_gradients_size():
    step = first_step(AdamAtan2(lr=1.0), draw(5, 4))
    torch.testing.assert_close(step, first_step(AdamAtan2(lr=1.0), 1e-6 * draw(5, 4)))
    torch.testing.assert_close(step.abs(), torch.full((5, 4), torch.pi / 4))


def test_a_tensor_of_zeros_moves_under_lamb():
    moved = LAMB(lr=0.1).update(draw(6, 4), LAMB().init(torch.zeros(6, 4), GROUPS[0].site), torch.zeros(6, 4),
                                {"lr": 0.1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.0},
                                GROUPS[0].site)[0]  # fmt: skip
    torch.testing.assert_close(moved.abs(), torch.full((6, 4), 0.1), rtol=1e-3, atol=0)


def first_step(optimizer, grad):
    site = group(tuple(grad.shape)).site
    hp = {f.name: getattr(optimizer, f.name) for f in fields(optimizer)}
    return optimizer.update(grad, optimizer.init(grad, site), torch.zeros_like(grad), hp, site)[0]


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12), (6, 4, 3, 3)])
@pytest.mark.parametrize("largest", [5, 100])
def test_shampoo_s_first_step_is_orthogonal_with_one_side_or_two(shape, largest):
    """Also for a convolution, whose kernel is one matrix (out, in x rows x columns)."""
    grad = 0.01 * draw(*shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(grad.flatten(1), full_matrices=False)
    step = first_step(Shampoo(lr=1.0, others_lr=1.0, damping=1e-12, largest=largest), grad)
    torch.testing.assert_close(step.flatten(1), -left @ right, rtol=1e-4, atol=1e-5)


def test_a_side_that_is_too_long_holds_no_preconditioner():
    state = Shampoo(largest=8).init(torch.zeros(4, 9), group((4, 9)).site)
    assert {name: tuple(t.shape) for name, t in state.items()} == {"mean": (4, 9), "steps": (), "left": (4, 4)}


def test_roots_undo_powers_and_pass_what_is_not_finite():
    a = draw(6, 6, dtype=torch.float64)
    root = inverse_root(a @ a.mT, 2, 0.0)
    identity = torch.linalg.matrix_power(root, 4) @ (a @ a.mT)
    torch.testing.assert_close(identity, torch.eye(6, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert torch.equal(inverse_root(torch.zeros(3, 3), 2, 1e-6), torch.zeros(3, 3))
    for bad in (torch.nan, torch.inf):
        assert inverse_root(torch.full((3, 3), bad), 2, 1e-6).shape == (3, 3)  # eigh alone raises: a pack would stop


@pytest.mark.parametrize("shape", [(8, 8), (16, 4), (4, 16), (1, 5)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    x = draw(*shape, dtype=torch.float64)
    out = orthogonalize(x, rounds=5)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    kept = torch.linalg.multi_dot([u.T, out, vt.T])  # diagonal if the singular vectors are those of x
    torch.testing.assert_close(kept, torch.diag(kept.diagonal()), atol=1e-8, rtol=0)
    torch.testing.assert_close(orthogonalize(1000 * x, rounds=5), out, atol=1e-5, rtol=0)


def test_a_muon_step_does_not_depend_on_the_size_of_the_gradient():
    site = group((8, 8)).site
    muon, hp = Muon(lr=0.1), {"momentum": torch.tensor(0.0), "lr": torch.tensor(0.1), "weight_decay": torch.tensor(0.0)}
    steps = []
    for size in (1.0, 100.0):
        grad = size * draw(8, 8)
        steps.append(muon.update(grad, muon.init(grad, site), torch.zeros(8, 8), hp, site)[0])
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.01, weight_decay=0.1), Lion(lr=0.01, weight_decay=0.1)])
def test_a_scale_multiplies_the_step_and_keeps_the_shrink(optimizer):
    plain, scaled = (ours([optimizer], [g])[:2] for g in (group((6, 4)), group((6, 4), lr=0.25, decay=4.0)))
    (start, full), (_, quarter) = ((at[0] for at in each) for each in (plain, scaled))
    shrink = -0.01 * 0.1 * start
    torch.testing.assert_close(quarter - start - shrink, 0.25 * (full - start - shrink), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(lr=0.01),
        SGD(lr=0.01),
        Lion(lr=0.01),
        Muon(lr=0.01),
        LAMB(lr=0.01),
        LARS(lr=0.01),
        AdamAtan2(lr=0.01),
        Shampoo(lr=0.01, others_lr=0.01),
    ],
)
def test_an_optimizer_changes_neither_shape_nor_precision(optimizer):
    site, grad = group((6, 4)).site, draw(6, 4)
    hp = {
        f.name: torch.tensor(float(v)) for f in fields(optimizer) if isinstance(v := getattr(optimizer, f.name), float)
    }
    state = optimizer.init(grad, site)
    step, new = optimizer.update(grad, state, grad, hp, site)
    assert (step.shape, step.dtype) == (grad.shape, grad.dtype)
    assert {n: (t.shape, t.dtype) for n, t in new.items()} == {n: (t.shape, t.dtype) for n, t in state.items()}


# schedules


def from_torch(scheduler, steps, *args, **options):
    """The multipliers of one of torch's schedulers, step by step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    made = scheduler(optimizer, *args, **options)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def from_us(schedule, steps):
    return [schedule(step, steps) for step in range(steps + 1)]


def test_cosine_is_torch_s_cosine():
    reference = from_torch(torch.optim.lr_scheduler.CosineAnnealingLR, 20, T_max=20, eta_min=0.1)
    np.testing.assert_allclose(from_us(Cosine(warmup=0, floor=0.1), 20), reference, atol=1e-12)


def test_warm_up_is_torch_s_linear_one():
    reference = from_torch(torch.optim.lr_scheduler.LinearLR, 20, start_factor=1e-12, total_iters=5)
    for schedule in (Constant(warmup=0.25), WSD(warmup=0.25, decay=0.1)):
        np.testing.assert_allclose(from_us(schedule, 20)[:18], reference[:18], atol=1e-9)


def test_the_decay_of_wsd_is_torch_s_linear_one():
    reference = from_torch(torch.optim.lr_scheduler.LinearLR, 5, start_factor=1.0, end_factor=0.1, total_iters=5)
    np.testing.assert_allclose(from_us(WSD(warmup=0, decay=0.25, floor=0.1), 20)[15:], reference, atol=1e-12)


@pytest.mark.parametrize("schedule", [Constant(warmup=0.1), Cosine(), WSD()])
def test_a_schedule_rises_to_one_and_does_not_know_the_unit_of_tokens(schedule):
    values = from_us(schedule, 200)
    assert values[0] == 0 and max(values) == pytest.approx(1, abs=0.01) and min(values) >= 0
    np.testing.assert_allclose([schedule(1000 * t, 200_000) for t in range(201)], values)


def test_only_the_last_stretch_of_wsd_depends_on_the_horizon():
    short, long = WSD(warmup=0.0, decay=0.2), WSD(warmup=0.0, decay=0.2)
    assert [short(t, 100) for t in range(80)] == [long(t, 1000) for t in range(80)]
    assert short(100, 100) == 0 and long(100, 1000) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: WSD(decay=0.0),
        lambda: WSD(warmup=0.6, decay=0.6),
        lambda: WSD(floor=1.5),
        lambda: Cosine(warmup=1.0),
        lambda: Cosine(floor=-0.1),
    ],
)
def test_a_schedule_with_impossible_shares_is_refused(make):
    with pytest.raises(InputError, match="share"):
        make()


def test_muon_orthogonalises_stacked_matrices_one_by_one():
    """A stack of experts, as stated by ("hidden", "-io"), steps as its matrices would alone."""
    generator = torch.Generator().manual_seed(0)
    grads, stack = torch.randn(3, 8, 4, generator=generator), torch.randn(3, 8, 4, generator=generator)
    sites = [
        Site(role="hidden", shape=shape, fan_in=8, fan_out=4, axes=a)
        for shape, a in ((stack.shape, "-io"), ((8, 4), "io"))
    ]
    hp = {name: torch.tensor(value) for name, value in {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}.items()}
    part = Muon(lr=0.1, others_lr=0.1)
    whole, _ = part.update(grads, part.init(stack, sites[0]), stack, hp, sites[0])
    for step, grad, matrix in zip(whole, grads, stack, strict=True):
        alone, _ = part.update(grad, part.init(matrix, sites[1]), matrix, hp, sites[1])
        torch.testing.assert_close(step, alone)
