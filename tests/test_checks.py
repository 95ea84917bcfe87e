"""Checks of a training loop of one's own: each passes where it should, and fails where something was made wrong."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.scaling.checks import (
    Setup,
    coordinates,
    decay_timescale,
    epsilon_floor,
    groups_at,
    linearisation_distance,
    updates,
    wider_is_better,
)
from windtunnel.scaling.checks.linear import Call, distance
from windtunnel.scaling.rules import MuP, Standard, complete_p, depth_mup
from windtunnel.scaling.slopes import CANNOT_TELL, FLAT, GROWS, Line, overall, slope_of

WIDTHS, DEPTHS, SMALL = (32, 128), ((32, 2), (32, 8)), (16, 32)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), width // 8
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        b, t, d = x.shape
        y = self.norm(x)
        q, k, v = (f(y).view(b, t, self.heads, 8).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention, self.mlp = Attention(width), MLP(width)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.mlp(x)


class Decoder(nn.Module):
    def __init__(self, width, depth=2):
        super().__init__()
        self.embedding = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 32)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batches(seed, step):
    """Eight sequences of 17 tokens: the next is 5 times the last plus one, two or three."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    rows = [torch.randint(32, (8, 1), generator=generator)]
    for _ in range(16):
        rows.append((5 * rows[-1] + 1 + torch.randint(3, (8, 1), generator=generator)) % 32)
    return torch.cat(rows, 1)


def loss(model, batch):
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


WIDE = Setup(build=Decoder, base=32, optimizer=torch.optim.AdamW, loss=loss, batches=batches, lr=1e-2)
DEEP = replace(WIDE, base=DEPTHS[0], example=batches(0, 0)[:, :-1])


@dataclass(frozen=True)
class Timid:
    """muP with hidden rates lower by another power of the width: the lazy limit."""

    def scale(self, site, base, geometry):
        scale = MuP().scale(site, base, geometry)
        return replace(scale, lr=scale.lr * base.fan_in / site.fan_in) if site.role == "hidden" else scale


def by_name(found):
    return {(line.name, line.quantity): line for line in found}


# slopes and their intervals


def test_a_power_is_recovered_whatever_the_unit():
    sizes, values = [10, 20, 40, 80], [[3 * n**0.7] * 2 for n in (10, 20, 40, 80)]
    for unit in (1, 1000):
        found = slope_of([unit * n for n in sizes], values)
        assert (found.value, found.high - found.low) == (pytest.approx(0.7), pytest.approx(0, abs=1e-6))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, sizes = np.random.default_rng(0), np.array([32, 64, 128, 256])
    noisy = lambda: sizes[:, None] ** 0.3 * np.exp(0.2 * rng.normal(size=(4, 2)))  # noqa: E731
    covered = [(s := slope_of(sizes, noisy())).low <= 0.3 <= s.high for _ in range(2000)]
    assert abs(np.mean(covered) - 0.9) < 0.03  # its own standard error is 0.007


def test_two_values_give_a_slope_and_no_verdict():
    found = slope_of([1, 2], [5.0, 50.0])
    assert found.value == pytest.approx(math.log2(10)) and found.verdict(0.1) == CANNOT_TELL
    assert math.isnan(slope_of([1, 2], [0.0, 1.0]).value)


def test_a_slope_may_grow_where_it_was_expected_to():
    sizes = [1, 2, 4]
    line = Line(name="a", quantity="q", step=1, values=(), slope=slope_of(sizes, sizes), bar=0.1)
    assert line.verdict == GROWS and replace(line, expected=1.0).verdict == FLAT
    falls = replace(line, slope=slope_of(sizes, [4, 2, 1]))
    assert falls.right is False and replace(falls, may_shrink=True).right is True
    assert replace(falls, may_shrink=True, limit=0.9).right is False
    assert overall([line, replace(line, judged=False)]) is False and overall([replace(line, judged=False)]) is None


# coordinates


def test_coordinates_are_flat_under_mup_and_grow_under_the_standard_parametrization():
    mup, standard = (coordinates(replace(WIDE, rule=rule), WIDTHS) for rule in (MuP(), Standard()))
    assert mup.ok is not False, str(mup)
    assert standard.verdict == "not flat" and "A flat check does not prove" in str(standard)
    names = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention.query", "mlp.up", "mlp.down")]
    lines = by_name(standard.last)
    assert {lines[name, "move"].verdict for name in names} == {GROWS}


