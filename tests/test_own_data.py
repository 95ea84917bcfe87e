"""A data plan of one's own: what does not fit is said by `plan` and `run` before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.launch.here import Here
from windtunnel.launch.one import execute
from windtunnel.parts.models import Own
from windtunnel.parts.objectives import SquaredError
from windtunnel.recipe import DataShape
from windtunnel.study.soundness import doubts
from windtunnel.train.data import check_examples, check_held_out, held_out_tokens
from windtunnel.train.overlap import Known
from windtunnel.train.steps import _paired

CLASSES = 256


@dataclass(frozen=True)
class Counting:
    """Sequences that count on, from anywhere; with one `fault`."""

    fault: str = ""
    where: str = "both"
    repeat: bool = True

    def shape(self):
        return DataShape(
            classes=CLASSES, tokens_per_example=tiny.CONTEXT, train_tokens=10**6, example_shape=(tiny.CONTEXT,)
        )

    def fingerprint(self):
        return f"counting {self.fault}"

    def _made(self, generator, size, here):
        starts = generator.integers(CLASSES, size=(size, 1))
        inputs = (starts + np.arange(tiny.CONTEXT)) % CLASSES
        targets = (inputs + 1) % CLASSES
        faults = {
            "list": (inputs.tolist(), targets),
            "short": (inputs[:, 1:], targets),
            "none": (inputs[:0], targets[:0]),
            "flat": (inputs, targets.ravel()),
            "bytes": (inputs, targets.astype(np.uint8)),
            "left out": (inputs, np.where(inputs % 2, targets, -100)),
            "more": (np.repeat(inputs, 2, 0), np.repeat(targets, 2, 0)),
            "floats": (inputs, targets.astype(np.float32)),
            "small": (inputs, targets.astype(np.int32)),
            "one": (inputs, targets[:, :1]),
            "beyond": (inputs, targets + CLASSES),
            "below": (inputs, targets - CLASSES),
            "doubles": (inputs.astype(np.float64), targets),
            "pixels": (inputs.astype(np.uint8), targets),
            "nan": (np.where(inputs == inputs[0, 0], np.nan, inputs).astype(np.float32), targets),
        }
        return faults.get(self.fault if self.where in (here, "both") else "", (inputs, targets))

    def batch(self, *, seed, step, size):
        if self.fault == "raises":
            raise ZeroDivisionError
        return self._made(np.random.default_rng((seed, step)), size, "batch")

    def held_out(self, *, size, tokens):
        if self.fault != "empty":
            yield self._made(np.random.default_rng(7), min(size, -(-tokens // tiny.CONTEXT)), "held_out")


class Larger(Counting):
    """The same with twice the vocabulary."""

    def shape(self):
        return replace(super().shape(), classes=2 * CLASSES)

    def fingerprint(self):
        return "counting further"


SAID = {
    "list": "two numpy arrays",
    "short": r"inputs of shape \(\d+, 15\).*\(16,\)",
    "none": r"inputs of shape \(0, 16\)",
    "floats": r"targets float32 .* must be int64 .* give the recipe objective=SquaredError",
    "small": "targets int32",
    "one": r"targets int64 of shape \(\d+, 1\)",
    "beyond": r"targets from \d+ to \d+; .* 256 classes, .* 0 to 255",
    "below": r"targets from -\d+ to -?\d+; .* 256 classes",
    "doubles": r"inputs of float64; .* give inputs.astype\(np.float32\), .* or np.int64 where",
}


@pytest.mark.parametrize("fault", SAID)
def test_each_fault_of_a_plan_is_named_with_its_method(fault):
    with pytest.raises(wt.InputError, match=rf"Counting\.batch .*{SAID[fault]}"):
        check_examples(Counting(fault))
    with pytest.raises(wt.InputError, match=rf"Counting\.held_out .*{SAID[fault]}"):
        check_held_out(wt.Judge(data=Counting(fault), tokens=4096))


def test_targets_that_an_objective_of_ones_own_reads_may_be_anything():
    for fault in ("floats", "small", "one", "beyond"):
        check_examples(Counting(fault), own_targets=True)
    with pytest.raises(wt.InputError, match=r"Counting\.batch gives inputs"):
        check_examples(Counting("short"), own_targets=True)


class Drawing(Counting):
    """Not a function of seed and step."""

    def batch(self, *, seed, step, size):
        return self._made(np.random.default_rng(), size, "batch")


class Positional(Counting):
    """Of another signature."""

    def batch(self, step, size):
        return super().batch(seed=0, step=step, size=size)

    def held_out(self, size):
        return super().held_out(size=size, tokens=64)


class Nameless(Counting):
    """Which data they are is not told."""

    def fingerprint(self):
        return None


def test_a_batch_that_is_not_a_function_of_seed_and_step_is_refused():
    with pytest.raises(wt.InputError, match=r"Drawing\.batch.* other examples when it is called again"):
        check_examples(Drawing())


def test_a_method_of_another_signature_is_refused_with_the_one_that_is_needed():
    with pytest.raises(
        wt.InputError, match=r"Positional\.batch cannot .*'seed'.* def batch\(self, \*, seed, step, size"
    ):
        check_examples(Positional())
    with pytest.raises(wt.InputError, match=r"Positional\.held_out cannot .* def held_out\(self, \*, size, tokens\)"):
        check_held_out(wt.Judge(data=Positional(), tokens=64))


class Spoilt(Counting):
    """One that has numbers that are none further on."""

    def shape(self):
        return replace(wt.data.digits().shape(), train_tokens=10**6)

    def batch(self, *, seed, step, size):
        images, labels = wt.data.digits().batch(seed=seed, step=step, size=size)
        return (images * np.float32(np.nan if step == 3 else 1), labels)


def test_inputs_that_are_not_finite_at_a_later_step_are_named_and_no_rate_is_blamed(tmp_path):
    recipe = wt.recipes.mlp_mup_sgd(data=Spoilt())
    check_examples(Spoilt())
    study = wt.Study(
        name="spoilt",
        base=recipe,
        ladder=wt.Ladder.widths((8, 12, 16), depth=1, tokens=320, seeds=1),
        target=wt.Target(rung=wt.Rung(width=48, depth=1, tokens=320)),
        tuning=wt.Tuning(points=3, seeds=1, recheck=0),
        judge=wt.Judge(data=wt.data.digits(), tokens=128),
    )
    store = wt.Store(tmp_path / "store")
    with pytest.raises(wt.InputError, match=r"Spoilt\.batch\(seed=0, step=3\) gives inputs of which .* are not finite"):
        study.run(store, launcher=Here(devices=1))
    assert not list(store.keys())


def test_a_fingerprint_is_checked_once_for_each_plan(monkeypatch):
    asked, plan = [], Digits()
    monkeypatch.setattr(Digits, "fingerprint", lambda self: asked.append(1) or "digits")
    for _ in range(3):
        check_examples(plan)
        check_held_out(wt.Judge(data=plan, tokens=128))
    assert len(asked) == 2


@dataclass(frozen=True)
class Digits:
    """Digits as other values; those held out too, or alone."""

    fault: str = ""
    held_out_only: bool = False
    repeat = True

    def shape(self):
        return wt.data.digits().shape()

    def fingerprint(self):
        return f"digits {self.fault} {self.held_out_only}"

    def _made(self, images):
        holed = images.copy()
        holed[..., 0, 0] = np.nan
        return {"bytes": (images * 255).astype(np.uint8), "bits": images > 0.5, "holes": holed}.get(self.fault, images)

    def batch(self, *, seed, step, size):
        images, labels = wt.data.digits().batch(seed=seed, step=step, size=size)
        return images if self.held_out_only else self._made(images), labels

    def held_out(self, *, size, tokens):
        for images, labels in wt.data.digits().held_out(size=size, tokens=tokens):
            yield self._made(images), labels


class Bearing(torch.nn.Module):
    """Takes numbers of any kind, and holes."""

    def forward(self, x):
        return torch.nan_to_num(x.float()).flatten(1)


def bearing(rung, data):
    return torch.nn.Sequential(Bearing(), torch.nn.Linear(64, rung.width), torch.nn.Linear(rung.width, data.classes))


def ran(data, store, model, rates=(0.01,)):
    """The runs of a few steps of an MLP, or of a model that bears anything."""
    recipe = wt.recipes.mlp_mup_sgd(data=data)
    recipe = recipe.but(model=Own(bearing)) if model == "bearing" else recipe
    rung = wt.Rung(width=8, depth=1, tokens=160, batch=32)
    pack = tiny.pack(recipe, [{"lr": rate} for rate in rates], rung=rung)
    check_examples(data)
    check_held_out(pack.judge)
    execute(pack, store, device=tiny.CPU)
    return list(store.runs())


@pytest.mark.parametrize("fault", ["bytes", "bits", "holes"])
def test_inputs_of_any_kind_are_the_networks_to_take(fault, tmp_path):
    (run,) = ran(Digits(fault), wt.Store(tmp_path), "bearing")
    assert run.outcome is wt.Outcome.FINISHED


def test_a_network_that_bears_holes_and_diverges_by_its_rate_is_not_put_down_to_them(tmp_path):
    runs = ran(Digits("holes"), wt.Store(tmp_path), "bearing", rates=(0.01, 1e30))
    assert {run.outcome for run in runs} == {wt.Outcome.FINISHED, wt.Outcome.DIVERGED}


def test_a_network_that_does_not_take_bytes_is_told_what_it_was_given(tmp_path):
    (run,) = ran(Digits("bytes"), wt.Store(tmp_path), "mlp")
    assert run.outcome is wt.Outcome.CRASHED and "was given inputs of uint8" in run.message


def test_held_out_inputs_that_make_a_loss_that_is_none_are_named(tmp_path):
    with pytest.raises(wt.InputError, match=r"Digits\.held_out gives inputs of which .* are not finite"):
        ran(Digits("holes", held_out_only=True), wt.Store(tmp_path), "mlp")


def test_an_objective_that_refuses_says_so_in_its_own_words():
    with pytest.raises(wt.InputError, match="compares 10 outputs an example with 1 targets"):
        _paired(SquaredError(), torch.zeros(2, 1, 10), torch.zeros(2, 1))


def unpaired(base):
    """Torch's cross-entropy as it is."""
    return base.but(objective=torch.nn.functional.cross_entropy)


