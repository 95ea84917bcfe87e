"""Every width entry of the rule table, beside two oracles: a linear program and the steps of real optimizers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from steps import BY_GEOMETRY
from torch.nn import functional as F

from windtunnel.errors import InputError
from windtunnel.recipe import Site
from windtunnel.scaling.rules import NTK, MeanField, MuP, Spectral, Standard, UnitMuP
from windtunnel.scaling.rules.radius import radius
from windtunnel.scaling.rules.reach import GEOMETRIES

PLACES = ("first", "hidden", "readout")
# (a, b) of first, hidden and readout, as published: multiplier n^-a, initial std n^-b.
PUBLISHED = {
    "standard": ((0, 0), (0, 0.5), (0, 0.5)),
    "ntk": ((0, 0), (0.5, 0), (0.5, 0)),
    "mean field": ((0, 0), (0.5, 0), (1, 0)),
    "mup, multiplier": ((0, 0), (0, 0.5), (1, 0)),
    "mup, initial": ((0, 0), (0, 0.5), (0, 1)),
    "spectral": ((0, 0), (0, 0.5), (0, 1)),  # layers wider than the classes
}


def rule(name, alignment=1.0):
    return {
        "standard": Standard(per_layer=True, alignment=alignment),
        "ntk": NTK(alignment=alignment),
        "mean field": MeanField(alignment=alignment),
        "mup, multiplier": MuP(),
        "mup, initial": MuP(form="initial"),
        "spectral": Spectral(),
    }[name]


def site(place, width, inputs=16, outputs=10):
    shape = {"first": (width, inputs), "hidden": (width, width), "readout": (outputs, width)}[place]
    role = {"first": "input"}.get(place, place)
    return Site(role=role, shape=shape, fan_in=shape[1], fan_out=shape[0])


def exponents(parametrization, geometry):
    """(a, b, c) of each place, read off the rule by growing the width 16 times."""
    found = []
    for place in PLACES:
        scales = [parametrization.scale(site(place, w), site(place, 64), geometry) for w in (64, 1024)]
        pairs = [[getattr(s, name) for s in scales] for name in ("forward", "init_std", "lr")]
        found.append(tuple(-np.log(wide / narrow) / np.log(16) for narrow, wide in pairs))
    return found


# the first oracle


def solved(ab, geometry, alignment):
    """The least LR exponents c (largest rates n^-c) that keep three layers stable: a linear program.

    Unknowns are c of first, hidden and readout, and g: activations' gradients are n^-g. A step's entries, the layer's
    inputs of size 1 adding up as n^alignment, and the multiplier give the move of the output, which must not grow;
    nor may readout steps outgrow the readout, which would change g.
    """
    (a1, _), (ah, bh), (al, bl) = ab
    operator = {"spectral": (0, 0, 0), "orthogonal": (-0.5, 0, 0.5), "matched": (0, 0.5, 1)}.get(geometry)
    rows, right = [], []

    def at_least(value, **weights):
        rows.append([-weights.get(name, 0) for name in ("c1", "ch", "cl", "g")])
        right.append(-value)

    if geometry == "gradient":
        at_least(-2 * a1, c1=1, g=1)
        at_least(alignment - 2 * ah, ch=1, g=1)
        at_least(alignment - 2 * al, cl=1)
        at_least(-(al + bl), g=-1)
        at_least(-2 * al, cl=1, g=-1)
    else:
        b1 = ab[0][1]
        own = (b1, bh, bl) if geometry == "relative" else (0, 0, 0)
        moves = operator or (0, alignment, alignment)
        for name, a, b, move in zip(("c1", "ch", "cl"), (a1, ah, al), own, moves, strict=True):
            at_least(move - a - b, **{name: 1})
        at_least(0, g=1)
    answer = linprog([1, 1, 1, 1e-6 if geometry != "gradient" else 0], rows, right, bounds=[(None, None)] * 4)
    assert answer.success, answer.message
    return answer.x[:3]


MAXIMAL = ("mup, multiplier", "mup, initial", "spectral")  # defined by full alignment
ALIGNED = [(name, 1.0) for name in PUBLISHED]
RANDOM = [(name, 0.5) for name in PUBLISHED if name not in MAXIMAL]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name, alignment", ALIGNED + RANDOM)
def test_every_rate_is_the_one_that_the_linear_program_finds(name, geometry, alignment):
    found = exponents(rule(name, alignment), geometry)
    assert [pair[:2] for pair in found] == [pytest.approx(pair, abs=1e-9) for pair in PUBLISHED[name]]
    assert [c for _, _, c in found] == pytest.approx(solved(PUBLISHED[name], geometry, alignment), abs=1e-9)


# Adam and SGD under full and no alignment, first / hidden / readout (2407.05872, Table 1)
LITERATURE = {
    ("standard", "entrywise"): ((0, 1, 1), (0, 0.5, 0.5)),
    ("standard", "gradient"): ((-0.5, 0.5, 1), (-0.5, 0, 0.5)),
    ("ntk", "entrywise"): ((0, 0.5, 0.5), (0, 0, 0)),
    ("ntk", "gradient"): ((-0.5, -0.5, 0), (-0.5, -1, -0.5)),
    ("mean field", "entrywise"): ((0, 0.5, 0), (0, 0, -0.5)),
    ("mean field", "gradient"): ((-1, -1, -1), (-1, -1.5, -1)),
}
# With steps scaled by the parameter (Adafactor), full alignment.
SCALED = {"standard": (0, 0.5, 0.5), "ntk": (0, 0.5, 0.5), "mean field": (0, 0.5, 0), "mup, initial": (0, 0.5, 0)}


@pytest.mark.parametrize("name, geometry", LITERATURE)
def test_rates_are_those_of_the_literature(name, geometry):
    for alignment, published in zip((1.0, 0.5), LITERATURE[name, geometry], strict=True):
        assert [c for _, _, c in exponents(rule(name, alignment), geometry)] == pytest.approx(published)


@pytest.mark.parametrize("name", SCALED)
def test_rates_of_scaled_steps_are_those_of_the_literature(name):
    assert [c for _, _, c in exponents(rule(name), "relative")] == pytest.approx(SCALED[name])


def test_the_program_does_object_to_a_wrong_column():
    """SGD's rule used with Adam, as in two public ports, is not what the program finds."""
    wrong = [c for _, _, c in exponents(MuP(), "gradient")]
    assert wrong != pytest.approx(solved(PUBLISHED["mup, multiplier"], "entrywise", 1.0), abs=0.3)