def test_activations_that_are_flat_because_nothing_is_learnt_are_found():
    found = coordinates(replace(WIDE, rule=Timid()), WIDTHS)
    lines = by_name(found.last)
    assert found.ok is False
    assert lines["blocks.1.mlp.up", "size"].right and lines["blocks.1.mlp.up", "move"].right is False


class Shrunk(Decoder):
    """Scales the readout's input by itself, as T5 does with a tied table."""

    def __init__(self, width):
        super().__init__(width)
        self.norm = nn.Sequential(self.norm, Times(width**-0.5))


class Times(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


def test_a_readout_that_learns_less_as_the_width_grows_is_found():
    found = coordinates(replace(WIDE, build=Shrunk), WIDTHS)
    lines = by_name(found.last)
    assert found.ok is False and "The readout head learns less and less as the width grows" in str(found)
    assert lines["head", "move"].right is False and lines["head", "size"].right is True


def test_in_depth_the_stream_grows_without_a_residual_rule_and_not_with_one():
    plain, complete, half = (
        coordinates(replace(DEEP, rule=r), DEPTHS, seeds=(0, 1)) for r in (MuP(), complete_p(), depth_mup())
    )
    assert plain.ok is False and by_name(plain.last)["blocks[last]", "move"].verdict == GROWS
    assert complete.ok is not False and half.ok is not False, f"{complete}\n{half}"


def test_readouts_are_told_by_use_and_frozen_tensors_are_not_judged():
    class Wrapped(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner, self.place = Decoder(width, 1), nn.Embedding(17, width).requires_grad_(False)

        def forward(self, tokens):
            return self.inner(tokens) + 0 * self.place(torch.zeros(1, dtype=torch.long)).sum()

    lines = by_name(coordinates(replace(WIDE, build=Wrapped), SMALL, seeds=(0, 1)).last)
    assert lines["inner", "size"].may_shrink and lines["inner.head", "move"].may_shrink
    assert not lines["inner.norm", "size"].may_shrink and not lines["place", "move"].judged


# updates


def test_the_right_geometry_and_rule_give_the_steps_that_are_predicted():
    """From width 64: below, queries and keys move less and less by themselves (docs/scaling.md)."""
    wide = replace(WIDE, base=64)
    assert updates(wide, (64, 256)).ok is not False
    assert updates(replace(wide, optimizer=torch.optim.SGD, lr=0.3), (64, 256)).ok is not False


@pytest.mark.parametrize("word", ["gradient", "spectral", "relative"])
def test_a_wrong_geometry_shows_in_the_steps_themselves(word):
    found = updates(replace(WIDE, geometry=word), WIDTHS)
    assert found.verdict == "not what the geometry says" and "state another word" in str(found)


@pytest.mark.parametrize(
    "setup, sizes", [(replace(WIDE, rule=Standard()), WIDTHS), (replace(DEEP, rule=MuP()), DEPTHS)]
)
def test_a_wrong_rule_shows_in_how_far_steps_reach(setup, sizes):
    assert updates(setup, sizes).verdict == "moves outputs unequally"


@pytest.mark.parametrize("rule, slope", [(complete_p(), 0.0), (depth_mup(), -0.5)])
def test_in_depth_steps_are_as_each_rule_has_them(rule, slope):
    found = updates(replace(DEEP, rule=rule), DEPTHS)
    assert found.ok is not False
    assert by_name(found.lines)["blocks[last].mlp.up.weight", "rms"].expected == pytest.approx(slope, abs=1e-6)


# epsilon


def by_hand(eps):
    """An epsilon that does not follow the gradients."""
    return replace(WIDE, optimizer=lambda groups: torch.optim.AdamW(groups, eps=eps), geometry="entrywise")


def test_an_epsilon_that_is_too_large_is_found():
    found = epsilon_floor(by_hand(1e-3), WIDTHS)
    assert found.verdict == "epsilon sets steps" and "Lower eps" in str(found)
    assert "blocks.1.attention.query.weight" in [each.name for each in found.below]
    assert epsilon_floor(by_hand(1e-8), WIDTHS).ok is True


def test_the_size_at_which_epsilon_will_matter_is_foretold():
    near = epsilon_floor(by_hand(3e-4), WIDTHS, steps=4)
    assert near.ok is True and 128 < near.limit < 512
    assert epsilon_floor(by_hand(3e-4), (256, 512), steps=4, seeds=(0,)).ok is False


def test_an_epsilon_that_follows_the_gradients_stays_out_of_the_way():
    scaled = epsilon_floor(replace(WIDE, eps=1e-5), WIDTHS)
    assert scaled.ok is True and scaled.limit > 10 * epsilon_floor(by_hand(1e-5), WIDTHS).limit


def test_entries_whose_gradient_is_rounding_are_left_out():
    """The bias of attention's keys has no gradient: softmax does not see it. Adam would move it all the same."""
    names = [each.name for each in epsilon_floor(WIDE, SMALL, steps=2).tensors]
    assert "blocks.0.attention.value.bias" in names and "blocks.0.attention.key.bias" not in names


# decay


def test_timescales_that_differ_over_sizes_are_found():
    at = {size: torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=lr, weight_decay=0.1)
          for size, lr in ((64, 1e-2), (256, 2.5e-3))}  # fmt: skip
    found = decay_timescale(at, steps=4000)
    assert found.ok is False and found.memories[0].steps == pytest.approx((1000, 4000))
    assert found.memories[0].shares == pytest.approx((0.25, 1.0)) and "differs over sizes" in str(found)
    assert decay_timescale(at, steps={64: 1000, 256: 4000}).ok is True  # a share of each run


def test_adopted_groups_remember_alike_at_every_width_and_nothing_decays_without_decay():
    assert decay_timescale(groups_at(replace(WIDE, weight_decay=0.1), WIDTHS), steps=1000).ok is True
    assert decay_timescale(groups_at(WIDE, WIDTHS), steps=1000).verdict == "nothing decays"


def test_decay_inside_the_gradient_has_no_timescale():
    param = [nn.Parameter(torch.ones(1))]
    coupled = decay_timescale(torch.optim.Adam(param, lr=1e-2, weight_decay=0.1), steps=100)
    assert coupled.verdict == "decay is coupled" and "use AdamW" in str(coupled)
    decoupled = torch.optim.Adam(param, lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True)
    assert decay_timescale(decoupled, steps=100).ok is True


# wider is better


def test_wider_is_worse_for_the_standard_parametrization_at_a_high_rate_and_not_for_mup():
    hot, sizes = replace(WIDE, lr=0.1), (32, 128)
    mup, standard = (wider_is_better(replace(hot, rule=rule), sizes, steps=(5, 10)) for rule in (MuP(), Standard()))
    assert standard.ok is False and "wider is worse" in str(standard)
    assert mup.ok is not False, str(mup)
    assert wider_is_better(WIDE, (8, 64), steps=(20,)).ok is True


def test_one_seed_cannot_tell_whether_wider_is_better():
    assert wider_is_better(WIDE, (32, 64), steps=(2,), seeds=(0,)).verdict == CANNOT_TELL


# linearisation


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.2)), nn.Parameter(torch.tensor(1.5))

    def forward(self, x, scale=1.0):
        return (x + scale * self.a * self.b * x,)  # a skip connection, and a tuple as some models return


