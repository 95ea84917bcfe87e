"""Stock models: the size formulas are exact, the decoder looks back only, the weightless layers are torch's.

FLOPs are compared with torch's own counter, exactly. The counter does not know the CPU's fused attention, and a fused
backward pass does more work than the formula's six per weight; so attention is written out as two products here.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.models import CNN, GELU, MLP, Experts, RMSNorm, SwiGLU, Transformer, transformer
from windtunnel.parts.models.attention import causal_attention
from windtunnel.parts.models.transformer import rotary
from windtunnel.recipe import DataShape

TEXT = DataShape(classes=50, tokens_per_example=12, train_tokens=10_000, example_shape=(12,))
IMAGES = DataShape(classes=10, tokens_per_example=1, train_tokens=1000, example_shape=(3, 8, 6))
RUNGS = [
    Rung(width=8, depth=1, heads=2, tokens=100),
    Rung(width=24, depth=3, heads=4, tokens=100),
    Rung(width=40, depth=2, heads=2, tokens=100),
]
DECODERS = [
    Transformer(),
    Transformer(tied=True),
    Transformer(norm=nn.LayerNorm),
    Transformer(gains=True, kv_groups=2),
    Transformer(norm=nn.LayerNorm, gains=True, mlp=GELU, tied=True, kv_groups=2),
    Transformer(norm=RMSNorm, gains=True, mlp=SwiGLU, tied=True),
    Transformer(mlp=Experts(count=3, active=1, share=0.5), tied=True),
]
ALL = [(model, TEXT) for model in DECODERS] + [(MLP(), IMAGES), (CNN(), IMAGES)]


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tokens(count=2, seed=0):
    return torch.randint(TEXT.classes, (count, 12), generator=torch.Generator().manual_seed(seed))


# sizes


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("model, data", ALL)
def test_the_size_formula_counts_the_tensors_that_are_built(model, data, rung):
    with torch.device("meta"):
        built = model.build(rung, data)
    size = model.size(rung, data)
    assert size.total == sum(p.numel() for p in built.parameters())
    tables = {p for m in built.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    assert size.embedding == sum(p.numel() for p in tables)
    assert size.tied is any(m.weight in tables for m in built.modules() if isinstance(m, nn.Linear))


def written_out(query, key, value):
    """Attention as two matrix products; the causal half is not discounted, as in the formula."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    past = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~past, float("-inf")).softmax(-1) @ value


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("model, data", ALL)
def test_the_flops_formula_is_what_torch_counts(model, data, rung, monkeypatch):
    monkeypatch.setattr(transformer, "causal_attention", written_out)
    built = model.build(rung, data)
    inputs = tokens(3) if data is TEXT else draw(3, *data.example_shape)
    with FlopCounterMode(display=False) as counter:
        built(inputs).sum().backward()
    size = model.size(rung, data)  # experts that a token does not meet are computed here and not counted there
    assert counter.get_total_flops() == (size.flops_per_token + 6 * size.idle) * 3 * data.tokens_per_example


# the decoder


@pytest.mark.parametrize("model", DECODERS)
def test_a_later_token_changes_no_earlier_logit(model):
    built = model.build(RUNGS[1], TEXT)
    before = tokens()
    after = before.clone()
    after[:, 7] = (after[:, 7] + 1) % TEXT.classes
    changed = (built(before) - built(after)).abs().amax(dim=(0, 2))
    assert torch.equal(changed[:7], torch.zeros(7))
    assert (changed[7:] > 0).all()


def test_logits_have_the_shape_of_tokens_and_vocabulary_also_for_a_short_text():
    built = Transformer().build(RUNGS[0], TEXT)
    assert built(tokens()).shape == (2, 12, 50)
    torch.testing.assert_close(built(tokens()[:, :5]), built(tokens())[:, :5])


@pytest.mark.parametrize("model", [MLP(), CNN()])
def test_an_image_gets_one_prediction(model):
    assert model.build(RUNGS[0], IMAGES)(draw(4, *IMAGES.example_shape)).shape == (4, 1, 10)


