"""Members of a pack do not influence each other, and what goes wrong with one is an Outcome with its reason.

The reference throughout is the same run trained alone, through the same loop without `vmap`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch.one import execute
from windtunnel.parts.models import CNN, GELU, MLP, Experts, Transformer
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import LAMB, LARS, SGD, AdamAtan2, AdamW, Lion, Muon, Shampoo
from windtunnel.parts.schedules import WSD, Constant, Cosine
from windtunnel.recipe import tuned
from windtunnel.runs import Outcome
from windtunnel.train.loop import train

BASE = tiny.RUNG.but(heads=2)
WIDER = tiny.RUNG.but(width=16, heads=4)


def assert_as_alone(pack, rel=1e-6, **options):
    """Every logged number of every member equals the member trained by itself without vmap."""
    for member, run in enumerate(train(pack, device=tiny.CPU)):
        single = tiny.alone(pack, member, packed=False, **options)
        assert run.outcome is single.outcome is Outcome.FINISHED, run.message or single.message
        np.testing.assert_allclose(run.curve["train_loss"], single.curve["train_loss"], rtol=rel)
        np.testing.assert_allclose(run.curve["judged_loss"], single.curve["judged_loss"], rtol=rel)
        assert run.metrics["accuracy"] == pytest.approx(single.metrics["accuracy"], abs=0.02)


def lrs(*values):
    return [{"lr": value} for value in values]


OPTIMIZERS = {
    "adamw": (AdamW(weight_decay=0.1), (1e-3, 1e-2, 3e-2)),
    "sgd": (SGD(weight_decay=0.01), (1e-3, 3e-3, 1e-2)),
    "lion": (Lion(), (1e-4, 3e-4, 1e-3)),
    "muon": (Muon(others_lr=0.01), (1e-3, 1e-2, 3e-2)),
    "adam-atan2": (AdamAtan2(weight_decay=0.1), (1e-3, 1e-2, 3e-2)),
    "lamb": (LAMB(weight_decay=0.01), (1e-3, 1e-2, 3e-2)),
    "lars": (LARS(weight_decay=0.01), (1e-3, 3e-3, 1e-2)),
    "shampoo": (Shampoo(others_lr=0.01), (1e-3, 1e-2, 3e-2)),
}
MODELS = {
    "swiglu": Transformer(),
    "gelu, LayerNorm with gains, tied": Transformer(norm=nn.LayerNorm, gains=True, mlp=GELU, tied=True),
    "RMSNorm with gains, grouped keys": Transformer(gains=True, kv_groups=2),
    "experts": Transformer(mlp=Experts(count=4, active=2)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_is_the_run_alone_with_each_optimizer(corpus, name):
    optimizer, values = OPTIMIZERS[name]
    recipe = tiny.recipe(corpus, optimizer=optimizer)
    assert_as_alone(tiny.pack(recipe, lrs(*values), rung=WIDER, base=BASE))


@pytest.mark.parametrize("name", MODELS)
def test_a_row_is_the_run_alone_with_each_transformer(corpus, name):
    recipe = tiny.recipe(corpus, model=MODELS[name], optimizer=AdamW(eps=1e-6))
    assert_as_alone(tiny.pack(recipe, lrs(1e-3, 1e-2, 3e-2), rung=WIDER, base=BASE))


@pytest.mark.parametrize("model", [MLP(), CNN()])
def test_a_row_is_the_run_alone_on_images(model):
    recipe = wt.recipes.mlp_mup_sgd(data=wt.data.digits()).but(model=model)
    rung = wt.Rung(width=8, depth=2, tokens=128, batch=8)
    assert_as_alone(tiny.pack(recipe, lrs(1e-3, 1e-2, 3e-2), rung=rung, base=rung.but(width=4)))


def test_members_that_differ_only_in_seed_differ(corpus):
    runs = train(tiny.pack(tiny.recipe(corpus), lrs(0.01, 0.01)), device=tiny.CPU)
    assert runs[0].curve["train_loss"][0] != runs[1].curve["train_loss"][0]


def test_equal_members_have_equal_rows(corpus):
    runs = train(tiny.pack(tiny.recipe(corpus), lrs(0.01, 0.01), seeds=(3, 3)), device=tiny.CPU)
    np.testing.assert_array_equal(runs[0].curve["train_loss"], runs[1].curve["train_loss"])


def test_members_may_differ_in_fields_of_the_schedule_and_of_the_optimizer(corpus):
    optimizer = AdamW(eps=1e-6, weight_decay=tuned(1e-3, 1.0))
    recipe = tiny.recipe(corpus, schedule=Constant(warmup=tuned(0.1, 0.9)), optimizer=optimizer)
    values = [
        {"lr": 0.01, "weight_decay": 0.001, "warmup": 0.1},
        {"lr": 0.01, "weight_decay": 0.5, "warmup": 0.1},
        {"lr": 0.01, "weight_decay": 0.001, "warmup": 0.9},
    ]
    pack = tiny.pack(recipe, values, seeds=(0, 0, 0))
    losses = [run.loss for run in train(pack, device=tiny.CPU)]
    assert len(set(losses)) == 3
    assert_as_alone(pack)


@pytest.mark.parametrize("schedule", [WSD, Cosine])
def test_every_stock_schedule_can_leave_a_field_open_for_tuning(schedule):
    assert schedule(floor=tuned(0.01, 0.5)).floor == tuned(0.01, 0.5)


@pytest.mark.parametrize("schedule", [Constant(warmup=0.2), Cosine()])
def test_a_row_is_the_run_alone_with_each_schedule(corpus, schedule):
    assert_as_alone(tiny.pack(tiny.recipe(corpus, schedule=schedule, optimizer=AdamW(eps=1e-6)), lrs(1e-3, 1e-2)))


# what goes wrong with one


def test_a_diverged_member_is_retired_with_its_reason_and_the_others_do_not_notice(corpus):
    recipe = tiny.recipe(corpus, optimizer=SGD())
    with_it = train(tiny.pack(recipe, lrs(1e-3, 1e30, 1e-2)), device=tiny.CPU)
    without = train(tiny.pack(recipe, lrs(1e-3, 1e-2), seeds=(0, 2)), device=tiny.CPU)
    assert [run.outcome for run in with_it] == [Outcome.FINISHED, Outcome.DIVERGED, Outcome.FINISHED]
    lost = with_it[1]
    assert lost.loss is None and lost.metrics == {}
    assert "the training loss was not finite at step" in lost.message
    losses, at = lost.curve["train_loss"], int(lost.message.rpartition(" ")[2])
    assert np.isfinite(losses[: at - 1]).all() and not np.isfinite(losses[at - 1 :]).any()
    for kept, alone in zip((with_it[0], with_it[2]), without, strict=True):
        np.testing.assert_allclose(kept.curve["train_loss"], alone.curve["train_loss"], rtol=1e-6)
        assert kept.loss == pytest.approx(alone.loss)


def test_a_pack_in_which_all_diverge_ends_early(corpus):
    steps = []
    runs = train(
        tiny.pack(tiny.recipe(corpus, optimizer=SGD()), lrs(1e30, 1e35)),
        device=tiny.CPU,
        report=lambda progress: steps.append(progress.step),
    )
    assert [run.outcome for run in runs] == [Outcome.DIVERGED] * 2
    assert max(steps) < tiny.STEPS
    assert all(run.cost.flops < run.size.training_flops(tiny.TOKENS) for run in runs)


def test_a_diverged_run_is_stored_and_read_back(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    execute(tiny.pack(tiny.recipe(corpus, optimizer=SGD()), lrs(1e-3, 1e30)), store, device=tiny.CPU)
    assert sorted(str(run.outcome) for run in store.runs()) == ["diverged", "finished"]


# what cannot be batched


@dataclass(frozen=True)
class Impatient:
    """Cross-entropy whose smoothing depends on the loss through a Python `if`, which vmap cannot follow."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = CrossEntropy()(outputs, targets)
        return loss if float(loss.detach().mean()) > 1e9 else 1.0 * loss


