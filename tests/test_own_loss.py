"""A judge with a loss of its own: networks that put out numbers are trained, tuned, judged and foretold as others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_phases import Halves
from torch import nn

import windtunnel as wt
from windtunnel.errors import Stopped
from windtunnel.ladder import four_decimals
from windtunnel.launch.here import Here
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.models import MLP, Own
from windtunnel.parts.objectives import CrossEntropy, SquaredError
from windtunnel.recipe import DataShape
from windtunnel.report.page import render
from windtunnel.report.stored import stored_data
from windtunnel.study.page import page_data
from windtunnel.study.stages import Stages
from windtunnel.train.loop import train
from windtunnel.train.steps import counted, summed

SIDE, CPU = 4, torch.device("cpu")


@dataclass(frozen=True)
class Edges:
    """Images of noise, and their differences from pixel to pixel: what a network is to put out."""

    values: int = SIDE * SIDE
    repeat: bool = True

    def shape(self):
        return DataShape(classes=SIDE * SIDE, tokens_per_example=1, train_tokens=10**6, example_shape=(1, SIDE, SIDE))

    def fingerprint(self):
        return f"edges {self.values}"

    def _made(self, generator, size):
        images = generator.standard_normal((size, 1, SIDE, SIDE), dtype=np.float32)
        edges = images - np.roll(images, 1, axis=-1)
        return images, edges.reshape(size, -1)[:, : self.values]

    def batch(self, *, seed, step, size):
        return self._made(np.random.default_rng((seed, step)), size)

    def held_out(self, *, size, tokens):
        generator = np.random.default_rng(7)
        for start in range(0, tokens, size):
            yield self._made(generator, min(size, tokens - start))


@dataclass(frozen=True)
class Squares:
    """A probe that measures the loss again, in its own way."""

    def __call__(self, network, held_out):
        squares = [(network(x)[:, 0] - y).square().mean(1) for x, y in held_out]
        return {"squares": float(torch.cat(squares).mean())}


def convolving(rung, data):
    return nn.Sequential(nn.Conv2d(1, rung.width, 3, padding=1), nn.ReLU(), nn.Conv2d(rung.width, 1, 3, padding=1))


@pytest.fixture(scope="module")
def study():
    data = Edges()
    base = wt.recipes.mlp_mup_sgd(data=data).but(
        model=MLP(), optimizer=wt.recipes.cnn_mup_adamw(data=data).optimizer, objective=SquaredError(),
        batch=FixedBatch(examples=16),
    )  # fmt: skip
    return wt.Study(
        name="edges",
        base=base,
        ladder=wt.Ladder.widths((16, 24, 32), depth=1, tokens=1600, head_width=8, seeds=2),
        target=wt.Target(rung=wt.Rung(width=64, depth=1, heads=8, tokens=1600)),
        tuning=wt.Tuning(points=3, seeds=1),
        judge=wt.Judge(data=data, tokens=100, evaluations=2, probes=(Squares(),), loss=SquaredError()),
        train_target=True,
    )


@pytest.fixture(scope="module")
def result(study, tmp_path_factory):
    return study.run(wt.Store(tmp_path_factory.mktemp("edges") / "store"), launcher=Here(devices=1))


def test_runs_are_judged_by_the_mean_of_that_loss_and_have_no_accuracy(result):
    runs = result.store.runs()
    assert all(run.finished for run in runs)
    for run in runs:
        assert run.loss == pytest.approx(run.metrics["squares"], rel=1e-5)
        assert "accuracy" not in run.metrics and run.spec.judge["loss"]["is"] == "SquaredError"
    assert min(run.loss for run in runs) < 1.9  # differences of noise have variance 2: something was learned


def test_the_target_is_foretold_and_the_page_says_what_the_loss_is(result):
    assert result.forecasts["base"].loss.median > 0 and result.scores["base"]
    for page in (render(page_data(result)), render(stored_data(result.store, "edges"))):
        assert "nats" not in page and "SquaredError" in page


def test_a_pack_is_judged_as_its_runs_alone(result, study):
    stages = Stages(study, result.store)
    asks = stages.ladder("base", stages.tuning("base").values)[:2]
    for ask, both in zip(asks, train(stages.packed(asks), device=CPU), strict=True):
        (alone,) = train(stages.packed([ask]), device=CPU)
        assert both.loss == pytest.approx(alone.loss, rel=1e-6)


def test_runs_in_stretches_and_after_a_stop_are_judged_by_it_too(study, tmp_path):
    phased = replace(study, base=study.base.but(phases=Halves()))
    stages = Stages(phased, wt.Store(tmp_path / "store"))
    values = {name: tuned.low for name, tuned in phased.base.tuned_fields().items()}
    pack = stages.packed(stages.ladder("base", values)[-2:])
    steps = []

    def stopping():
        steps.append(1)
        return len(steps) > 70  # in the second stretch

    kept = stages.store.flight(pack.key)
    with pytest.raises(Stopped):
        train(pack, device=CPU, folder=kept, stop=stopping, checkpoint_seconds=0.0)
    resumed, whole = train(pack, device=CPU, folder=kept), train(pack, device=CPU)
    for run, other in zip(resumed, whole, strict=True):
        assert run.loss == other.loss == pytest.approx(run.metrics["squares"], rel=1e-5)
        np.testing.assert_array_equal(run.curve["judged_loss"], other.curve["judged_loss"])


def test_a_network_of_ones_own_may_put_out_images(study):
    model = Own(convolving)
    found = model.build(wt.Rung(width=8, depth=1, tokens=1), Edges().shape())(torch.zeros(3, 1, SIDE, SIDE))
    assert found.shape == (3, 1, SIDE * SIDE)
    study.base.but(model=model).size(wt.Rung(width=8, depth=1, tokens=16))


def test_the_mean_is_over_examples_whatever_the_chunks():
    outputs, targets = torch.randn(7, 1, 5), torch.randn(7, 5)
    loss = SquaredError()
    parts = [summed(outputs[a:b], targets[a:b], loss)[0] for a, b in ((0, 3), (3, 7))]
    assert sum(parts) / counted(targets, loss) == pytest.approx(float((outputs[:, 0] - targets).square().mean()))
    logits, classes = torch.randn(7, 2, 5), torch.randint(5, (7, 2))
    total, hits = summed(logits, classes)
    assert total / counted(classes) == pytest.approx(float(CrossEntropy()(logits, classes).mean()))
    assert 0 <= hits <= 14


def test_a_judge_without_it_has_the_key_it_had():
    assert "loss" not in wt.Judge(data=Edges()).describe()


class Needy(SquaredError):
    needs = ("done",)


class Short(SquaredError):
    def __call__(self, outputs, targets):
        return super().__call__(outputs, targets).mean()


@pytest.mark.parametrize("wrong, said", [(SquaredError, "give a part"), (3, "give a part"), (Needy(), "needs done")])
def test_what_cannot_judge_is_refused(wrong, said):
    with pytest.raises(wt.InputError, match=said):
        wt.Judge(data=Edges(), loss=wrong)


def test_numbers_without_a_loss_for_them_are_refused_with_what_to_give(study, tmp_path):
    with pytest.raises(wt.InputError, match=r"objective=SquaredError\(\)"):
        replace(study, judge=None).plan(wt.Store(tmp_path / "store"))


class Beside(SquaredError):
    def __call__(self, outputs, targets):
        return (outputs - targets).abs()  # (examples, 1, numbers) beside (examples, numbers)


class Below(SquaredError):
    def __call__(self, outputs, targets):
        return super().__call__(outputs, targets) - 100


def absolute(outputs, targets):
    return (outputs.flatten(1) - targets).abs()


def test_a_function_may_be_a_loss_and_is_called_by_its_name():
    judge = wt.Judge(data=Edges(), loss=absolute)
    assert judge.unit == "absolute" == judge.describe()["loss"]["is"]


def test_one_number_an_example_may_lie_flat():
    outputs, targets = torch.randn(4, 1, 1), torch.randn(4)
    torch.testing.assert_close(SquaredError()(outputs, targets)[:, 0], (outputs[:, 0, 0] - targets).square())


def test_a_training_loss_that_sets_examples_beside_others_is_refused(study, tmp_path):
    with pytest.raises(wt.InputError, match="compared with one another's"):
        replace(study, base=study.base.but(objective=Beside())).run(wt.Store(tmp_path / "s"), launcher=Here(devices=1))


@dataclass(frozen=True)
class Chunky(Edges):
    """Its noise is drawn for each chunk apart."""

    def held_out(self, *, size, tokens):
        for start in range(0, tokens, size):
            yield self._made(np.random.default_rng((7, start, size)), min(size, tokens - start))


def test_examples_that_hang_on_the_chunks_are_refused(study, tmp_path):
    with pytest.raises(wt.InputError, match=r"Chunky\.held_out gives other examples in chunks of"):
        replace(study, judge=replace(study.judge, data=Chunky())).plan(wt.Store(tmp_path / "store"))


@pytest.mark.parametrize(
    "loss, values, said",
    [
        (Short(), SIDE * SIDE, "one row an example"),
        (SquaredError(), 3, "16 outputs"),
        (Beside(), SIDE * SIDE, "compared with one another's"),
        (Below(), SIDE * SIDE, "must be positive"),
    ],
)
def test_a_loss_that_does_not_fit_says_so(study, tmp_path, loss, values, said):
    data = Edges(values)
    asked = replace(study, base=study.base.but(data=data), judge=wt.Judge(data=data, tokens=100, loss=loss))
    store = wt.Store(tmp_path / "store")
    with pytest.raises(wt.InputError, match=said):
        asked.run(store, launcher=Here(devices=1))


def test_losses_of_any_scale_are_shown_with_digits_that_say_something():
    assert [four_decimals(x) for x in (2.34567, 0.1234, 0.00123456, 1e-7, 12345.678, 0)] == [
        "2.3457", "0.1234", "0.001235", "1e-07", "1.235e+04", "0.0000",
    ]  # fmt: skip
    assert [four_decimals(x, "+") for x in (-0.01234, 0.5, -1.23456e-5)] == ["-0.0123", "+0.5000", "-1.235e-05"]