def test_an_objective_that_does_not_fit_is_told_what_it_is_given_and_must_return(corpus, tmp_path):
    recipe, store = unpaired(tiny.recipe(corpus)), wt.Store(tmp_path / "store")
    execute(tiny.pack(recipe, [{"lr": 0.01}]), store, device=tiny.CPU)
    (run,) = store.runs()
    assert run.outcome is wt.Outcome.CRASHED
    assert "cross_entropy fails on outputs (" in run.message and "returns one loss a prediction" in run.message


def test_a_plan_that_does_not_say_which_data_it_has_is_refused():
    for look in (check_examples, lambda data: check_held_out(wt.Judge(data=data, tokens=64))):
        with pytest.raises(wt.InputError, match=r"Nameless\.fingerprint\(\) returns None; it must return text"):
            look(Nameless())


def test_another_number_of_examples_than_asked_is_refused_in_training_alone():
    with pytest.raises(wt.InputError, match=r"inputs of shape \(4, 16\), asked for 2 examples"):
        check_examples(Counting("more"))
    check_held_out(wt.Judge(data=Counting("more"), tokens=4096))


@pytest.mark.parametrize("fault", ["flat", "bytes", "left out"])
def test_what_trains_as_it_is_is_let_pass(fault):
    check_examples(Counting(fault))


