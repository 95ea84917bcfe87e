"""Dropout, and what the engine tells a network while it is trained: the same noise packed, alone, resumed, compiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

import windtunnel as wt
from windtunnel.errors import InputError, Stopped
from windtunnel.launch.here import Here
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.transforms import Dropout
from windtunnel.parts.transforms.dropout import Dropped, mixed
from windtunnel.train.loop import train


def pack_of(corpus, transforms, values=(0.003, 0.01), **slots):
    recipe = tiny.recipe(corpus, transforms=transforms, **slots)
    return tiny.pack(recipe, [{"lr": lr} for lr in values], seeds=range(len(values)))


def losses(pack, **how):
    return [run.curve["train_loss"] for run in train(pack, device=tiny.CPU, **how)]


def test_the_hash_of_counters_looks_like_chance():
    count = 1 << 18
    bits = mixed(torch.arange(count) + mixed(torch.tensor(12345)))
    uniform = bits.double() / 2**32
    # four standard errors of a mean, a variance and a correlation of independent uniform numbers
    assert abs(float(uniform.mean()) - 0.5) < 4 * (1 / 12 / count) ** 0.5
    assert abs(float(uniform.var()) - 1 / 12) < 4 * (1 / 180 / count) ** 0.5
    other = mixed(torch.arange(count) + mixed(torch.tensor(12346))).double() / 2**32
    for shifted in (uniform.roll(1), other, other.roll(1)):
        assert abs(float(torch.corrcoef(torch.stack([uniform, shifted]))[0, 1])) < 4 / count**0.5
    assert len(bits.unique()) > count * 0.9999  # a hash of 32 bits is one to one; sums of counters stay apart


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_share_is_dropped_and_the_mean_stays(rate):
    layer, x = Dropped(rate, 3), torch.ones(400, 100)
    assert torch.equal(layer(x), x)  # nobody trains it
    layer.noise.fill_(99)
    y = layer(x)
    error = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(float((y == 0).float().mean()) - rate) < 4 * error
    assert float(y.max()) == pytest.approx(1 / (1 - rate))
    assert torch.equal(layer.eval()(x), x)
    assert not torch.equal(Dropped(rate, 4)(x) == 0, y == 0)


def test_a_pack_with_dropout_equals_its_members_alone_and_a_compiled_one(corpus):
    pack = pack_of(corpus, (Dropout(rate=0.2),))
    together = losses(pack)
    for member, curve in enumerate(together):
        np.testing.assert_allclose(curve, losses(pack.part([member]), packed=False)[0], rtol=1e-5)
    for curve, faster in zip(together, losses(pack, compile=True), strict=True):
        np.testing.assert_allclose(curve, faster, rtol=1e-4)


def test_a_stopped_run_goes_on_with_the_same_masks(corpus, tmp_path):
    pack = pack_of(corpus, (Dropout(rate=0.2),))
    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=tmp_path, stop=lambda: True)
    for a, b in zip(losses(pack), losses(pack, folder=tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_differs_by_step_and_seed_and_a_rate_of_nothing_drops_nothing(corpus):
    plain, none, some = (
        losses(pack_of(corpus, transforms)) for transforms in ((), (Dropout(rate=0.0),), (Dropout(rate=0.2),))
    )
    np.testing.assert_array_equal(plain, none)
    assert not np.allclose(plain[0], some[0], rtol=1e-4)


def test_the_judge_sees_the_whole_network(corpus):
    whole, dropped = (
        train(pack_of(corpus, (Dropout(rate=rate),), values=(1e-9,)), device=tiny.CPU)[0] for rate in (0.0, 0.6)
    )
    assert whole.loss == pytest.approx(dropped.loss, abs=1e-6)  # hardly trained: only the training losses differ
    assert not np.allclose(whole.curve["train_loss"], dropped.curve["train_loss"], rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(InputError, match="0 <= rate < 1"):
        Dropout(rate=rate)


def test_a_name_that_nothing_has_is_refused(corpus):
    with pytest.raises(InputError, match="nothing would be dropped"):
        train(pack_of(corpus, (Dropout(where=("*.nowhere",)),)), device=tiny.CPU)


def test_a_rate_can_be_tuned(corpus):
    recipe = tiny.recipe(corpus, transforms=(Dropout(rate=wt.tuned(0.01, 0.5)),))
    assert set(recipe.tuned_fields()) == {"lr", "rate"}
    filled = recipe.fill({"lr": 0.01, "rate": 0.3})
    assert filled.transforms[0].rate == 0.3 and filled.optimizer.lr == 0.01
    assert recipe.shaped({"lr": 0.01, "rate": 0.3}).transforms[0].rate == 0.3


def test_a_study_searches_it(corpus, tmp_path):
    """Its runs are asked with the field open, and trained with it filled: that is no change of the code."""
    base = tiny.recipe(corpus, optimizer=AdamW(lr=0.01), transforms=(Dropout(rate=wt.tuned(0.01, 0.5)),))
    ladder = wt.Ladder.widths((8, 12, 16), depth=1, tokens=tiny.TOKENS // 2, head_width=8, seeds=1)
    target = wt.Target(rung=wt.Rung(width=24, depth=1, heads=3, tokens=tiny.TOKENS // 2))
    study = tiny.study(corpus, base=base, ideas=[], ladder=ladder, target=target, train_target=False)
    store = wt.Store(tmp_path / "store")
    result = study.run(store, launcher=Here(devices=1))
    assert "rate" in result.forecasts["base"].hyperparameters
    assert len({run.spec.hyperparameters["rate"] for run in store.runs()}) >= 3
    assert study.plan(store).missing == 0


@dataclass(frozen=True)
class Wanting:
    """A transform that needs what it names, with the buffers it says."""

    needs: tuple[str, ...]
    buffer: str = ""

    def __call__(self, model: nn.Module) -> nn.Module:
        if self.buffer:
            model.register_buffer(self.buffer, torch.tensor(0.0), persistent=False)
        return model


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Wanting(("weather",)), "does not tell a network"),
        (Wanting(("done",)), "has no place for it"),
        (Wanting(("noise",), "noise"), "dtype=torch.int64"),
    ],
)
def test_what_a_network_cannot_be_told_is_refused(corpus, part, words):
    with pytest.raises(InputError, match=words):
        train(pack_of(corpus, (part,)), device=tiny.CPU)


class Fading(nn.Module):
    """Adds a part of the readout that fades with the training; keeps what it was told."""

    done: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("done", torch.tensor(1.0), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens) + (1 - self.done) * tokens.unsqueeze(-1)


@dataclass(frozen=True)
class Fades:
    """The network, with a term that is gone at the end."""

    needs = ("done",)

    def __call__(self, model: nn.Module) -> nn.Module:
        return Fading(model)


def test_a_network_follows_the_horizon_so_two_horizons_share_no_row(corpus):
    recipe = tiny.recipe(corpus, transforms=(Fades(),))
    short, long = tiny.RUNG, tiny.RUNG.but(tokens=2 * tiny.TOKENS)
    packs = [tiny.pack(recipe, [{"lr": 0.01}], rung=rung) for rung in (short, long)]
    a, b = (pack.alike()[0] for pack in packs)
    plain = [tiny.pack(tiny.recipe(corpus), [{"lr": 0.01}], rung=rung).alike()[0] for rung in (short, long)]
    assert a != b and plain[0] == plain[1]
    assert np.isfinite(losses(packs[0])[0]).all()
