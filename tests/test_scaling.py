"""Roles read off shapes, the muP table as data, and the sizes of real updates at several widths."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import tiny
import torch
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.parts.models import CNN, GELU, MLP, Transformer
from windtunnel.parts.models.own import Own
from windtunnel.parts.optimizers import SGD, AdamW, Lion, Muon
from windtunnel.recipe import DataShape, Site
from windtunnel.scaling.rules import MuP, Standard
from windtunnel.scaling.sizes import scale_table, sites
from windtunnel.scaling.table import geometry_of
from windtunnel.train.coordinates import coordinate_check

TEXT = DataShape(classes=50, tokens_per_example=16, train_tokens=10_000, example_shape=(16,))
IMAGES = DataShape(classes=10, tokens_per_example=1, train_tokens=1000, example_shape=(1, 8, 8))
BASE = wt.Rung(width=16, depth=2, tokens=1000, heads=2)
WIDE = BASE.but(width=64, heads=8)


def builder(model, data=TEXT):
    return lambda rung: model.build(rung, data)


def roles(model, data=TEXT, rung=WIDE):
    return {name: here.role for name, (here, _) in sites(builder(model, data), rung, BASE).pairs.items()}


def table(model, optimizer, rule=None, data=TEXT, rung=WIDE):
    return scale_table(builder(model, data), rung, BASE, rule or MuP(), geometry_of(optimizer))


# roles


@pytest.mark.parametrize("kv_groups", [1, 2])
@pytest.mark.parametrize("rung", [BASE, WIDE])
def test_roles_of_a_decoder(kv_groups, rung):
    found = roles(Transformer(gains=True, kv_groups=kv_groups), rung=rung)
    assert found.pop("embedding.weight") == "embedding"
    assert found.pop("readout.weight") == "readout"
    gains = {name for name in found if "norm" in name}
    assert {found.pop(name) for name in gains} == {"gain"}
    assert len(gains) == 2 * rung.depth + 1
    assert set(found.values()) == {"hidden"}


def test_a_tied_table_is_one_tensor_with_its_own_role():
    found = roles(Transformer(tied=True))
    assert found["embedding.weight"] == "tied" and "readout.weight" not in found


def test_biases_of_a_layer_norm_are_biases():
    found = roles(Transformer(norm=nn.LayerNorm, gains=True))
    assert {role for name, role in found.items() if name.endswith("norm.bias")} == {"bias"}
    assert {role for name, role in found.items() if name.endswith("norm.weight")} == {"gain"}


def test_roles_of_a_perceptron_and_of_a_convolutional_network():
    assert {n: r for n, r in roles(MLP(), IMAGES).items() if n.endswith("weight")} == {
        "layers.0.weight": "input",
        "layers.1.weight": "hidden",
        "readout.weight": "readout",
    }
    found = roles(CNN(), IMAGES)
    assert (found["stem.weight"], found["layers.0.weight"], found["readout.weight"]) == ("input", "hidden", "readout")
    assert {role for name, role in found.items() if name.endswith("bias")} == {"bias"}


def test_fans_of_a_convolution_count_its_window():
    here, there = sites(builder(CNN(), IMAGES), WIDE, BASE).pairs["layers.0.weight"]
    assert (here.fan_in, here.fan_out) == (9 * 64, 64)
    assert (there.fan_in, there.fan_out) == (9 * 16, 16)


class Odd(nn.Module):
    """A model that has another tensor at each width."""

    def __init__(self, width):
        super().__init__()
        self.extra = nn.ParameterDict({f"at{width}": nn.Parameter(torch.ones(width, width))})


def test_a_model_with_other_tensors_at_another_width_is_refused():
    with pytest.raises(InputError, match="a model must have the same tensors at every width"):
        sites(lambda rung: Odd(rung.width), WIDE, BASE)


class Fixed(nn.Module):
    """A matrix that does not grow beside one that does."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(3, 3, bias=False)
        self.layer = nn.Linear(width, width, bias=False)


def test_what_does_not_grow_is_fixed_and_left_alone():
    found = scale_table(lambda rung: Fixed(rung.width), WIDE, BASE, MuP(), lambda site: "entrywise")
    assert found.sites["mix.weight"].role == "fixed"
    assert (found.scales["mix.weight"].lr, found.scales["mix.weight"].forward) == (1, 1)


# the table, form B of the facts (section 1.1), at four times the base width

