"""bfloat16 on request: matrix products alone are computed in it, the result holds, and the record says so."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.errors import InputError, Stopped
from windtunnel.launch.here import Here
from windtunnel.launch.one import execute
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import CNN, MLP, Experts, Transformer
from windtunnel.parts.optimizers import AdamW
from windtunnel.study.job import _say_if_slow
from windtunnel.train import pieces, rewritten
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.timing import timed

VALUES = [{"lr": 0.003}, {"lr": 0.01}, {"lr": 0.02}]
# A product of bfloat16 carries 2^-9 of each factor; over a mean of 64 tokens the loss keeps a few such roundings.
ROUNDED = 0.01


@pytest.fixture
def pack(corpus):
    return tiny.pack(tiny.recipe(corpus, optimizer=AdamW(lr=wt.tuned(1e-3, 0.1))), VALUES)


def low(pack):
    return replace(pack, precision="bfloat16")


def losses(runs):
    return np.array([run.curve["train_loss"] for run in runs])


def images(model):
    rung = wt.Rung(width=8, depth=2, tokens=8 * 6, batch=6)
    recipe = wt.recipes.cnn_mup_adamw(data=wt.data.digits()).but(
        model=model, optimizer=AdamW(lr=0.01), batch=FixedBatch(examples=6)
    )
    return tiny.pack(recipe, [{}, {}], rung=rung, base=rung.but(width=4))


def test_a_pack_in_bfloat16_has_the_losses_of_float32_to_its_rounding_and_says_what_it_was(pack):
    there, here = train(pack, device=tiny.CPU), train(low(pack), device=tiny.CPU)
    assert [run.cost.precision for run in there + here] == ["float32"] * 3 + ["bfloat16"] * 3
    assert not np.array_equal(losses(there), losses(here))
    np.testing.assert_allclose(losses(here), losses(there), rtol=ROUNDED)
    assert [run.key for run in there] == [run.key for run in here]
    for a, b in zip(there, here, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=ROUNDED)


def test_weights_gradients_and_states_stay_float32(pack):
    engine = Engine(low(pack), tiny.CPU, packed=True, compile=False)
    state, seen = engine.start(), []
    as_it_was = engine.gradient

    def watched(*given):
        found = as_it_was(*given)
        seen.extend(grad.dtype for grad in found[0])
        return found

    engine.gradient = watched
    engine.advance(state)
    held = {t.dtype for t in state.params} | {t.dtype for tree in state.states for t in tree.values()} | set(seen)
    assert not held & {torch.bfloat16, torch.float16}


def test_a_member_in_bfloat16_is_the_run_trained_alone(pack):
    together = train(low(pack), device=tiny.CPU)
    for member, run in enumerate(together):
        single = low(pack).part([member])
        (alone,) = train(single, device=tiny.CPU, packed=False)
        np.testing.assert_allclose(run.curve["train_loss"], alone.curve["train_loss"], rtol=ROUNDED)
        assert alone.cost.precision == "bfloat16"


@pytest.mark.parametrize(
    "model",
    [Transformer(tied=True, gains=True, norm=torch.nn.LayerNorm, kv_groups=1), Transformer(mlp=Experts(count=4))],
    ids=["layer norm, tied", "experts"],
)
def test_stock_decoders_compute_in_bfloat16(corpus, model):
    pack = tiny.pack(tiny.recipe(corpus, optimizer=AdamW(lr=0.01), model=model), [{}, {}])
    there, here = train(pack, device=tiny.CPU), train(low(pack), device=tiny.CPU)
    assert not np.array_equal(losses(here), losses(there))
    np.testing.assert_allclose(losses(here), losses(there), rtol=3 * ROUNDED)  # a router may choose otherwise


@pytest.mark.parametrize("model", [CNN(), MLP()], ids=["CNN", "MLP"])
def test_stock_image_models_compute_in_bfloat16(model):
    pack = images(model)
    there, here = train(pack, device=tiny.CPU), train(low(pack), device=tiny.CPU)
    assert not np.array_equal(losses(here), losses(there))
    np.testing.assert_allclose(losses(here), losses(there), rtol=3 * ROUNDED)


def test_a_stopped_pack_goes_on_in_the_precision_it_began_in(pack, tmp_path):
    asked = iter([False] * 5 + [True] * 100)
    with pytest.raises(Stopped):
        train(low(pack), device=tiny.CPU, folder=tmp_path, stop=lambda: next(asked))
    resumed = train(pack, device=tiny.CPU, folder=tmp_path)  # asked in float32, begun in bfloat16
    assert [tiny.numbers(run) for run in resumed] == [tiny.numbers(run) for run in train(low(pack), device=tiny.CPU)]
    assert {run.cost.precision for run in resumed} == {"bfloat16"}


def test_a_compiled_step_in_bfloat16_is_the_step_as_written_to_rounding(pack):
    here = train(low(pack), device=tiny.CPU, compile=False)
    compiled = train(low(pack), device=tiny.CPU, compile=True)
    assert [(run.cost.compiled_steps, run.cost.eager_because) for run in compiled] == [(tiny.STEPS, None)] * 3
    np.testing.assert_allclose(losses(compiled), losses(here), rtol=ROUNDED)


@pytest.mark.parametrize("heads, tokens, width", [(1, 16, 16), (3, 33, 16), (2, 64, 32)])
def test_attention_written_out_is_attention(heads, tokens, width):
    draw = torch.Generator().manual_seed(heads)
    query, key, value, grad = (torch.randn(5, heads, tokens, width, generator=draw) for _ in range(4))
    aten, own = torch.ops.aten, rewritten.rewritten("bfloat16")
    forward = aten._scaled_dot_product_flash_attention_for_cpu
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    out, norm = forward(query, key, value, 0.0, True)
    found, found_norm = own[forward.default](query, key, value, 0.0, True)
    assert_near(found, out)
    torch.testing.assert_close(found_norm, norm, rtol=0, atol=0.05)
    expected = backward(grad, query, key, value, out, norm, 0.0, True)
    for mine, theirs in zip(
        own[backward.default](grad, query, key, value, out, norm, 0.0, True), expected, strict=True
    ):
        assert_near(mine, theirs)


def assert_near(found, expected):
    assert float((found - expected).norm() / expected.norm()) < ROUNDED


def test_attention_is_written_out_only_where_it_pays_and_where_it_is_causal():
    aten = torch.ops.aten
    forward = aten._scaled_dot_product_flash_attention_for_cpu.default
    assert forward not in rewritten.rewritten("float32")
    own = rewritten.rewritten("bfloat16")[forward]
    short, long = torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 4096, 4)
    assert own(long, long, long, 0.0, True) is NotImplemented
    assert own(short, short, short, 0.0, False) is NotImplemented
    assert own(short, short, short, 0.5, True) is NotImplemented
    assert own(short, short, short, 0.0, True, attn_mask=torch.zeros(8, 8)) is NotImplemented
    assert own(short, short, short, 0.0, True)[0].shape == short.shape


def test_a_long_context_keeps_torchs_own_attention(corpus, monkeypatch):
    monkeypatch.setattr(rewritten, "MOST_SCORES", 1)
    pack = tiny.pack(tiny.recipe(corpus, optimizer=AdamW(lr=0.01)), [{}, {}])
    compiled = train(low(pack), device=tiny.CPU, compile=True)
    assert {run.cost.eager_because for run in compiled} == {None}
    np.testing.assert_allclose(losses(compiled), losses(train(low(pack), device=tiny.CPU, compile=False)), rtol=ROUNDED)


def test_timing_is_of_the_precision_that_will_be_used(pack, monkeypatch):
    seen, as_it_was = [], Engine.__init__

    def watched(self, *given, **named):
        as_it_was(self, *given, **named)
        seen.append(self.precision)

    monkeypatch.setattr(Engine, "__init__", watched)
    timed(low(pack), tiny.CPU)
    assert seen == ["bfloat16"]


def test_an_unknown_precision_is_refused(pack):
    with pytest.raises(InputError, match="precision is 'float16'; it is one of float32, bfloat16"):
        replace(pack, precision="float16")


@pytest.mark.parametrize("rates, said", [((1.0, 4.0), 1), ((4.0, 1.0), 0)])
def test_a_device_that_gains_nothing_is_named(monkeypatch, rates, said):
    rate = dict(zip(("bfloat16", "float32"), rates, strict=True))
    monkeypatch.setattr("windtunnel.train.peak.matmul_rate", lambda device, precision: rate[precision])
    told = []
    _say_if_slow(type("Watch", (), {"say": lambda self, sentence: told.append(sentence)})())
    assert len(told) == said
    assert all("0.25 times the rate of float32" in sentence for sentence in told)


def asked(corpus, widths):
    return tiny.study(
        corpus, ideas=[], tuning=wt.Tuning(points=3, seeds=1, recheck=0), train_target=False,
        ladder=wt.Ladder.widths(widths, depth=1, tokens=tiny.TOKENS, head_width=8, seeds=1),
    )  # fmt: skip


def precisions(store):
    return {store.get(row["key"]).cost.precision for row in store.rows()}


def test_a_study_in_bfloat16_takes_what_is_there_and_says_that_its_ladder_is_mixed(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    launcher = Here(devices=1)
    plain = asked(corpus, (8, 12, 16)).run(store, launcher=launcher)
    assert precisions(store) == {"float32"}
    assert not any("bfloat16" in caveat for caveat in plain.forecasts["base"].caveats)
    mixed = asked(corpus, (8, 12, 16, 24)).run(store, launcher=launcher, precision="bfloat16")
    assert precisions(store) == {"float32", "bfloat16"}
    said = [caveat for caveat in mixed.forecasts["base"].caveats if "bfloat16" in caveat]
    assert said == [
        "1 of the 4 ladder runs were trained in bfloat16, the others in float32; the difference is part of what is "
        "forecast."
    ]


def test_the_command_line_trains_in_bfloat16_and_repeats_itself(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "precise_study.py"
    file.write_text(
        f"import tiny, windtunnel as wt\nstudy = tiny.study({str(corpus)!r}, ideas=[], train_target=False, "
        f"tuning=wt.Tuning(points=3, seeds=1, recheck=0))\n"
    )
    store = tmp_path / "store"
    code = main(["run", str(file), "--store", str(store), "--devices", "2", "--precision", "bfloat16"])
    out, err = capsys.readouterr()
    assert code in (0, 3), err
    assert precisions(wt.Store(store)) == {"bfloat16"}
    assert out.splitlines()[-1] == f"repeat: windtunnel run {file} --store {store} --devices 2 --precision bfloat16"


class Turned(torch.nn.Module):
    """Ends in a product turned into complex numbers, of which there are none of two bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        out = self.model(inputs)
        return torch.complex(out, torch.zeros_like(out)).real


def turned(model):
    return Turned(model)


def test_a_model_that_has_no_bfloat16_is_trained_in_float32_and_its_record_says_so(corpus, tmp_path):
    pack = tiny.pack(tiny.recipe(corpus, optimizer=AdamW(lr=0.01), transforms=(turned,)), [{}, {}])
    store = wt.Store(tmp_path / "store")
    execute(low(pack), store, device=tiny.CPU)
    runs = [store.get(spec.key) for spec in pack.specs]
    assert [run.finished for run in runs] == [True, True]
    assert {run.cost.precision for run in runs} == {"float32"}
    assert all("omplex" in run.cost.alone_because or "BFloat16" in run.cost.alone_because for run in runs)
    np.testing.assert_allclose(losses(runs), losses(train(pack, device=tiny.CPU)), rtol=1e-5)


def test_a_run_in_stretches_is_of_the_lowest_precision_of_any(corpus):
    cost = {**asdict(train(tiny.pack(tiny.recipe(corpus, optimizer=AdamW(lr=0.01)), [{}]), device=tiny.CPU)[0].cost)}
    both = [cost | {"precision": "bfloat16"}, cost]
    assert (pieces._together(both).precision, pieces._together([cost]).precision) == ("bfloat16", "float32")