@dataclass(frozen=True)
class Careful:
    """SGD that skips a step whose gradient is large, by a Python `if`."""

    lr: float = tuned(1e-3, 1e-1)

    geometry = "gradient"

    def init(self, param, site):
        return {}

    def update(self, grad, state, param, hp, site):
        if grad.norm() > 1e9:
            return torch.zeros_like(param), state
        return -hp["lr"] * grad, state


@dataclass(frozen=True)
class Plain:
    """The same SGD without the question."""

    lr: float = tuned(1e-3, 1e-1)

    geometry = "gradient"

    def init(self, param, site):
        return {}

    def update(self, grad, state, param, hp, site):
        return -hp["lr"] * grad, state


@pytest.mark.parametrize(
    "slots, plain",
    [
        ({"objective": Impatient()}, {}),
        ({"optimizer": Careful()}, {"optimizer": Plain()}),
    ],
)
def test_what_cannot_be_batched_is_trained_alone_by_the_same_loop_with_the_reason(corpus, tmp_path, slots, plain):
    store = wt.Store(tmp_path / "store")
    pack = tiny.pack(tiny.recipe(corpus, **slots), lrs(1e-3, 1e-2))
    execute(pack, store, device=tiny.CPU)
    batched = train(tiny.pack(tiny.recipe(corpus, **plain), lrs(1e-3, 1e-2)), device=tiny.CPU)
    for spec, other in zip(pack.specs, batched, strict=True):
        run = store.get(spec.key)
        assert run.outcome is Outcome.FINISHED, run.message
        assert run.cost.members == 1
        assert "vmap" in str(run.cost.alone_because)
        np.testing.assert_allclose(run.curve["train_loss"], other.curve["train_loss"], rtol=1e-6)