M = 4
# role: lr for entrywise, gradient and spectral updates; forward multiplier; init std over the base's
RULES = {
    "embedding": (1, M, None, 1, 1),
    "gain": (1, M, None, 1, None),
    "hidden": (1 / M, 1, 1, 1, M**-0.5),
    "readout": (1, M, None, 1 / M, 1),
}


@pytest.mark.parametrize("role", RULES)
@pytest.mark.parametrize("column, optimizer", [(0, AdamW()), (0, Lion()), (1, SGD()), (2, Muon())])
def test_mup_follows_the_table(role, column, optimizer):
    model = Transformer(gains=True, mlp=GELU)
    wide, base = (table(model, optimizer, rung=rung) for rung in (WIDE, BASE))
    rates, (forward, growth) = RULES[role][:3], RULES[role][3:]
    lr = rates[0] if rates[column] is None else rates[column]  # Muon: all but hidden matrices take AdamW's column
    names = [name for name, site in wide.sites.items() if site.role == role]
    assert names
    for name in names:
        scale = wide.scales[name]
        assert (scale.lr, scale.forward) == (lr, forward), name
        if growth is not None:
            assert scale.init_std / base.scales[name].init_std == pytest.approx(growth), name


def test_the_input_layer_of_images_takes_the_embeddings_row():
    for optimizer, lr in ((AdamW(), 1), (SGD(), M)):
        scale = table(MLP(), optimizer, data=IMAGES).scales["layers.0.weight"]
        assert (scale.lr, scale.forward, scale.init_std) == (lr, 1, pytest.approx(64**-0.5))


def test_a_hidden_matrix_that_is_not_square_takes_its_own_fans():
    """Keys of two groups: (width/2, width); under SGD the rate follows n_out/n_in of the growth, which is 1."""
    scales = table(Transformer(kv_groups=2), SGD()).scales
    assert scales["blocks.0.attention.key.weight"].lr == 1
    assert table(Transformer(kv_groups=2), AdamW()).scales["blocks.0.attention.key.weight"].lr == 1 / M


def test_epsilon_follows_the_gradient():
    scales = table(Transformer(gains=True, mlp=GELU), AdamW()).scales
    assert {scale.eps for scale in scales.values()} == {1 / M}


def test_the_shrink_of_a_matrix_by_decay_is_the_same_at_every_width():
    for optimizer in (AdamW(), SGD(), Muon()):
        found = table(Transformer(), optimizer)
        assert {s.lr * s.decay for s in found.scales.values()} == {1}


def test_vectors_do_not_decay():
    found = table(Transformer(norm=nn.LayerNorm, gains=True), AdamW())
    assert {s.decay for n, s in found.scales.items() if found.sites[n].role in ("gain", "bias")} == {0}


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(), Muon()])
@pytest.mark.parametrize(
    "model, data",
    [(Transformer(gains=True), TEXT), (Transformer(tied=True, kv_groups=2), TEXT), (MLP(), IMAGES), (CNN(), IMAGES)],
)
def test_mup_is_the_standard_parametrization_at_the_base_width(model, data, optimizer):
    mup, standard = (table(model, optimizer, rule, data, rung=BASE) for rule in (MuP(), Standard()))
    assert mup.scales == standard.scales
    assert mup.forward == standard.forward == {}


def test_an_unknown_geometry_is_refused():
    site = Site(role="hidden", shape=(2, 2), fan_in=2, fan_out=2)
    with pytest.raises(InputError, match="geometry 'round'; there are rules for 'gradient'"):
        MuP().scale(site, site, "round")


def test_an_optimizer_must_say_how_its_updates_grow():
    with pytest.raises(InputError, match="object does not say how its updates grow; add a line"):
        geometry_of(object())


def test_the_table_is_plain_data_with_a_hash_that_follows_it():
    first, same, other = (table(Transformer(), AdamW(), rule).to_json() for rule in (MuP(), MuP(), Standard()))
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(same))
    assert first["hash"] != other["hash"]


# forward multipliers act on the layer, not on the tensor


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_multiplied_and_embeddings_are_not(tied):
    model = Transformer(tied=tied).build(WIDE, TEXT)
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
    logits, embedded = model(tokens), model.embedding(tokens)
    handles = table(Transformer(tied=tied), AdamW()).attach(model)
    torch.testing.assert_close(model(tokens), logits / M)
    torch.testing.assert_close(model.embedding(tokens), embedded)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(model(tokens), logits)


def test_a_table_of_another_model_is_refused():
    with pytest.raises(InputError, match=r"has multipliers at \['readout'\], which this model does not have"):
        table(Transformer(), AdamW()).attach(nn.Linear(2, 2))


