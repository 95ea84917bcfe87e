"""torch's own layers whose tensors are not called weight and bias: their roles are told, and they train as they are."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import tiny
import torch
from torch import nn

import windtunnel as wt
from windtunnel.launch.one import execute
from windtunnel.parts.models import Own
from windtunnel.parts.optimizers import AdamW
from windtunnel.train.judging import Judging

BASE, TARGET = 16, 32


class Around(nn.Module):
    """A layer of a width between a lookup and a readout."""

    def __init__(self, layer, width, outcomes=20, lookup=nn.Embedding):
        super().__init__()
        self.table, self.layer, self.head = lookup(outcomes, width), layer(width), nn.Linear(width, outcomes)


def sites(layer, **options):
    """Tensor name to (role, fan-in, fan-out) in the layer at the target's width."""
    adopted = wt.adopt(lambda w: Around(layer, w, **options), base=BASE, target=TARGET, optimizer=torch.optim.AdamW)
    return {n: (s.role, s.fan_in, s.fan_out) for n, s in adopted.table.sites.items()}


def encoder(width):
    return nn.TransformerEncoderLayer(width, width // 4, 4 * width, dropout=0.0, batch_first=True)


def test_attention_has_its_queries_keys_and_values_in_one_hidden_matrix():
    found = sites(encoder)
    assert found["layer.self_attn.in_proj_weight"] == ("hidden", TARGET, 3 * TARGET)
    assert found["layer.self_attn.in_proj_bias"][0] == "bias"
    assert found["layer.self_attn.out_proj.weight"] == ("hidden", TARGET, TARGET)
    assert found["layer.linear1.weight"] == ("hidden", TARGET, 4 * TARGET)


def test_attention_over_something_else_has_a_matrix_for_each():
    found = sites(lambda w: nn.MultiheadAttention(w, 2, kdim=2 * w, vdim=12, add_bias_kv=True))
    assert found["layer.q_proj_weight"] == ("hidden", TARGET, TARGET)
    assert found["layer.k_proj_weight"] == ("hidden", 2 * TARGET, TARGET)
    assert found["layer.v_proj_weight"] == ("input", 12, TARGET)  # from 12 features at every width
    assert found["layer.bias_k"] == found["layer.bias_v"] == ("vector", 1, TARGET)


@pytest.mark.parametrize("cell,gates", [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_a_recurrent_layer_has_its_gates_in_the_fan_out(cell, gates):
    found = sites(lambda w: cell(w, 2 * w, num_layers=2, bidirectional=True))
    assert found["layer.weight_ih_l0"] == ("hidden", TARGET, 2 * gates * TARGET)
    assert found["layer.weight_hh_l0_reverse"] == ("hidden", 2 * TARGET, 2 * gates * TARGET)
    assert found["layer.weight_ih_l1"] == ("hidden", 4 * TARGET, 2 * gates * TARGET)
    assert {role for n, (role, *_) in found.items() if ".bias_" in n} == {"bias"}


def test_projections_and_cells_are_told_too():
    assert sites(lambda w: nn.LSTM(w, 2 * w, proj_size=w))["layer.weight_hr_l0"] == ("hidden", 2 * TARGET, TARGET)
    assert sites(lambda w: nn.GRUCell(5, w))["layer.weight_ih"] == ("input", 5, 3 * TARGET)


def test_a_transposed_convolution_is_stored_inputs_first():
    found = sites(lambda w: nn.ConvTranspose2d(w, 3 * w, 4))
    assert found["layer.weight"] == ("hidden", 16 * TARGET, 3 * TARGET)
    with pytest.raises(wt.InputError, match=r"The role of tensor layer.weight .* in a ConvTranspose2d"):
        sites(lambda w: nn.ConvTranspose2d(w, w, 4, groups=w))  # one input each: its shape looks like a readout's


def test_a_bag_of_embeddings_is_a_lookup():
    assert sites(nn.Identity, lookup=nn.EmbeddingBag)["table.weight"][0] == "embedding"


def test_what_no_layer_of_torch_tells_is_still_asked_for():
    with pytest.raises(wt.InputError, match=r"layer.weight .* in a Bilinear\) cannot be told from its shape"):
        sites(lambda w: nn.Bilinear(w, w, w))


def test_what_a_subclass_adds_is_asked_for_too():
    class Relative(nn.MultiheadAttention):
        def __init__(self, width):
            super().__init__(width, 2)
            self.distance = nn.Parameter(torch.zeros(2, 31))

    class Peephole(nn.LSTM):
        def __init__(self, width):
            super().__init__(width, width)
            self.peep = nn.Parameter(torch.zeros(3, width))

    for layer, tensor in ((Relative, "distance"), (Peephole, "peep")):
        with pytest.raises(wt.InputError, match=rf"role of tensor layer\.{tensor} .* in a {layer.__name__}\) cannot"):
            sites(layer)


class Attending(Around):
    """A causal encoder."""

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.layer(self.table(tokens), src_mask=mask, is_causal=True))


class Recurrent(Around):
    """A recurrent layer."""

    def forward(self, tokens):
        return self.head(self.layer(self.table(tokens))[0])


def attending(rung, data):
    return Attending(encoder, rung.width, data.classes)


def recurrent(rung, data):
    return Recurrent(lambda w: nn.LSTM(w, w, batch_first=True), rung.width, data.classes)


@pytest.mark.parametrize("module", [attending, recurrent])
def test_they_train_in_a_study_without_a_word_of_warning(corpus, tmp_path, module):
    """torch has no batching rule for attention's inference kernel, which a network takes by itself when it is judged,
    and none at all for recurrent layers, which are trained one by one."""
    pack = tiny.pack(tiny.recipe(corpus, model=Own(module), optimizer=AdamW(lr=0.01)), [{"lr": 0.01}, {"lr": 0.02}])
    before = torch.backends.mha.get_fastpath_enabled()
    store = wt.Store(tmp_path / "store")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        execute(pack, store, device=tiny.CPU)
    runs = [store.get(spec.key) for spec in pack.specs]
    assert torch.backends.mha.get_fastpath_enabled() is before
    assert all(run.finished and run.curve["train_loss"][-1] < run.curve["train_loss"][0] for run in runs)
    assert [run.cost.alone_because is None for run in runs] == [module is attending] * 2


class Normed(nn.Module):
    """A convolution with a group norm."""

    def __init__(self, width, classes):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(2, width)
        self.conv, self.head = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.conv(torch.relu(self.norm(self.stem(images)))).mean((2, 3)))


def normed(rung, data):
    return Normed(rung.width, data.classes)


@pytest.mark.parametrize(("said", "left"), [("can't allocate memory: 4 GB", []), ("no batching rule", [8, 8])])
def test_a_judge_goes_row_by_row_where_torch_refuses_to_batch_and_not_where_memory_lacks(said, left):
    """Memory that lacks is mended by a smaller pack, and by no other way of judging it."""

    def together(params, inputs, targets):
        raise RuntimeError(said)

    def alone(params, inputs, targets):
        return (params[0].sum((1, 2)),)

    judging = Judging.__new__(Judging)
    judging.together, judging.alone, judging.one_by_one = together, alone, False
    rows = [torch.ones(2, 4, 2)]
    with nullcontext() if left else pytest.raises(RuntimeError, match=said):
        assert judging._summed(rows, torch.ones(1), torch.ones(1))[0].tolist() == left
    assert judging.one_by_one is bool(left)


def test_a_group_norm_of_images_trains_in_packs_and_is_judged_as_alone(tmp_path):
    """torch batches it in training, and refuses to where nothing is differentiated."""
    recipe = wt.recipes.mlp_mup_sgd(data=wt.data.digits()).but(model=Own(normed), optimizer=AdamW(lr=wt.tuned(1e-3, 1)))
    pack = tiny.pack(recipe, [{"lr": 0.01}, {"lr": 0.02}], rung=tiny.RUNG.but(tokens=32))
    store = wt.Store(tmp_path / "store")
    execute(pack, store, device=tiny.CPU)
    runs = [store.get(spec.key) for spec in pack.specs]
    assert [(run.cost.members, run.cost.alone_because) for run in runs] == [(2, None)] * 2
    for member, run in enumerate(runs):
        single = tiny.alone(pack, member, packed=False)
        assert run.curve["judged_loss"] == pytest.approx(single.curve["judged_loss"], rel=1e-6)
        assert run.metrics["accuracy"] == single.metrics["accuracy"]