def test_what_can_be_batched_says_no_reason(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    execute(tiny.pack(tiny.recipe(corpus), lrs(1e-3, 1e-2)), store, device=tiny.CPU)
    assert {(run.cost.members, run.cost.alone_because) for run in store.runs()} == {(2, None)}


# what is wrong


@dataclass(frozen=True)
class Broken(AdamW):
    """Divides by nothing."""

    def update(self, grad, state, param, hp, site):
        raise ZeroDivisionError("nothing to divide by")  # the line that the message must name


def test_a_part_that_raises_is_a_crashed_run_that_names_file_and_line(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    execute(tiny.pack(tiny.recipe(corpus, optimizer=Broken()), lrs(1e-3, 1e-2)), store, device=tiny.CPU)
    with open(__file__) as file:
        line = next(n for n, text in enumerate(file, 1) if "the line that the message must name" in text)
    for run in store.runs():
        assert run.outcome is Outcome.CRASHED
        assert run.message == f"ZeroDivisionError: nothing to divide by (test_pack.py, line {line})"
        assert run.loss is None and run.size.total > 0
    assert len(list(store.keys())) == 2
    assert not list((store.path / "packs").glob("*/"))


class WrongShapes(nn.Module):
    """Gives an embedding the wrong type of tokens, which fails in torch's own files."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens.float())


def test_an_error_deep_in_torch_names_the_last_line_that_is_not_torch_s(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    execute(tiny.pack(tiny.recipe(corpus, transforms=(WrongShapes,)), lrs(1e-3)), store, device=tiny.CPU)
    (run,) = store.runs()
    assert run.outcome is Outcome.CRASHED
    assert "(transformer.py, line" in run.message


@dataclass(frozen=True)
class Miscounting(Transformer):
    """A decoder whose formula forgets a tensor."""

    def size(self, rung, data):
        size = super().size(rung, data)
        return replace(size, non_embedding=size.non_embedding - 8)


def test_a_wrong_size_formula_is_refused_with_both_counts(corpus, tmp_path):
    store = wt.Store(tmp_path / "store")
    pack = tiny.pack(tiny.recipe(corpus, model=Miscounting()), lrs(1e-3))
    counted = sum(p.numel() for p in pack.recipe.model.build(tiny.RUNG, pack.recipe.data.shape()).parameters())
    with pytest.raises(InputError, match=rf"Miscounting.size says {counted - 8:,} parameters but .* {counted:,}"):
        execute(pack, store, device=tiny.CPU)
    assert list(store.keys()) == []


def test_a_horizon_that_is_no_whole_number_of_steps_ends_at_the_horizon(corpus):
    rung = tiny.RUNG.but(tokens=tiny.TOKENS - 7)
    (run,) = train(tiny.pack(tiny.recipe(corpus), lrs(0.01), rung=rung), device=tiny.CPU)
    assert len(run.curve["step"]) == tiny.STEPS
    assert run.curve["tokens"][-1] == run.curve["judged_tokens"][-1] == rung.tokens


def test_the_judge_is_asked_as_often_as_it_says(corpus):
    (run,) = train(tiny.pack(tiny.recipe(corpus), lrs(0.01)), device=tiny.CPU)
    np.testing.assert_array_equal(run.curve["judged_tokens"], [tiny.TOKENS / 2, tiny.TOKENS])
    assert run.loss == run.curve["judged_loss"][-1]
