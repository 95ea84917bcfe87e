"""What a part may ask the engine for beyond its slot's first signature: each is called as promised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch
from torch import zeros_like

from windtunnel.errors import InputError, Stopped
from windtunnel.ideas.anchors import PredictionAnchor, WeightAnchor
from windtunnel.ideas.early_learning import EarlyLearning
from windtunnel.ideas.half_fine_tuning import HalfAdamW
from windtunnel.ideas.progressive_self_distillation import ProgressiveSelfDistillation
from windtunnel.ideas.sharpness_aware import SharpnessAware
from windtunnel.ideas.v_cycle import VCycle
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.probes import EffectiveRank, NeuralCollapse
from windtunnel.parts.schedules import WSD
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.steps import named_params

LR = {"lr": 0.01}


def packed(corpus, values=(0.003, 0.01), **slots):
    """A pack of a few learning rates."""
    return tiny.pack(tiny.recipe(corpus, **slots), [{"lr": lr} for lr in values])


def losses(pack, **options):
    """Training losses of all members, (members, steps)."""
    return np.stack([run.curve["train_loss"] for run in train(pack, device=tiny.CPU, **options)])


@pytest.mark.parametrize(
    "slots",
    [
        {"optimizer": SharpnessAware()},
        {"optimizer": HalfAdamW()},
        {"objective": WeightAnchor()},
        {"objective": PredictionAnchor()},
        {"objective": EarlyLearning()},
        {"objective": ProgressiveSelfDistillation()},
    ],
    ids=lambda slots: type(next(iter(slots.values()))).__name__,
)
def test_a_pack_equals_its_members_alone(corpus, slots):
    pack = packed(corpus, **slots)
    alone = np.concatenate([losses(pack.part([member]), packed=False) for member in range(2)])
    np.testing.assert_allclose(losses(pack), alone, rtol=1e-6)


def test_a_compiled_step_knows_the_weights_from_those_at_the_start(corpus):
    pack = packed(corpus, objective=WeightAnchor())
    np.testing.assert_allclose(losses(pack, compile=True), losses(pack, compile=False), rtol=1e-5)


def test_a_sharpness_aware_step_is_adamw_on_the_gradient_uphill(corpus):
    pack = packed(corpus, (0.01,), optimizer=SharpnessAware(radius=0.5))
    engine = Engine(pack, tiny.CPU, True)
    state = engine.start()
    (start,) = named_params(engine.groups, state.params)
    engine.advance(state)
    (end,) = named_params(engine.groups, state.params)
    inputs, targets = (torch.from_numpy(a) for a in pack.recipe.data.batch(seed=0, step=0, size=tiny.BATCH))

    def slopes(weights):
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        loss = CrossEntropy()(torch.func.functional_call(engine.model, leaves, (inputs,)), targets).mean()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    grads = slopes(start)
    norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    uphill = slopes({name: w + 0.5 * grads[name] / norm for name, w in start.items()})
    for name, before in start.items():  # AdamW's first step has the sign of its gradient and the size of its rate
        sure = uphill[name].abs() > 1e-5
        step, rate = (end[name] - before)[sure], 0.01 * engine.table.scales[name].lr
        multiplier = pack.recipe.schedule(tiny.BATCH * tiny.CONTEXT / 2, tiny.TOKENS)
        torch.testing.assert_close(step, -rate * multiplier * uphill[name][sure].sign(), rtol=1e-2, atol=1e-7)


def test_twice_the_gradients_are_twice_the_flops(corpus):
    plain, twice = tiny.recipe(corpus), tiny.recipe(corpus, optimizer=SharpnessAware())
    assert twice.size(tiny.RUNG).flops_per_token == 2 * plain.size(tiny.RUNG).flops_per_token
    assert twice.size(tiny.RUNG).params == plain.size(tiny.RUNG).params


def test_half_of_the_tensors_stay_where_they_began(corpus):
    pack = packed(corpus, (0.01, 0.01), optimizer=HalfAdamW())
    engine = Engine(pack, tiny.CPU, True)
    state = engine.start()
    before = named_params(engine.groups, state.params)
    engine.advance(state)
    after = named_params(engine.groups, state.params)
    still = [{n for n in a if torch.equal(a[n], b[n])} for a, b in zip(before, after, strict=True)]
    for names in still:
        assert abs(2 * len(names) - len(before[0])) <= 1
    assert still[0] != still[1]  # by seed


@dataclass(frozen=True, kw_only=True)
class Averaged(AdamW):
    """AdamW, judged by the mean of all its iterates."""

    def init(self, param, site):
        return super().init(param, site) | {"sum": zeros_like(param), "count": param.new_zeros(())}

    def update(self, grad, state, param, hp, site):
        own = {name: state[name] for name in ("mean", "square", "steps")}
        step, new = AdamW.update(self, grad, own, param, hp, site)
        return step, new | {"sum": state["sum"] + param + step, "count": state["count"] + 1}

    def readout(self, param, state, site):
        return state["sum"] / state["count"]


def test_the_weights_that_are_judged_are_the_optimizers_readout(corpus):
    plain, averaged = (packed(corpus, optimizer=o) for o in (AdamW(), Averaged()))
    runs = [train(pack, device=tiny.CPU) for pack in (plain, averaged)]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.curve["train_loss"], other.curve["train_loss"])
        assert one.loss != other.loss
    engine = Engine(averaged, tiny.CPU, True)
    state, seen = engine.start(), []
    while state.step < tiny.STEPS - 1:
        engine.advance(state)
        seen.append(named_params(engine.groups, state.params)[0])
    held = {name: torch.stack([weights[name] for weights in seen]).mean(0) for name in seen[0]}
    torch.testing.assert_close(engine.judging.weights(state, 0), held, rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Counts:
    """Cross-entropy that counts the visits of every example in its memory, and adds the count to the loss."""

    needs = ("memory",)

    def memory(self, shape):
        return {"visits": torch.zeros(1)}

    def __call__(self, outputs, targets, given):
        visits = given["memory"]["visits"]
        return CrossEntropy()(outputs, targets) + 100 * visits, {"visits": visits + 1}


def test_a_memory_is_of_the_example_and_outlives_a_checkpoint(corpus, tmp_path):
    recipe = tiny.recipe(corpus, objective=Counts(), data=tiny.text(corpus, repeat=True))
    examples = recipe.data.shape().train_tokens // tiny.CONTEXT
    steps = 2 * examples // tiny.BATCH
    rung = tiny.RUNG.but(tokens=steps * tiny.BATCH * tiny.CONTEXT)
    pack = tiny.pack(recipe, [LR], rung=rung)
    (found,) = losses(pack)
    first, second = (steps // 2) - 1, (steps // 2) + 1
    assert found[:first].max() < 50 and found[second:].min() > 99
    told = []

    def once(progress):
        told.append(progress.step)

    with pytest.raises(Stopped):
        train(pack, device=tiny.CPU, folder=tmp_path / "flight", report=once, stop=lambda: len(told) == first + 3)
    (resumed,) = train(pack, device=tiny.CPU, folder=tmp_path / "flight")
    np.testing.assert_array_equal(resumed.curve["train_loss"], found)


@dataclass(frozen=True)
class Wishful(CrossEntropy):
    """Wants what there is not."""

    needs = ("tomorrow",)


@dataclass(frozen=True)
class Forgetful(CrossEntropy):
    """Needs a memory of nothing."""

    needs = ("memory",)


def test_a_need_that_the_engine_does_not_have_is_named(corpus):
    with pytest.raises(InputError, match=r"Wishful.needs names 'tomorrow'.*it has done, params, start"):
        losses(packed(corpus, objective=Wishful()))
    with pytest.raises(InputError, match=r"Forgetful needs a memory but does not say of what"):
        losses(packed(corpus, objective=Forgetful()))


def test_members_of_other_horizons_are_apart_where_the_objective_follows_the_horizon(corpus):
    base = tiny.recipe(corpus, schedule=WSD(warmup_tokens=64))
    for objective, rows in ((CrossEntropy(), 1), (ProgressiveSelfDistillation(), 2)):
        specs = tiny.pack(base.but(objective=objective), [LR, LR], seeds=(0, 0))
        longer = replace(specs.specs[1], rung=tiny.RUNG.but(tokens=2 * tiny.TOKENS))
        pack = replace(specs, specs=(specs.specs[0], longer))
        assert len(Engine(pack, tiny.CPU, True).start().rows) == rows


@dataclass(frozen=True)
class SizeOfReadout:
    """Says how large the readout's weights are."""

    name: str = "readout_size"

    def __call__(self, model, batches):
        return {self.name: float(model.readout.weight.detach().abs().mean())}