def test_grouped_keys_are_the_same_as_repeated_ones():
    """A model whose keys and values are stored once for two heads equals one that stores them twice."""
    rung = RUNGS[1]
    grouped, full = (Transformer(kv_groups=n).build(rung, TEXT) for n in (2, 1))
    state = grouped.state_dict()
    for name in list(state):
        if name.endswith(("key.weight", "value.weight")):
            heads = state[name].unflatten(0, (-1, rung.width // rung.heads))
            state[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(tokens()), full(tokens()))


@pytest.mark.parametrize("rung, groups", [(RUNGS[0].but(heads=8), 1), (RUNGS[0], 4)])
def test_a_decoder_that_cannot_be_built_is_refused(rung, groups):
    with pytest.raises(InputError, match="heads must be a multiple of kv_groups, and the head width even"):
        Transformer(kv_groups=groups).build(rung, TEXT)


# layers without weights


def test_rotary_positions_are_relative():
    turns = transformer._turns(8, 12).double()
    query, key = draw(8, dtype=torch.float64), draw(8, seed=1, dtype=torch.float64)
    turned = [rotary(x.expand(1, 12, 1, 8).contiguous(), turns)[0, :, 0] for x in (query, key)]
    scores = turned[0] @ turned[1].T
    for distance in range(-11, 12):
        line = scores.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), atol=1e-6, rtol=1e-6)
    assert (scores[0] - scores[0, 0]).abs().max() > 0.1


def test_rotary_turns_keep_lengths_and_leave_the_first_position():
    x = draw(2, 12, 3, 8)
    turned = rotary(x, transformer._turns(8, 12))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, 0], x[:, 0])


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


SHAPES = {
    "attention": (causal_attention, attention, [(2, 3, 5, 4)] * 3),
    "rms norm": (RMSNorm(8), lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6), [(2, 5, 8)]),
    "rotary": (
        lambda x: rotary(x, transformer._turns(4, 5).to(x.dtype)),
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.unflatten(-1, (-1, 2)))
            * torch.view_as_complex(transformer._turns(4, 5).to(x.dtype))
        ).flatten(-2),
        [(2, 5, 3, 4)],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_layers_without_weights_equal_torch_s_forward_and_backward(name):
    ours, torchs, shapes = SHAPES[name]
    inputs = [draw(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    outputs = ours(*inputs), torchs(*inputs)
    torch.testing.assert_close(*outputs)
    along = draw(*outputs[0].shape, seed=9)
    grads = [torch.autograd.grad(out, inputs, along) for out in outputs]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_their_gradients_are_those_of_differences(name):
    ours, _, shapes = SHAPES[name]
    inputs = tuple(draw(*shape, seed=i, dtype=torch.float64).requires_grad_() for i, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(ours, inputs)


@pytest.mark.parametrize("name", SHAPES)
def test_a_batch_of_them_is_each_of_them(name):
    ours, _, shapes = SHAPES[name]
    stacked = [draw(4, *shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    together = vmap(ours)(*stacked)
    one_by_one = torch.stack([ours(*(s[i] for s in stacked)) for i in range(4)])
    torch.testing.assert_close(together, one_by_one)
    along = draw(*together.shape, seed=9)
    grads = [torch.autograd.grad(out, stacked, along) for out in (together, one_by_one)]
    torch.testing.assert_close(*grads)


def test_a_batch_of_which_one_input_is_shared_is_each_of_them():
    query, key, value = (draw(4, 2, 3, 5, 4), draw(2, 3, 5, 4, seed=1), draw(2, 3, 5, 4, seed=2))
    together = vmap(causal_attention, in_dims=(0, None, None))(query, key, value)
    torch.testing.assert_close(together, torch.stack([causal_attention(one, key, value) for one in query]))


def test_second_derivatives_of_attention_are_refused_and_not_wrong():
    inputs = [draw(2, 3, 5, 4, seed=i).requires_grad_() for i in range(3)]
    (grad, *_) = torch.autograd.grad(causal_attention(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(grad.sum(), inputs, allow_unused=True)