def test_the_distance_of_a_product_is_the_one_by_hand():
    """a b from (1, 1) to (1.2, 1.5): the linear part is 0.2 + 0.5, beyond it 0.2 x 0.5."""
    before = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
    call = Call(Product(), (torch.randn(5),), {"scale": 2.0}, before)
    assert distance(call) == pytest.approx(0.1 / 0.7, rel=1e-3)
    line = nn.Linear(4, 4)
    before = {name: param.detach() + 1 for name, param in line.named_parameters()}
    assert distance(Call(line, (torch.randn(3, 4),), {}, before)) < 1e-5


def test_deep_blocks_become_linear_at_half_the_exponent_and_not_under_complete_p():
    complete, half = (
        linearisation_distance(replace(DEEP, rule=rule), DEPTHS, seeds=(0, 1)) for rule in (complete_p(), depth_mup())
    )
    assert complete.ok is not False, str(complete)
    assert half.verdict == "blocks become linear with depth", str(half)
    names = {f"blocks[{place}].{part}" for place in ("first", "last") for part in ("attention", "mlp")}
    assert {line.name for line in half.lines} == names
    # theory: slope 0 and -1/2; the two theories are 1/2 apart, so a quarter tells them
    slopes = [np.mean([line.slope.value for line in found.lines]) for found in (complete, half)]
    assert slopes == [pytest.approx(0.0, abs=0.25), pytest.approx(-0.5, abs=0.25)]


