"""weight_norm: the table is made for the weight, and said of the magnitude and the direction that are trained."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from windtunnel.errors import InputError
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.rules import NTK, MuP

BASE, WIDTHS = 64, (64, 128, 256, 512)
MAGNITUDE = "parametrizations.weight.original0"
DIRECTION = "parametrizations.weight.original1"


def plain(width):
    sizes = (16, width, width, width, 8)
    layers = [nn.Linear(i, o) for i, o in pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))[:-1]


def normed(width):
    model = plain(width)
    for layer in model[::2]:
        weight_norm(layer)
    return model


def adopted(build=normed, target=256, optimizer=torch.optim.Adam, **more):
    return adopt(build, base=BASE, target=target, optimizer=optimizer, **more)


def ready(width=256, seed=0, **more):
    scales, model = adopted(target=width, **more), normed(width)
    scales.initialize(model, seed=seed)
    return scales.attach(model), scales


def test_the_weight_starts_as_large_as_a_plain_one():
    model, scales = ready()
    reference = adopted(plain).table.scales
    for name in ("0", "2", "6"):
        weight = model.get_submodule(name).weight.detach()
        assert float(weight.std()) == pytest.approx(reference[f"{name}.weight"].init_std, rel=0.1)
    assert scales.table.forward == adopted(plain).table.forward


def test_the_direction_has_the_weights_rate_and_the_magnitude_decays_in_its_place():
    scales, reference = adopted().table.scales, adopted(plain).table.scales
    for name in ("0", "2", "4", "6"):
        weight, direction, magnitude = (
            reference[f"{name}.weight"], scales[f"{name}.{DIRECTION}"], scales[f"{name}.{MAGNITUDE}"],
        )  # fmt: skip
        assert (direction.lr, direction.decay) == (weight.lr, 0)
        assert magnitude.lr * magnitude.decay == pytest.approx(weight.lr * weight.decay)
    assert scales[f"2.{MAGNITUDE}"].lr == pytest.approx(1)
    assert scales[f"6.{MAGNITUDE}"].lr == pytest.approx(2)  # rows of the readout are sqrt(4) times as long


def test_a_folded_model_gives_the_same_outputs():
    model, scales = ready()
    bare = normed(256)
    bare.load_state_dict(model.state_dict())
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scales.fold(bare)(x), model(x))


class Residual(nn.Module):
    """Blocks whose last layer is normed, on a stream."""

    def __init__(self, width, depth):
        super().__init__()
        self.start, self.head = nn.Linear(16, width), nn.Linear(width, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Tanh(), weight_norm(nn.Linear(width, width))) for _ in range(depth)
        )

    def forward(self, x):
        x = self.start(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_a_branch_that_ends_in_a_normed_layer_has_its_multiplier_in_depth():
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    scales = adopt(Residual, base=(BASE, 2), target=(256, 8), optimizer=torch.optim.Adam, example=x)
    assert set(scales.table.residual.values()) == {0.25} and len(scales.table.residual) == 8
    model, bare = Residual(256, 8), Residual(256, 8)
    scales.initialize(model, seed=0)
    bare.load_state_dict(model.state_dict())
    torch.testing.assert_close(scales.fold(bare)(x), scales.attach(model)(x))


def test_what_has_no_rule_is_refused():
    with pytest.raises(InputError, match=r"0\.weight is computed by weight_norm.*its steps are gradient.*Leave"):
        adopted(optimizer=torch.optim.SGD)

    def columns(width):
        model = plain(width)
        weight_norm(model[2], dim=1)
        return model

    with pytest.raises(InputError, match=r"role of tensor 2\.parametrizations\.weight\.original0"):
        adopted(columns)


def test_the_model_that_is_trained_is_not_changed():
    model, scales = ready()
    assert parametrize.is_parametrized(model[2])
    assert {f"2.{MAGNITUDE}", f"2.{DIRECTION}"} <= {n for g in scales.groups(model, 1e-2) for n in g["names"]}


def data(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(64, 16, generator=generator), torch.randint(8, (64,), generator=generator)


def fit(model, groups, x, y, steps=5):
    optimizer = torch.optim.Adam(groups, eps=1e-12)
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        model.zero_grad()


@cache
def moves(width, which, rule, one_rate, seed):
    """Root mean square change of each layer's output when only the tensors called `which` learn."""
    (model, scales), (x, y) = ready(width, seed, rule=rule), data(seed)
    factor = {name: 1.0 if one_rate else scale.lr for name, scale in scales.table.scales.items()}
    before = outputs(model, x)
    fit(model, [{"params": [p], "lr": 1e-2 * factor[n]} for n, p in model.named_parameters() if which in n], x, y)
    return [float((b - a).pow(2).mean().sqrt()) for a, b in zip(before, outputs(model, x), strict=True)]


def outputs(model, x):
    found = []
    with torch.no_grad():
        for number, part in enumerate(model):
            x = part(x)
            if number % 2 == 0:
                found.append(x)
    return found


def slopes(which, rule, one_rate=False):
    """Slope of log move over log width, a layer each; mean of three seeds."""
    sizes = [np.mean([moves(width, which, rule, one_rate, seed) for seed in range(3)], axis=0) for width in WIDTHS]
    return np.polyfit(np.log(WIDTHS), np.log(sizes), 1)[0]


@pytest.mark.parametrize("which", ["original", "original0", "original1"])
def test_hidden_layers_move_as_far_at_every_width(which):
    """Both tensors together, magnitudes alone, directions alone."""
    assert np.abs(slopes(which, MuP())[:-1]).max() <= 0.05, slopes(which, MuP())


def test_a_magnitude_at_the_rate_of_a_gain_would_not_where_rows_grow():
    ours, one = slopes("original0", NTK()), slopes("original0", NTK(), one_rate=True)
    assert np.abs(ours[:-1]).max() <= 0.05 and one[1:-1].max() < -0.15, (ours, one)


def readout_move(width, form, one_rate, seed):
    """Change of the outputs by the readout's magnitude alone, after all tensors have learned for 20 steps."""
    (model, scales), (x, y) = ready(width, seed, rule=MuP(form=form)), data(seed)
    fit(model, scales.groups(model, 1e-2), x, y, steps=20)
    name = f"6.{MAGNITUDE}"
    before = model(x).detach()
    lr = 1e-2 * (1.0 if one_rate else scales.table.scales[name].lr)
    fit(model, [{"params": [dict(model.named_parameters())[name]], "lr": lr}], x, y)
    return float((model(x).detach() - before).pow(2).mean().sqrt())


@pytest.mark.parametrize("form, wrong", [("multiplier", -0.5), ("initial", 0.5)])
def test_the_readouts_magnitude_moves_the_outputs_as_far_at_every_width(form, wrong):
    widths = WIDTHS[:3]

    def slope(one_rate):
        sizes = [np.mean([readout_move(width, form, one_rate, seed) for seed in range(2)]) for width in widths]
        return np.polyfit(np.log(widths), np.log(sizes), 1)[0]

    assert abs(slope(False)) <= 0.05 and slope(True) == pytest.approx(wrong, abs=0.1)