# what really happens


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.02), SGD(lr=0.1), Muon(lr=0.05, others_lr=0.02)])
def test_under_mup_activations_stay_the_same_size_as_the_model_grows(corpus, optimizer):
    recipe = tiny.recipe(corpus, optimizer=optimizer)
    found = coordinate_check(recipe, base=tiny.RUNG.but(width=32, heads=4), widths=(1, 2, 4))
    slopes = {m.name: m.slope for m in found.modules if m.name != "readout"}  # muP's logits start small and grow
    assert max(map(abs, slopes.values())) < 0.3, slopes


def test_under_the_standard_parametrization_they_grow_and_the_check_says_so(corpus):
    base = tiny.RUNG.but(width=32, heads=4)
    standard = tiny.recipe(corpus, optimizer=AdamW(lr=0.02), parametrization=Standard())
    mup = tiny.recipe(corpus, optimizer=AdamW(lr=0.02))
    found = {name: coordinate_check(r, base=base, widths=(1, 2, 4)) for name, r in (("mup", mup), ("sp", standard))}
    slopes = {name: {m.name: m.slope for m in check.modules} for name, check in found.items()}
    assert slopes["sp"]["readout"] > 0.3 > slopes["mup"]["readout"]
    assert slopes["sp"]["blocks.0.mlp.down"] > slopes["mup"]["blocks.0.mlp.down"] + 0.2
    assert not all(m.ok for m in found["sp"].modules)
    assert "(not flat, bar" in str(found["sp"])


def test_steps_that_vanish_with_width_are_seen_in_moves_where_sizes_stay_flat(corpus):
    @dataclass(frozen=True)
    class Vanishing(SGD):
        geometry = "entrywise"  # SGD's is "gradient"

    base = tiny.RUNG.but(width=16, heads=4)
    right, wrong = (
        coordinate_check(tiny.recipe(corpus, optimizer=part(lr=0.1)), base=base) for part in (SGD, Vanishing)
    )
    assert not any(m.drifts for m in right.modules) and "what training changes" not in str(right)
    hidden = [m for m in wrong.modules if not m.readout]
    assert max(abs(m.slope) for m in hidden) < 0.3  # sizes say nothing
    assert all(m.drifts and not m.ok for m in hidden if m.name != "embedding")
    assert f"not flat in {sum(m.drifts for m in wrong.modules)} of {len(wrong.modules)} modules" in str(wrong)
    assert all(m["move"]["value"] < -0.5 for m in wrong.to_json()["modules"] if not m["ok"])


class Exits(nn.Module):
    """Blocks that grow with width behind an early head; a capped readout; and a number for a norm."""

    def __init__(self, rung, data):
        super().__init__()
        self.embed, self.exit = nn.Embedding(data.classes, rung.width), nn.Linear(rung.width, data.classes)
        self.a, self.head, self.cap = nn.Linear(rung.width, rung.width), nn.Linear(rung.width, data.classes), Capped()
        self.size = Size()

    def forward(self, x):
        h = self.embed(x)
        early, wider = self.exit(h), h.shape[-1] / 16
        h = h + wider * torch.relu(self.a(h))
        size = self.size(h)
        return self.cap(self.head(h / wider)) + 0.1 * early + 0 * size


class Capped(nn.Module):
    def forward(self, x):
        return 30 * torch.tanh(x / 30)


class Size(nn.Module):
    def forward(self, x):
        return x.square().mean()


def test_only_what_ends_after_the_last_readout_is_read_as_it(corpus):
    """Behind an early head all blocks passed for readouts, whose sizes and moves may shrink."""
    roles = {"exit.weight": "readout", "head.weight": "readout"}
    recipe = tiny.recipe(corpus, optimizer=AdamW(lr=0.02)).but(model=Own(Exits, roles=roles))
    found = {m.name: m for m in coordinate_check(recipe, base=tiny.RUNG.but(width=16, heads=2), seeds=2).modules}
    assert {name for name, m in found.items() if m.readout} == {"exit", "head", "cap"}
    assert found["a"].slope < 0.3 < found["size"].slope  # a number a batch is measured too


def test_a_coordinate_check_repeats_itself(corpus):
    recipe = tiny.recipe(corpus, optimizer=AdamW(lr=0.02))
    first, second = (coordinate_check(recipe, base=tiny.RUNG, widths=(1, 2), seeds=1) for _ in range(2))
    assert first == second and json.dumps(first.to_json()) == json.dumps(second.to_json())