def test_probes_measure_the_trained_network_and_enter_the_record(corpus, tmp_path):
    pack = packed(corpus)
    probed = replace(pack, judge=replace(pack.judge, probes=(SizeOfReadout(), EffectiveRank(), NeuralCollapse())))
    runs, plain = train(probed, device=tiny.CPU), train(pack, device=tiny.CPU)
    assert [run.loss for run in runs] == [run.loss for run in plain]
    engine = Engine(pack, tiny.CPU, True)
    engine.keeps, state = True, engine.start()
    while state.alive:
        engine.advance(state)
    for member, run in enumerate(runs):
        assert run.metrics["readout_size"] == pytest.approx(float(engine.last[member]["readout.weight"].abs().mean()))
        assert 1 < run.metrics["effective_rank"] <= tiny.RUNG.width
        assert run.metrics["within_class_variability"] > 0
    assert probed.judge.describe() != pack.judge.describe() and "probes" not in pack.judge.describe()
    clash = replace(pack, judge=replace(pack.judge, probes=(SizeOfReadout(), SizeOfReadout())))
    with pytest.raises(InputError, match="Two probes of the judge measure 'readout_size'"):
        train(clash, device=tiny.CPU)


def test_what_many_devices_do_not_have_yet_is_refused_by_name(corpus):
    from windtunnel.train.sharded import _check_plain

    _check_plain(packed(corpus, (0.01,)))
    for slots, says in (
        ({"optimizer": SharpnessAware()}, "the optimizer's totals, the optimizer's look_ahead"),
        ({"objective": PredictionAnchor()}, "the objective's reference"),
        ({"phases": VCycle()}, "phases"),
    ):
        with pytest.raises(InputError, match=f"does not have {says} yet.*--on here"):
            _check_plain(packed(corpus, (0.01,), **slots))
    probed = packed(corpus, (0.01,))
    with pytest.raises(InputError, match="the judge's probes"):
        _check_plain(replace(probed, judge=replace(probed.judge, probes=(SizeOfReadout(),))))