def test_a_judge_without_examples_is_refused():
    with pytest.raises(wt.InputError, match=r"held_out\(size=512, tokens=4096\) yields nothing"):
        check_held_out(wt.Judge(data=Counting("empty"), tokens=4096))


def test_a_judge_of_more_tokens_than_are_held_out_is_said_unless_that_is_the_default():
    data = wt.data.digits()
    there = held_out_tokens(wt.Judge(data=data, tokens=10**9))
    assert there == 359

    def said_of(judge):
        return doubts({"base": wt.recipes.mlp_mup_sgd(data=judge.data)}, Known(judge))["base"]

    (said,) = said_of(wt.Judge(data=data, tokens=5000))
    assert "asks for 5,000 tokens, and Digits holds out 359" in said
    for judge in (wt.Judge(data=data, tokens=there), wt.Judge(data=data)):
        assert said_of(judge) == ()
    assert said_of(wt.Judge(data=wt.data.stdlib(), tokens=1001)) == ()  # no whole number of examples


def test_a_fault_in_the_plans_code_is_left_to_the_run_that_can_say_its_line():
    check_examples(Counting("raises"))


@pytest.mark.parametrize("where", ["batch", "held_out"])
def test_a_study_refuses_it_before_anything_is_trained(corpus, tmp_path, where):
    data, store = Counting("floats", where), wt.Store(tmp_path / "store")
    study = tiny.study(corpus, base=tiny.recipe(corpus).but(data=data), ideas=[], judge=wt.Judge(data=data, tokens=256))
    for asked in (study.plan, study.run):
        with pytest.raises(wt.InputError, match=rf"Counting\.{where} gives targets float32"):
            asked(store)
    assert not list(store.keys())


def pictures(base):
    """Images where the network reads text."""
    return base.but(data=wt.data.digits())


def longer(base):
    """Examples twice as long as the judge's."""
    return base.but(data=replace(base.data, context=2 * tiny.CONTEXT))


def test_data_that_the_network_or_the_judge_cannot_be_used_with_are_refused_before_anything_is_trained(
    corpus, tmp_path
):
    store, text = wt.Store(tmp_path / "store"), tiny.recipe(corpus)
    images = wt.recipes.mlp_mup_sgd(data=wt.data.digits())
    asked = {
        "pictures .* does not take its own data's inputs, Digits": {"ideas": [pictures]},
        "base .* but not the judge's, Text": {"judge": tiny.judge(longer(text).data), "ideas": []},
        "base .* does not take its own data's inputs, Text": {
            "base": images.but(data=text.data), "judge": tiny.judge(images.data), "ideas": []
        },
        "base .* tells 256 outcomes apart, the judge's data, Larger": {"judge": tiny.judge(Larger()), "ideas": []},
    }  # fmt: skip
    for said, changes in asked.items():
        with pytest.raises(wt.InputError, match=said):
            tiny.study(corpus, **changes).plan(store)
    assert not list(store.keys())


def test_a_judge_whose_examples_are_shorter_is_let_pass(corpus, tmp_path):
    assert tiny.study(corpus, ideas=[longer]).plan(wt.Store(tmp_path / "store")).missing


STOCK = [wt.data.text, wt.data.stdlib, wt.data.digits]


@pytest.mark.parametrize("made", STOCK, ids=lambda made: made.__name__)
def test_stock_plans_have_none_of_these_faults(made):
    check_examples(made())
    check_held_out(wt.Judge(data=made(), tokens=300))
    check_examples(Counting())
    check_held_out(wt.Judge(data=Counting(), tokens=300))
