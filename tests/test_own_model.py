"""A torch model of one's own in a study: its size is counted as a formula would, its tensors keep their names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch
from torch import nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch.here import Here
from windtunnel.parts.models import CNN, MLP, Own, Transformer
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import DataShape
from windtunnel.scaling.meta import on_meta
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.steps import named_params

RUNG = wt.Rung(width=32, depth=2, heads=4, tokens=4096)
TEXT = DataShape(classes=256, tokens_per_example=16, train_tokens=10_000, example_shape=(16,))
IMAGES = DataShape(classes=10, tokens_per_example=1, train_tokens=1_000, example_shape=(1, 8, 8))


def decoder(rung, data, **options):
    return Transformer(**options).build(rung, data)


def perceptron(rung, data):
    return MLP().build(rung, data)


def convolutions(rung, data):
    return CNN().build(rung, data)


@pytest.mark.parametrize(
    "module,stock,data",
    [
        (decoder, Transformer(), TEXT),
        (partial(decoder, tied=True, kv_groups=2, gains=True), Transformer(tied=True, kv_groups=2, gains=True), TEXT),
        (perceptron, MLP(), IMAGES),
        (convolutions, CNN(), IMAGES),
    ],
)
@pytest.mark.parametrize("width,depth", [(32, 2), (64, 3)])
def test_what_is_counted_is_what_the_stock_formulas_say(module, stock, data, width, depth):
    rung = RUNG.but(width=width, depth=depth, heads=4)
    counted, formula = Own(module).size(rung, data), stock.size(rung, data)
    assert (counted.embedding, counted.non_embedding, counted.tied) == (
        formula.embedding,
        formula.non_embedding,
        formula.tied,
    )
    assert counted.flops_per_token == pytest.approx(formula.flops_per_token, rel=1e-6)


class Plain(nn.Module):
    """A network that knows nothing of us; its answer is an object with logits."""

    def __init__(self, width, classes):
        super().__init__()
        self.table, self.head = nn.Embedding(classes, width), nn.Linear(width, classes, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens):
        x = self.table(tokens)
        x = x + self.down(torch.relu(self.up(x)))
        return Answer(self.head(x))


class Answer:
    def __init__(self, logits):
        self.logits = logits


def plain(rung, data):
    return Plain(rung.width, data.classes)


def test_a_study_of_a_model_of_ones_own_is_tuned_climbed_foretold_and_scored(corpus, tmp_path):
    base = tiny.recipe(corpus, model=Own(plain), optimizer=AdamW(lr=wt.tuned(1e-3, 1e-1)))
    study = tiny.study(corpus, base=base, ideas=[])
    result = study.run(wt.Store(tmp_path / "store"), launcher=Here(devices=1))
    assert result.scores["base"] and result.forecasts["base"]
    run = result.ladder["base"][0]
    assert run.cost.alone_because is None and run.cost.members > 1
    names = set(dict(on_meta(lambda: base.model.build(RUNG, TEXT)).named_parameters()))
    assert names == {"table.weight", "head.weight", "up.weight", "up.bias", "down.weight", "down.bias"}


def test_another_module_is_another_run(corpus):
    keys = {tiny.pack(tiny.recipe(corpus, model=Own(f)), [{"lr": 0.01}]).key for f in (plain, decoder)}
    assert len(keys) == 2


def of_words(rung, data):
    return nn.Embedding(data.classes, rung.width)


def frozen(rung, data):
    found = plain(rung, data)
    found.table.weight.requires_grad_(False)
    return found


class Looking(Plain):
    def forward(self, tokens):
        return super().forward(tokens[:, : int(tokens.float().numpy().max())])


def looking(rung, data):
    return Looking(rung.width, data.classes)


class Looping(Plain):
    """Says in a tensor how often it goes round."""

    def __init__(self, width, classes):
        super().__init__(width, classes)
        self.register_buffer("times", torch.tensor(8), persistent=False)

    def forward(self, tokens):
        for _ in range(int(self.times)):
            found = super().forward(tokens)
        return found


def looping(rung, data):
    return Looping(rung.width, data.classes)


def lazy(rung, data):
    return nn.Sequential(nn.LazyLinear(rung.width))


def compiled(rung, data):
    return torch.compile(plain(rung, data), backend="eager")


def partly_compiled(rung, data):
    found = plain(rung, data)
    found.up = torch.compile(found.up, backend="eager")
    return found


class Phased(Plain):
    def __init__(self, width, classes):
        super().__init__(width, classes)
        self.phase = nn.Parameter(torch.zeros(width, dtype=torch.complex64))


def phased(rung, data):
    return Phased(rung.width, data.classes)


class Wrapped(nn.Module):
    def __init__(self, inner, wrap):
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, tokens):
        return self.wrap(self.inner(tokens).logits)


def in_a_dict(rung, data):
    return Wrapped(plain(rung, data), lambda found: {"logits": found})


def in_a_tuple(rung, data):
    return Wrapped(plain(rung, data), lambda found: (found, None))


@pytest.mark.parametrize(
    "module,reason",
    [
        (lazy, r"0.weight, 0.bias of the model have no shape .*Linear\(in, out\).*dummy batch"),
        (compiled, r"is compiled \(torch.compile\).*return it uncompiled"),
        (partly_compiled, r"is compiled \(torch.compile\)"),
        (phased, r"complex parameters \(phase\)"),
        (in_a_dict, r"in_a_dict at width 32 x depth 2: Wrapped returns a dict; .*returns out\['logits'\]"),
        (in_a_tuple, r"in_a_tuple at width 32 x depth 2: Wrapped returns a tuple; .*returns out\[0\]"),
    ],
)
def test_a_module_that_packs_cannot_train_is_refused_with_what_to_do(module, reason):
    with pytest.raises(InputError, match=reason) as refused:
        Own(module).size(RUNG, TEXT)
    assert "meta device" not in str(refused.value)


def in_double(rung, data):
    return plain(rung, data).double()


def test_a_model_built_in_double_is_counted_as_the_float32_that_is_trained():
    assert Own(in_double).size(RUNG, TEXT) == Own(plain).size(RUNG, TEXT)


def test_a_module_that_is_built_already_is_refused_as_adopt_does():
    with pytest.raises(InputError, match=r"Own needs a function .* given a Linear that is built already; pass a func"):
        Own(nn.Linear(2, 2))


def misspelt(rung, data):
    return nn.Linear(rung.width, data.clases)


def nothing(rung, data):
    return None


@pytest.mark.parametrize(
    "module,reason",
    [
        (of_words, r"returns outputs of shape \(1, 16, 32\) for one example; they must be logits \(1, 16, 256\)"),
        (frozen, r"has frozen parameters \(table.weight\)"),
        (looking, r"was given inputs \(1, 16\) of int64, one example, and raised .* Only if the network needs values"),
        (looping, r"was given inputs \(1, 16\) of int64, one example, and raised .* Only if the network needs values"),
        (misspelt, r"raised AttributeError: .*clases"),
        (nothing, r"returned None; it must return a torch module"),
    ],
)
def test_a_module_that_cannot_be_trained_or_counted_is_refused_by_name(module, reason):
    with pytest.raises(InputError, match=rf"{module.__name__} at width 32 x depth 2 {reason}"):
        Own(module).size(RUNG, TEXT)


def llama(rung, data):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=rung.width, num_hidden_layers=rung.depth, num_attention_heads=rung.heads, use_cache=False,
            intermediate_size=2 * rung.width, vocab_size=data.classes, max_position_embeddings=data.tokens_per_example,
            bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def gpt2(rung, data):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=rung.width, n_layer=rung.depth, n_head=rung.heads, vocab_size=data.classes, use_cache=False,
            n_positions=data.tokens_per_example, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=None,
            eos_token_id=None,
        )
    )  # fmt: skip


def vit(rung, data):
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=rung.width, num_hidden_layers=rung.depth, num_attention_heads=rung.heads, image_size=8,
            patch_size=4, num_channels=1, intermediate_size=2 * rung.width, num_labels=data.classes,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def test_a_classifier_of_transformers_answers_with_one_prediction_an_image():
    pytest.importorskip("transformers", reason="pip install transformers")
    rung = wt.Rung(width=16, depth=1, heads=2, tokens=64 * 8, batch=8)
    recipe = wt.recipes.mlp_mup_sgd(data=wt.data.digits()).but(
        model=Own(vit, roles={"*.cls_token": "vector", "*.position_embeddings": "vector"}), optimizer=AdamW(lr=0.01)
    )
    (run,) = train(tiny.pack(recipe, [{}], rung=rung), device=tiny.CPU)
    assert run.finished and run.curve["train_loss"][-1] < run.curve["train_loss"][0]


class Scaled(Plain):
    """With a vector that begins at a value of its own, and one that is drawn."""

    def __init__(self, width, classes):
        super().__init__(width, classes)
        self.decay, self.start = nn.Parameter(torch.full((width,), 0.25)), nn.Parameter(torch.randn(width))

    def forward(self, tokens):
        x = self.table(tokens) * self.decay + self.start
        return Answer(self.head(x + self.down(torch.relu(self.up(x)))))


def scaled(rung, data):
    return Scaled(rung.width, data.classes)


def test_a_vector_begins_as_it_was_built_alike_in_every_run(corpus):
    recipe = tiny.recipe(corpus, model=Own(scaled, roles={"decay": "vector", "start": "vector"}))
    first = []
    for _ in range(2):
        torch.manual_seed(len(first) + 5)
        engine = Engine(tiny.pack(recipe, [{"lr": 0.01}, {"lr": 0.02}]), tiny.CPU, packed=True)
        first.append(named_params(engine.groups, engine.start().params))
    for tensors in (*first[0], *first[1]):
        assert torch.equal(tensors["decay"], torch.full((8,), 0.25)) and tensors["start"].std() > 0.3
        assert torch.equal(tensors["start"], first[0][0]["start"])
    assert not torch.equal(first[0][0]["up.weight"], first[0][1]["up.weight"])


def normed(rung, data):
    found = plain(rung, data)
    torch.nn.utils.parametrizations.weight_norm(found.up)
    return found


def test_weight_norm_is_refused_by_name(corpus):
    with pytest.raises(InputError, match=r"up.parametrizations.weight.original0 is a magnitude of weight_norm"):
        Engine(tiny.pack(tiny.recipe(corpus, model=Own(normed)), [{"lr": 0.01}]), tiny.CPU, packed=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("module", [llama, gpt2])
def test_models_of_transformers_are_trained_as_they_are(corpus, module, precision):
    """Two architectures: buys that what most users have works unmodified, packed, with every matrix counted."""
    pytest.importorskip("transformers", reason="pip install transformers")
    recipe = tiny.recipe(corpus, model=Own(module), optimizer=AdamW(lr=0.01))
    pack = tiny.pack(recipe, [{"lr": 0.01}, {"lr": 0.02}], rung=tiny.RUNG.but(width=16, heads=2))
    runs = train(replace(pack, precision=precision), device=tiny.CPU)
    assert all(run.finished and run.cost.precision == precision and run.cost.alone_because is None for run in runs)
    assert all(run.curve["train_loss"][-1] < run.curve["train_loss"][0] for run in runs)
    made = on_meta(lambda: recipe.model.build(RUNG, TEXT))
    tables = {id(layer.weight) for layer in made.modules() if isinstance(layer, nn.Embedding)}
    matrices = sum(p.numel() for p in made.parameters() if p.dim() == 2 and id(p) not in tables)
    readout = 256 * 32 if recipe.size(RUNG).tied else 0  # a table of which a product is taken too
    attention = 2 * 2 * 3 * 16 * 32 * RUNG.depth  # scores and weighted sum, forward and backward, over 16 tokens
    assert recipe.size(RUNG).flops_per_token == pytest.approx(6 * (matrices + readout) + attention, rel=1e-3)