# outcomes, progress, errors


def test_a_run_that_is_lost_is_an_outcome_and_is_said():
    wild = replace(WIDE, optimizer=torch.optim.SGD, lr=1e6)
    for check in (coordinates, updates, epsilon_floor_of_adam, linearisation_distance, short):
        found = check(replace(wild, optimizer=torch.optim.AdamW) if check is epsilon_floor_of_adam else wild, SMALL)
        assert found.lost and found.ok is not True and "run(s) were lost" in str(found)
        json.dumps(found.to_json(), allow_nan=False)


def epsilon_floor_of_adam(setup, sizes):
    poisoned = replace(setup, loss=lambda model, batch: loss(model, batch) * math.inf)
    return epsilon_floor(poisoned, sizes)


def short(setup, sizes):
    return wider_is_better(setup, sizes, steps=(8,))


def test_a_size_that_diverges_where_the_smaller_does_not_is_worse():
    def fails_when_wide(model, batch):
        value = loss(model, batch)
        return value * math.nan if model.head.in_features > 32 else value

    found = wider_is_better(replace(WIDE, loss=fails_when_wide), (32, 64), steps=(2,))
    assert found.ok is False and found.pairs[0].probability == 0 and len(found.lost) == 3


def test_checks_report_progress_repeat_themselves_and_leave_the_generator_alone():
    heard, state = [], torch.get_rng_state()
    first = coordinates(WIDE, SMALL, steps=1, seeds=(0, 1), report=heard.append)
    assert [each.done for each in heard] == [0, 1, 2, 3, 4] and heard[-1].runs == 4 and heard[1].seed == 1
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again = coordinates(WIDE, SMALL, steps=1, seeds=(0, 1))
    assert json.dumps(first.to_json(), allow_nan=False) == json.dumps(again.to_json())


@pytest.mark.parametrize(
    "sizes, said",
    [
        ((64,), "sizes are 64; a check compares at least two"),
        ((64, 64), "sizes 64, 64 do not grow"),
        ((128, 64), "sizes 128, 64 do not grow"),
        (((32, 2), (64, 4)), "differ in width and in depth"),
        ((32, (64, 2)), "give widths, or"),
    ],
)
def test_sizes_that_do_not_grow_one_at_a_time_are_refused(sizes, said):
    for check in (coordinates, updates, epsilon_floor, wider_is_better, linearisation_distance):
        with pytest.raises(InputError, match=said.replace("(", r"\(")):
            check(WIDE, sizes)


def test_a_setup_that_lacks_something_says_what():
    pair = SMALL
    with pytest.raises(InputError, match="say it: geometry="):
        coordinates(replace(WIDE, optimizer=lambda groups: torch.optim.AdamW(groups)), pair)
    with pytest.raises(InputError, match=r"Setup\.loss returned a tensor of shape \(8, 16, 32\)"):
        coordinates(replace(WIDE, loss=lambda model, batch: model(batch[:, :-1])), pair)
    with pytest.raises(InputError, match="SGD holds eps=None"):
        epsilon_floor(replace(WIDE, optimizer=torch.optim.SGD), pair)
    with pytest.raises(InputError, match="says 'wide', which is none of 'gradient'"):
        updates(replace(WIDE, rule=Standard(), geometry="wide"), pair)
    with pytest.raises(InputError, match="no seeds were given"):
        updates(WIDE, pair, seeds=())
    with pytest.raises(InputError, match="holds one twice"):
        coordinates(WIDE, pair, seeds=(0, 0, 1))
    with pytest.raises(InputError, match="give step counts"):
        wider_is_better(WIDE, pair, steps=())
    with pytest.raises(InputError, match=r"blocks=\('\*\.attention'"):
        linearisation_distance(WIDE, pair, blocks=("*.nowhere",))
    with pytest.raises(InputError, match="has no lr"):
        decay_timescale([{"params": []}], steps=10)
    with pytest.raises(InputError, match="steps at size 64 is None"):
        decay_timescale({64: [{"lr": 1.0}]}, steps={32: 10})


def test_checks_are_a_public_room():
    assert wt.checks.coordinates is coordinates and wt.checks.Setup is Setup
