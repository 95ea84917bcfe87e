"""Unmodified Hugging Face models, from tiny random configurations: roles, and sizes of activations as they grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.rules import Standard

hf = pytest.importorskip("transformers", reason="needs transformers: pip install 'windtunnel[dev]'")
V, BASE = 64, 32


def heads(width, depth):
    return {"num_hidden_layers": depth, "num_attention_heads": width // 8}


def gpt2(width, depth=2, tied=True):
    ids = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": tied}
    sizes = {"n_embd": width, "n_layer": depth, "n_head": width // 8, "n_positions": 32}
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=V, **sizes, **ids, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))


def gpt2_untied(width, depth=2):
    return gpt2(width, depth, tied=False)


def llama(width, depth=2):
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, **heads(width, depth)}
    return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=V, **sizes))


def mistral(width, depth=2):
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_key_value_heads": 2, "head_dim": 8}
    return hf.MistralForCausalLM(hf.MistralConfig(vocab_size=V, **sizes, **heads(width, depth), sliding_window=None))


def mixtral(width, depth=2):
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_key_value_heads": width // 8}
    return hf.MixtralForCausalLM(hf.MixtralConfig(vocab_size=V, **sizes, **heads(width, depth), num_local_experts=4))


def mamba(width, depth=2):
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "state_size": 4, "time_step_rank": 4}
    return hf.MambaForCausalLM(hf.MambaConfig(vocab_size=V, **sizes, tie_word_embeddings=False))


def vit(width, depth=2):
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "image_size": 16, "patch_size": 4}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, **heads(width, depth), num_labels=10))


def bert(width, depth=2):
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "max_position_embeddings": 32}
    return hf.BertForMaskedLM(hf.BertConfig(vocab_size=V, **sizes, **heads(width, depth)))


# What shapes cannot tell, stated in one line each.
STATED = {
    mistral: {"*.k_proj.weight": "hidden", "*.v_proj.weight": "hidden"},
    mixtral: {"*.mlp.gate.weight": "router", "*.experts.*": ("hidden", "-oi")},
    mamba: {"*.A_log": "vector", "*.D": "vector", "*.dt_proj.bias": "vector", "*.x_proj.weight": "hidden"},
    vit: {"*_token": "vector", "*position_embeddings": "vector"},
}
ALL = (gpt2, gpt2_untied, llama, mistral, mixtral, mamba, vit, bert)


def adopted(build, target, base=BASE, **more):
    return adopt(build, base=base, target=target, optimizer=torch.optim.AdamW, roles=STATED.get(build), **more)


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
def test_every_tensor_gets_a_role_and_the_logits_one_multiplier(build):
    table = adopted(build, 4 * BASE).table
    assert set(table.sites) == {name for name, _ in build(4 * BASE).named_parameters()}
    assert list(table.forward.values()) == [0.25]
    matrices = [name for name, site in table.sites.items() if site.role == "hidden"]
    assert len(matrices) >= 6 and {table.scales[name].lr for name in matrices} <= {0.25, 1.0}


def test_linear_layers_that_store_their_weight_turned_are_known():
    site = adopted(gpt2, 4 * BASE).table.sites["transformer.h.0.mlp.c_fc.weight"]
    assert (site.shape, site.fan_in, site.fan_out) == ((128, 512), 128, 512)


def test_stacked_experts_take_their_own_fan_in():
    sites = adopted(mixtral, 4 * BASE).table.sites
    up, down = (sites[f"model.layers.0.mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj"))
    assert (up.fan_in, up.fan_out, down.fan_in) == (128, 512, 256)


@pytest.mark.parametrize("build", STATED, ids=lambda build: build.__name__)
def test_what_shapes_cannot_tell_is_asked_for(build):
    with pytest.raises(InputError, match=r"roles=\{"):
        adopt(build, base=BASE, target=4 * BASE, optimizer=torch.optim.AdamW)


# Where residual branches end, as a reader of the models' code would say.
ENDS = {
    gpt2: ("attn.c_proj", "mlp.c_proj"),
    gpt2_untied: ("attn.c_proj", "mlp.c_proj"),
    llama: ("self_attn.o_proj", "mlp.down_proj"),
    mistral: ("self_attn.o_proj", "mlp.down_proj"),
    mixtral: ("self_attn.o_proj", "mlp.experts"),
    mamba: ("mixer.out_proj",),
    vit: ("attention.o_proj", "mlp.fc2"),
    bert: ("attention.output.dense", "output.dense"),
}


@pytest.mark.parametrize("build", ENDS, ids=lambda build: build.__name__)
def test_residual_branches_of_a_deeper_model_are_found_without_being_named(build):
    example = {"pixel_values": torch.zeros(1, 3, 16, 16)} if build is vit else None  # others have dummy inputs
    table = adopted(build, (BASE, 6), base=(BASE, 2), example=example).table
    assert set(table.residual.values()) == {1 / 3} and len(table.residual) == 6 * len(ENDS[build])
    assert all(name.endswith(ENDS[build]) for name in table.residual)


def sizes_of(build, width, seed, steps=4, **rule):
    """Mean absolute hidden state of the last layer and standard deviation of logits after a few AdamW steps."""
    scales, model = adopted(build, width, **rule), build(width)
    scales.initialize(model, seed=seed)
    scales.attach(model)
    optimizer = torch.optim.AdamW(scales.groups(model, 1e-2, eps=1e-12), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps + 1):
        tokens = torch.randint(V, (8, 16), generator=generator)
        found = model(input_ids=tokens, output_hidden_states=True)
        F.cross_entropy(found.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(found.hidden_states[-2].detach().abs().mean()), float(found.logits.detach().std())


@pytest.mark.slow
@pytest.mark.parametrize("build", [gpt2, llama, mistral, mixtral, mamba], ids=lambda build: build.__name__)
def test_hidden_states_of_an_adopted_model_stay_as_large_when_it_grows(build):
    """Slow: trains 8 models for a few steps. Logits of random readouts may shrink under muP; they must not grow."""
    hidden, logits = slopes(build)
    assert abs(hidden) < 0.1 and logits < 0.1, (hidden, logits)


@pytest.mark.slow
def test_under_the_standard_parametrization_they_do_not():
    """Slow: trains 8 models for a few steps."""
    hidden, logits = slopes(llama, rule=Standard())
    assert hidden > 0.2 or logits > 0.3, (hidden, logits)


def slopes(build, widths=(32, 64, 128, 256), **rule):
    """Slopes of the log of `sizes_of` over log width, mean of two seeds."""
    logs = np.log([np.mean([sizes_of(build, width, seed, **rule) for seed in (0, 1)], axis=0) for width in widths])
    return np.polyfit(np.log(widths), logs, 1)[0]


def gemma(width):
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "head_dim": 8, "num_key_value_heads": width // 8}
    return hf.GemmaForCausalLM(hf.GemmaConfig(vocab_size=V, **sizes, **heads(width, 2)))


def gemma_of_one_scale(width):
    model = gemma(width)
    table = model.model.embed_tokens
    table.scalar_embed_scale = BASE**0.5
    if not table.embed_scale.is_meta:
        table.embed_scale.fill_(BASE**0.5)
    return model


def next_tokens(seed, step):
    start = torch.randint(V, (8, 1), generator=torch.Generator().manual_seed(1000 * seed + step))
    return (start + torch.arange(16)) % V


def loss(model, tokens):
    return F.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def test_a_model_that_multiplies_its_embedding_by_the_root_of_its_width_is_found_out():
    def slopes(build):
        setup = wt.checks.Setup(
            build=build, base=BASE, optimizer=torch.optim.AdamW, loss=loss, batches=next_tokens, lr=2e-3
        )
        found = wt.checks.coordinates(setup, (32, 64, 128), seeds=(0, 1))
        return found.ok, {line.name: line.slope.value for line in found.last if line.quantity == "size"}

    told, as_it_is = slopes(gemma)
    assert told is False and as_it_is["model.embed_tokens"] == pytest.approx(0.5, abs=0.05)
    assert slopes(gemma_of_one_scale)[0] is not False