# the second oracle

WIDTHS = (64, 128, 256, 512)
STEPS, MOVE, BATCH = 4, 0.01, 64


def moves(parametrization, geometry, step, width, base_rates, seed):
    """How far the last of a few steps moves each layer's output (root mean square), trained with the rule's rates.

    The network is tanh, 16 inputs, two layers, 10 classes of a random teacher. Rates at the base are those whose first
    step moves each output by MOVE; `base_rates` holds them, and is filled by the first call.
    """
    generator = torch.Generator().manual_seed(seed)
    table = {place: parametrization.scale(site(place, width), site(place, WIDTHS[0]), geometry) for place in PLACES}
    params = {p: torch.randn(site(p, width).shape, generator=generator) * s.init_std for p, s in table.items()}
    teacher = torch.randn(16, 10, generator=torch.Generator().manual_seed(9))
    states: dict = {place: {} for place in PLACES}
    moved: dict = {}
    for _ in range(STEPS):
        x = torch.randn(BATCH, 16, generator=generator)
        seen: dict = {}
        grads = gradients(params, table, x, (x @ teacher).argmax(dim=1), seen)
        for place, scale in table.items():
            direction = step(states[place], grads[place], params[place])
            effect = scale.forward * (seen[place] @ direction.mT).square().mean().sqrt()
            rate = base_rates.setdefault(place, float(MOVE / effect)) * scale.lr
            params[place] = params[place] - rate * direction
            moved[place] = float(rate * effect)
    return moved


def gradients(params, table, x, classes, seen):
    leaves = {place: value.clone().requires_grad_() for place, value in params.items()}
    for place in PLACES:
        seen[place] = x.detach()
        x = table[place].forward * x @ leaves[place].mT
        x = x if place == "readout" else torch.tanh(x)
    return dict(zip(leaves, torch.autograd.grad(F.cross_entropy(x, classes), list(leaves.values())), strict=True))


def slopes(parametrization, geometry, step):
    """Slope of log move over log width of each layer, mean of two seeds."""
    found = []
    for seed in (0, 1):
        rates: dict = {}
        rows = [moves(parametrization, geometry, step, width, rates, seed) for width in WIDTHS]
        logs = np.log([[row[place] for place in PLACES] for row in rows])
        found.append(np.polyfit(np.log(WIDTHS), logs, 1)[0])
    return dict(zip(PLACES, np.mean(found, axis=0), strict=True))


CASES = [("mup, multiplier", geometry, step) for geometry, steps in BY_GEOMETRY.items() for step in steps]
CASES += [
    (n, geometry, steps[0]) for n in PUBLISHED if n != "mup, multiplier" for geometry, steps in BY_GEOMETRY.items()
]


@pytest.mark.slow
@pytest.mark.parametrize("name, geometry, step", CASES, ids=lambda each: getattr(each, "__name__", each))
def test_real_steps_move_every_layer_alike_at_every_width(name, geometry, step):
    """Slow: it trains 8 networks, and is the only oracle that knows no exponent."""
    found = slopes(rule(name), geometry, step)
    assert max(map(abs, found.values())) < 0.15, found  # a wrong word shows as 0.47 or more


WRONG = [("entrywise", "gradient"), ("relative", "spectral"), ("matched", "spectral"), ("matched", "entrywise")]


@pytest.mark.parametrize("truth, declared", WRONG)
def test_a_wrong_geometry_shows_in_real_steps(truth, declared):
    """LAMB declared width-free, Moonshot's Muon declared width-free or Adam-like: hidden layers move wrongly."""
    found = slopes(MuP(), declared, BY_GEOMETRY[truth][0])
    assert abs(found["hidden"]) > 0.3, found


def normalized(state, grad, param):
    """A sharpness-aware perturbation: the gradient over its own norm."""
    return grad / grad.norm()


class Radius:
    """muP's values, perturbed by `radius` (over the multiplier)."""

    def scale(self, site, base, geometry):
        scale = MuP().scale(site, base, "entrywise")
        return replace(scale, lr=radius(site, base) / scale.forward)


def test_a_perturbation_moves_every_layer_alike_at_every_width():
    found = slopes(Radius(), "", normalized)
    assert max(map(abs, found.values())) < 0.15, found


def test_one_radius_for_all_layers_does_not():
    constant = type("Constant", (), {"scale": lambda self, s, b, g: replace(Radius().scale(s, b, g), lr=1.0)})()
    assert max(map(abs, slopes(constant, "", normalized).values())) > 0.3


# absolute rules: 2310.17813 and 2407.17465

NARROWING = Site(role="hidden", shape=(32, 512), fan_in=512, fan_out=32)


def test_the_spectral_initial_values_have_the_spectral_norm_they_are_named_for():
    for each in (site("hidden", 256), NARROWING, Site(role="hidden", shape=(512, 32), fan_in=32, fan_out=512)):
        std = Spectral().scale(each, each, "entrywise").init_std
        matrix = torch.randn(each.shape, generator=torch.Generator().manual_seed(0)) * std
        wanted = (each.fan_out / each.fan_in) ** 0.5
        assert 0.9 < float(torch.linalg.matrix_norm(matrix, 2)) / wanted < 2.1  # sqrt(n) + sqrt(m) over the larger
    assert (
        Spectral().scale(NARROWING, NARROWING, "entrywise").init_std
        < MuP().scale(NARROWING, NARROWING, "entrywise").init_std
    )


def test_unit_scaled_mup_is_the_papers_table():
    scales = {place: UnitMuP().scale(site(place, 256), site(place, 64), "entrywise") for place in PLACES}
    assert {s.init_std for s in scales.values()} == {1.0}
    assert (scales["hidden"].forward, scales["hidden"].lr) == (256**-0.5, 256**-0.5)
    assert (scales["readout"].forward, scales["readout"].lr) == (1 / 256, 1.0)
    table = Site(role="embedding", shape=(50, 256), fan_in=50, fan_out=256)
    assert UnitMuP().scale(table, table, "entrywise").lr == 256**-0.5
    with pytest.raises(InputError, match="MeanField\\(\\) has the same exponents"):
        UnitMuP().scale(table, table, "gradient")


def test_unit_scaled_mup_grows_as_mean_field_but_for_the_embedding():
    pairs = zip(exponents(UnitMuP(), "entrywise"), exponents(MeanField(), "entrywise"), strict=True)
    assert [a for a, _ in list(pairs)[1:]] == [pytest.approx(b) for b in exponents(MeanField(), "entrywise")[1:]]


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match=r"MuP\(form='both'\): the forms are 'multiplier', 'initial'"):
        MuP(form="both")


def test_a_tied_table_needs_the_multiplier():
    tied = Site(role="tied", shape=(50, 64), fan_in=50, fan_out=64)
    with pytest.raises(InputError, match='use MuP\\(form="multiplier"\\), or untie'):
        MuP(form="initial").scale(tied, tied, "entrywise")
