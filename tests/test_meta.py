"""Meta-training: exact resume, an estimate that points the right way, and particles that are what they should be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.meta.local import Local, LocalInner, bytes_per_round, simulated
from windtunnel.meta.matrix import Matrix, Rule
from windtunnel.meta.rules import Direction, Directions, part_of
from windtunnel.meta.task import Inner, Task
from windtunnel.meta.training import MetaTraining, _after, _Work
from windtunnel.meta.unroll import Horizons, Told, Unroll
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.learned.celo2 import Celo2
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.outer import LearnedOuter, SlowMo, statistics_of
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.small_fc import decays_of as decays_row
from windtunnel.parts.learned.weights import Weights
from windtunnel.parts.models import MLP
from windtunnel.parts.objectives import CrossEntropy
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.parts.schedules import Constant
from windtunnel.recipe import Judge, Recipe, Site
from windtunnel.scaling.rules.at_base import AtBase
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.standard import Standard
from windtunnel.train.pack import initial_params

CPU = torch.device("cpu")


def task(name: str = "digits", width: int = 8, rule: Any = None, depth: int = 1, **changed: Any) -> Task:
    recipe = Recipe(
        model=MLP(), parametrization=rule or AtBase(width=8, zero_readout=True), optimizer=AdamW(lr=1.0),
        schedule=Constant(), batch=FixedBatch(examples=16), data=wt.data.digits(), objective=CrossEntropy(),
    )  # fmt: skip
    rungs = [wt.Rung(width=w, depth=depth, heads=1, tokens=16, batch=16) for w in (width, 2 * width)]
    return Task(name=name, recipe=recipe, rung=rungs[0], base=rungs[1], **changed)


def asked(**changed: Any) -> MetaTraining:
    plain: dict[str, Any] = {
        "tasks": (task(),), "step_size": 0.01, "outer_steps": 12, "hidden": 4, "pairs": 3, "truncation": 5,
        "horizons": Horizons(low=8, high=30), "warmup": 3,
    }  # fmt: skip
    return MetaTraining(**(plain | changed))


def test_killed_and_gone_on_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = asked().run()
    for _ in range(4):
        parts = asked().run(tmp_path / "c", stop_after=3)
    assert whole is not None and parts is not None
    assert parts.hash == whole.hash
    assert asked().run(tmp_path / "c") == whole  # nothing left to do


def test_a_direction_killed_and_gone_on_ends_with_the_same_bits_and_is_a_part_of_its_own(tmp_path: Path) -> None:
    meta = asked(tasks=(task(depth=2),), **CELO2)
    whole = meta.run()
    for _ in range(3):
        parts = meta.run(tmp_path / "c", stop_after=4)
    assert whole is not None and parts is not None
    assert parts.hash == whole.hash and whole.card.rule == "celo2" and whole.card.step_size == 1
    assert Celo2(weights=Weights.load(whole.save(tmp_path / "w.safetensors"))).weights.hash == whole.hash
    assert set(whole.card.made["ranges"]) == {"momentum 0", "momentum 1", "momentum 2", "unevenness"}
    assert all(np.isfinite(ends).all() for ends in whole.card.made["ranges"].values())


def test_a_checkpoint_holds_everything_that_changes(tmp_path: Path) -> None:
    work = _Work(asked(tasks=(task("a"), task("b", width=12))), CPU)
    state = work.first()
    for _ in range(6):
        work.advance(state)
    work.save(tmp_path, state)
    back = work.resumed(tmp_path)
    for _ in range(3):
        work.advance(state)
        work.advance(back)
    assert torch.equal(state.theta, back.theta) and state.losses == back.losses
    for one, other in zip(state.particles, back.particles, strict=True):
        assert (one.steps, one.horizons, one.lives) == (other.steps, other.horizons, other.lives)
        assert all(torch.equal(a, b) for a, b in zip(one.params, other.params, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state.sums, back.sums, strict=True))


def test_a_damaged_checkpoint_is_passed_over_and_one_of_another_question_is_refused(tmp_path: Path) -> None:
    asked().run(tmp_path, stop_after=3)
    asked().run(tmp_path, stop_after=3)
    newest = max(tmp_path.glob("step-*"))
    tensors = newest / "state.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-5] ^= 1
    tensors.write_bytes(bytes(data))
    resumed = asked().run(tmp_path)
    assert resumed == asked().run()
    with pytest.raises(InputError, match="another meta-training"):
        asked(seed=1).run(tmp_path)


def test_pairs_differ_in_their_weights_alone() -> None:
    unroll = _Work(asked(), CPU).unrolls[0]
    particles, theta = unroll.first(), _same_theta(6)
    told = unroll.truncation(theta, particles, 0, 5)
    assert torch.equal(told.plus, told.minus)  # no draw, no difference
    assert all(torch.equal(p[0::2], p[1::2]) for p in particles.params)
    assert not torch.equal(particles.params[0][0], particles.params[0][2])  # but pairs are different trainings


CELO2: dict[str, Any] = {  # deep enough for a hidden matrix
    "direction": Direction(others_rate=5.0), "features": Features(clipped=True, times=(), scale_free=True),
}  # fmt: skip


@pytest.mark.parametrize("changed", [{}, CELO2], ids=["small_fc", "celo2"])
def test_a_particle_is_the_ordinary_training_of_the_same_weights(changed: dict[str, Any]) -> None:
    """The unrolled loop against the part: a constant schedule, one pair, from its first step."""
    changed = changed | {"tasks": (task(depth=3),)}
    meta = asked(horizons=Horizons(low=30, high=30, schedule="constant", staggered=False), pairs=1, **changed)
    work = _Work(meta, CPU)
    state = work.first()
    weights, unroll = work.weights(state), work.unrolls[0]
    particles = unroll.first()
    start = [p[0].clone() for p in particles.params]
    inputs, targets = unroll.inner.batches(unroll.seeds, 0, 5)
    told = unroll.truncation(work._tree(state.theta[None].expand(2, -1)), particles, 0, 5)
    groups, part = unroll.inner.groups, part_of(weights)
    names = ["lr", "weight_decay"] + (["others_rate", "beta1", "beta2", "eps"] if meta.direction else [])
    numbers = {name: torch.tensor(float(getattr(part, name))) for name in names}
    params = [p.clone() for p in start]
    states = [[part.init(t, g.site) for t in p] for p, g in zip(params, groups, strict=True)]
    for step in range(5):
        stacked = [p[None] for p in params]
        grads, loss = unroll.inner.gradient(stacked, inputs[step], targets[step], False)
        assert float(loss[0]) == pytest.approx(float(told.plus[step, 0]), rel=1e-4)
        for index, group in enumerate(groups):
            for place in range(len(group.names)):
                hp = numbers | {"lr": numbers["lr"] * group.scale.lr}
                before = params[index][place].clone()
                move, states[index][place] = part.update(
                    grads[index][0, place], states[index][place], before, hp, group.site
                )
                params[index][place] = before + move


@pytest.mark.parametrize("changed", [{}, CELO2], ids=["small_fc", "celo2"])
def test_the_untrained_network_moves_as_adam_does(changed: dict[str, Any]) -> None:
    """Momentum over the root of the second moment, of root mean square one; m of the network is a thousandth here."""
    meta = asked(tasks=(task(depth=2),), **changed)
    work = _Work(meta, CPU)
    part = part_of(work.weights(work.first()))
    site = next(group.site for group in work.unrolls[0].inner.groups if group.site.role == "hidden")
    param, grads = torch.zeros(site.shape), torch.randn(3, *site.shape, generator=torch.Generator().manual_seed(0))
    state, mean, square = part.init(param, site), torch.zeros(site.shape), torch.zeros(site.shape)
    numbers = {name: torch.tensor(float(getattr(part, name))) for name in ("lr", "weight_decay")}
    move = param
    for grad in grads:
        move, state = part.update(grad, state, param, numbers, site)
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
    wanted = mean / (square + 1e-6 * square.mean()).sqrt()
    wanted = -meta.step_size * wanted / wanted.square().mean().sqrt()
    assert float((move - wanted).norm() / wanted.norm()) < 0.01


def _same_theta(particles: int, hidden: int = 4) -> dict[str, torch.Tensor]:
    work = _Work(asked(hidden=hidden), CPU)
    return work._tree(work.first().theta[None].expand(particles, -1))


def test_what_a_batch_counts_for_is_bounded_and_not_a_number_counts_as_the_bound() -> None:
    work = _Work(asked(step_size=1e6), CPU)  # every particle diverges
    unroll, state = work.unrolls[0], work.first()
    told = unroll.truncation(work._tree(state.theta[None].expand(6, -1)), state.particles[0], 0, 5)
    cap = unroll.inner.task.cap
    assert told.plus.isfinite().all() and float(told.plus.max()) == pytest.approx(cap)
    work.advance(state)
    assert state.theta.isfinite().all()


def test_a_task_that_is_not_a_number_from_the_start_leaves_the_weights_finite() -> None:
    class Broken:
        def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return CrossEntropy()(outputs, targets) * float("nan")

    work = _Work(asked(), CPU)
    work.unrolls[0].inner = inner = Inner(task(), CPU)
    inner.task = replace(inner.task, recipe=inner.task.recipe.but(objective=Broken()))
    state = work.first()
    for _ in range(3):
        work.advance(state)
    assert state.theta.isfinite().all()
    assert state.losses[-1][0] == pytest.approx(inner.task.cap)


def test_sums_of_draws_begin_anew_with_the_pair() -> None:
    draws, sums = torch.full((3, 2), 1.0), torch.full((3, 2), 5.0)
    fresh = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    particles: Any = type("P", (), {"steps": [7, 1, 0]})()
    told = Told(torch.zeros(2, 3), torch.zeros(2, 3), fresh)
    assert _after(sums, draws, told, particles)[:, 0].tolist() == [5.0, 1.0, 0.0]


def test_the_estimate_is_the_gradient_of_the_smoothed_loss() -> None:
    """Evolution strategies on whole trainings: along the estimate the loss rises as steeply as the estimate is long.

    What is noise in the estimate makes it longer than the slope, and nothing makes it shorter: measured 0.5 to 0.8 of
    its length at four settings. At random weights, where losses depend on them most.
    """
    meta = asked(
        horizons=Horizons(low=10, high=10, schedule="constant", staggered=False), truncation=10, pairs=800, std=0.02,
        estimator="es", step_size=0.05,
    )  # fmt: skip
    work = _Work(meta, CPU)
    state, unroll = work.first(), work.unrolls[0]
    state.theta = theta = randomly(work)
    gradient, _ = work._estimate(state, 0, unroll)
    losses = []
    for sign in (1, -1):
        both = (theta + sign * 0.02 * gradient / gradient.norm())[None].expand(1600, -1)
        losses.append(float(unroll.truncation(work._tree(both), unroll.first(), 0, 10).plus.mean()))
    assert 0.3 < (losses[0] - losses[1]) / 0.04 / float(gradient.norm()) < 1.3


def randomly(work: _Work) -> torch.Tensor:
    """Weights of std 1 / sqrt(inputs), decays as they begin."""
    draw = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(shape, generator=draw) * shape[0] ** -0.5 if len(shape) == 2 else torch.zeros(shape)
        for shape in work.shapes.values()
    ]
    return torch.cat([part.flatten() for part in parts])


def test_it_learns_to_train() -> None:
    """Some ten seconds: from a network that knows nothing of gradients to one that trains (n = 2 seeds)."""
    for seed in (0, 1):
        work = _Work(
            asked(outer_steps=150, seed=seed, truncation=10, pairs=6, horizons=Horizons(low=20, high=60), warmup=20,
                  lr=1e-2, step_size=0.03), CPU,
        )  # fmt: skip
        state = work.first()
        state.theta = randomly(work)
        for _ in range(150):
            work.advance(state)
        losses = np.mean(state.losses, axis=1)
        assert losses[-15:].mean() < 0.9 * losses[:15].mean()


def test_its_weights_are_trained_with_like_any_part(tmp_path: Path) -> None:
    from benchmarks.common import runs_of

    weights = asked().run()
    assert weights is not None
    part = SmallFC(weights=weights, lr=wt.tuned(0.5, 2.0))
    made = task().recipe.but(optimizer=part)
    judge = Judge(data=made.data, tokens=64, evaluations=1)
    (run,) = runs_of(
        str(tmp_path), made, task().rung.but(tokens=160), judge, [(1.0, 0)], base=task().base, study="t", stored=False
    )
    assert run.spec.recipe["optimizer"]["fields"]["weights"]["fields"]["hash"] == weights.hash


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": ()}, "one task or more"),
        ({"tasks": (task(), task(rule=Standard()))}, "a name of its own"),
        ({"tasks": (task("a"), task("b", rule=Standard()))}, "different parametrizations"),
        ({"tasks": (task(rule=MuP()),)}, "AtBase"),
        ({"estimator": "guess"}, "'pes', 'es'"),
        ({"std": float("nan")}, "std=nan"),
        ({"hidden": 4096}, "hidden=4096"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"validation": float("nan")}, "validation=nan"),
        ({"direction": Direction()}, "Celo2 has no time"),
    ],
)
def test_a_question_without_sense_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        asked(**change)


def test_a_direction_without_a_hidden_matrix_and_one_of_no_known_rate_are_refused() -> None:
    with pytest.raises(InputError, match="hidden matrices, and digits has none"):
        asked(**CELO2).run()
    weights = asked(tasks=(task(depth=2),), outer_steps=1, **CELO2).run()
    assert weights is not None and part_of(weights).lr == 0.01
    silent = Weights.of(replace(weights.card, made={}), weights.tensors)
    with pytest.raises(InputError, match="say no rate"):
        part_of(silent)


def test_a_question_says_how_its_weights_begin() -> None:
    """Else checkpoints from before would be gone on with under the same key."""
    assert asked().describe()["start"] == "adam" and asked(hidden=1).describe()["start"] == "random"


@pytest.mark.parametrize("shape", [(2, 8, 6), (4, 3, 3, 3)], ids=["stacked", "convolution"])
def test_directions_of_stacks_and_kernels_are_those_of_the_part(shape: tuple[int, ...]) -> None:
    """Three particles with a network each, against the part given each network."""
    meta = asked(tasks=(task(depth=2),), outer_steps=1, **CELO2)
    work = _Work(meta, CPU)
    axes = "-oi" if len(shape) == 3 else ""
    site = Site(role="hidden", shape=shape, fan_in=shape[1], fan_out=shape[0], axes=axes)
    draw = torch.Generator().manual_seed(0)
    rows = work.first().theta + 0.1 * torch.randn(3, len(work.first().theta), generator=draw)
    trees = [{n: t[0] for n, t in work._tree(row[None]).items()} for row in rows]
    weights = [
        Weights.of(work.weights(work.first()).card, {n: t for n, t in tree.items() if n != "decays"}) for tree in trees
    ]
    params, grads = torch.randn(3, *shape, generator=draw), torch.randn(3, *shape, generator=draw)
    moving = Directions(site, meta.features)
    decays = torch.cat([decays_row(each.card.decays, params) for each in weights])
    net = {n: torch.stack([tree[n] for tree in trees]) for n in trees[0] if n != "decays"}
    moved, _ = moving.moved(
        net, grads, params, moving.first(params), decays, torch.zeros(3), torch.full((3,), -0.5), {}
    )  # fmt: skip
    numbers = {"lr": torch.tensor(0.5), "weight_decay": torch.tensor(0.0)}
    for index, each in enumerate(weights):
        part = Celo2(weights=each)
        wanted, _ = part.update(grads[index], part.init(params[index], site), params[index], numbers, site)
        assert torch.allclose(moved[index], wanted, rtol=1e-5, atol=1e-6)


def test_too_few_examples_to_set_some_aside_are_refused() -> None:
    made = task()
    few = replace(made, recipe=made.recipe.but(data=wt.data.digits().limited(16)))
    with pytest.raises(InputError, match="16 training examples, too few"):
        asked(tasks=(few,), validation=0.01).run()


def test_staggered_pairs_begin_at_different_steps() -> None:
    unroll = Unroll(
        Inner(task(), CPU), features=Features(), step_size=0.01, magnitude=0.001, horizons=Horizons(), pairs=8, seed=0,
        compile=False,
    )  # fmt: skip
    steps = unroll.first().steps
    assert len(set(steps)) > 4


def test_a_rescaled_task_begins_at_the_same_loss_with_other_sizes_of_weights_and_gradients() -> None:
    plain, scaled = (_Work(asked(tasks=(task(rule=Standard(), rescaled=r),)), CPU).unrolls[0] for r in (1.0, 1000.0))
    one, other = plain.first(), scaled.first()
    inputs, targets = plain.inner.batches(plain.seeds, 0, 1)
    batch = inputs[0].repeat_interleave(2, 0), targets[0].repeat_interleave(2, 0)
    (grads, losses), (changed, same) = plain._look(one, *batch), scaled._look(other, *batch)
    assert torch.allclose(losses, same, rtol=1e-4)
    factors = scaled._factors(list(enumerate(other.lives)))
    for p, q, g, h, f in zip(one.params, other.params, grads, changed, factors, strict=True):
        assert torch.allclose(q * f, p, rtol=1e-4) and torch.allclose(h, g * f, rtol=1e-3, atol=1e-7)
    assert float(factors[0].max() / factors[0].min()) > 10
    whole, parts = (asked(tasks=(task(rescaled=100.0),)) for _ in range(2))
    assert whole.run() is not None and parts.key != asked().key


def test_a_rescaled_meta_training_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    scaled = asked(tasks=(task(rescaled=100.0),))
    whole = scaled.run()
    scaled.run(tmp_path, stop_after=5)
    assert scaled.run(tmp_path) == whole


# a validation batch's loss as meta-loss


def told_of(inner_data: Any, share: float = 0.25) -> tuple[Told, list[torch.Tensor]]:
    """Meta-losses of a truncation, and the weights that the particles then have."""
    work = _Work(asked(validation=share), CPU)
    unroll, state = work.unrolls[0], work.first()
    inner_data(unroll.inner)
    told = unroll.truncation(work._tree(state.theta[None].expand(6, -1)), state.particles[0], 0, 5)
    return told, state.particles[0].params


def test_no_example_for_validation_is_trained_on_or_judged() -> None:
    inner = Inner(task(), CPU, 0.25)
    sides = [{image.numpy().tobytes() for image in inputs} for inputs, _ in (inner.pool, inner.aside)]
    judged = {image.tobytes() for images, _ in wt.data.digits().held_out(size=64, tokens=1 << 20) for image in images}
    assert sides[0] and sides[1] and not sides[0] & sides[1] and not sides[1] & judged
    assert len(inner.aside[0]) == pytest.approx(0.25 * (len(inner.pool[0]) + len(inner.aside[0])), rel=0.01)
    drawn = [inner.batches([3], 0, 200), inner.validations([3], 0, 200)]
    for (images, _), side in zip(drawn, sides, strict=True):
        assert {image.numpy().tobytes() for image in images.flatten(0, 2)} <= side


def test_equal_examples_are_on_one_side() -> None:
    class Twice:
        """Every image two times."""

        def __getattr__(self, name: str) -> Any:
            return getattr(wt.data.digits(), name)

        def batch(self, **asked: Any) -> Any:
            inputs, targets = wt.data.digits().batch(**asked)
            return np.concatenate([inputs, inputs]), np.concatenate([targets, targets])

    made = task()
    inner = Inner(replace(made, recipe=made.recipe.but(data=Twice())), CPU, 0.3)
    assert not {i.numpy().tobytes() for i in inner.pool[0]} & {i.numpy().tobytes() for i in inner.aside[0]}


def test_validation_examples_make_the_meta_loss_and_never_the_particles_weights() -> None:
    def wrong(which: str) -> Any:
        def swap(inner: Inner) -> None:
            inputs, targets = getattr(inner, which)
            setattr(inner, which, (inputs, (targets + 1) % 10))

        return swap

    told, params = told_of(lambda inner: None)
    other, same = told_of(wrong("aside"))
    assert all(torch.equal(a, b) for a, b in zip(params, same, strict=True))
    assert not torch.equal(told.plus, other.plus)
    _, changed = told_of(wrong("pool"))
    assert not all(torch.equal(a, b) for a, b in zip(params, changed, strict=True))


def test_the_meta_loss_is_that_of_the_validation_batch_after_the_step() -> None:
    work = _Work(asked(validation=0.25), CPU)
    unroll, state = work.unrolls[0], work.first()
    told = unroll.truncation(work._tree(state.theta[None].expand(6, -1)), state.particles[0], 0, 1)
    inputs, targets = unroll.inner.validations(unroll.seeds, 0, 1)
    params = [p[0::2] for p in state.particles[0].params]
    _, losses = unroll.inner.gradient(params, inputs[0], targets[0], False)
    assert torch.allclose(told.plus[0], losses, rtol=1e-5)


def test_with_validation_other_weights_are_trained_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    held = asked(validation=0.25)
    whole, plain = held.run(), asked().run()
    held.run(tmp_path, stop_after=5)
    assert held.run(tmp_path) == whole
    assert whole is not None and plain is not None and whole.hash != plain.hash and held.key != asked().key
    assert whole.card.made["validation"] == 0.25 and "validation" not in plain.card.made
    with pytest.raises(InputError, match="another meta-training"):
        asked(validation=0.5).run(tmp_path)


@pytest.mark.parametrize("kind", ["rescaled", "local"])
def test_validation_goes_with_rescaled_tasks_and_with_local_training(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"tasks": (task(rescaled=100.0),)} if kind == "rescaled" else {
        "tasks": (local_task(),), "local": Local(workers=2, steps=2)}  # fmt: skip
    held = asked(validation=0.25, outer_steps=4, **more)
    whole = held.run()
    held.run(tmp_path, stop_after=2)
    assert held.run(tmp_path) == whole and whole != asked(outer_steps=4, **more).run()


def test_a_rescaled_task_is_judged_with_the_weights_its_network_has() -> None:
    plain, scaled = (
        _Work(asked(tasks=(task(rule=Standard(), rescaled=r),), validation=0.25), CPU).unrolls[0] for r in (1.0, 1000.0)
    )
    inputs, targets = plain.inner.validations(plain.seeds, 0, 1)
    batch = inputs[0].repeat_interleave(2, 0), targets[0].repeat_interleave(2, 0)
    assert torch.allclose(plain._judge(plain.first(), *batch), scaled._judge(scaled.first(), *batch), rtol=1e-4)


# local training


def test_a_round_of_local_training_is_what_its_workers_do_one_by_one() -> None:
    local = Local(workers=3, steps=2)
    inner = LocalInner(local_task(), CPU, local)
    params = initial_params(inner.groups, [0, 1], CPU)
    inputs, targets = inner.batches([0, 1], 0, 1)
    ways, losses = inner.gradient(params, inputs[0], targets[0], False)
    plain, seen = Inner(local_task(), CPU), []
    x, y = (t.unflatten(1, (3, 2, -1)) for t in (inputs[0], targets[0]))
    ends = [torch.zeros_like(p) for p in params]
    for worker in range(3):
        held = [p.clone() for p in params]
        for step in range(2):
            grads, loss = plain.gradient(held, x[:, worker, step].contiguous(), y[:, worker, step].contiguous(), False)
            seen.append(loss)
            held = [h - 0.5 * g for h, g in zip(held, grads, strict=True)]
        ends = [e + h / 3 for e, h in zip(ends, held, strict=True)]
    for way, p, e in zip(ways, params, ends, strict=True):
        assert torch.allclose(way, p - e, atol=1e-6)
    assert torch.allclose(losses, torch.stack(seen).mean(0), rtol=1e-5)


def local_task() -> Task:
    made = task()
    return replace(made, recipe=made.recipe.but(optimizer=SGD(lr=0.5, momentum=0.0)))


def test_averaging_is_slowmo_without_momentum_and_workers_statistics_do_not_depend_on_their_order() -> None:
    losses = simulated(local_task(), Local(workers=2, steps=2), SlowMo(lr=1.0, momentum=0.0), rounds=30, seeds=(0, 1))
    assert losses.shape == (30, 2) and float(losses[-5:].mean()) < 0.9 * float(losses[0].mean())
    deltas = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    for name, value in statistics_of(deltas).items():
        assert torch.allclose(value, statistics_of(deltas.flip(0))[name]), name
        assert value.shape == statistics_of(deltas[:2])[name].shape
    assert torch.equal(statistics_of(torch.ones(4, 2))["agreement"], torch.ones(2))


@pytest.mark.parametrize("statistics", [False, True])
def test_an_outer_rule_is_meta_trained_resumed_and_used_with_another_number_of_workers(
    tmp_path: Path, statistics: bool
) -> None:
    more = 4 if statistics else 0
    outer = asked(
        tasks=(local_task(),), local=Local(workers=2, steps=2, statistics=statistics), outer_steps=6,
        features=Features(scale_free=True, square_axes="oi", more=more),
    )  # fmt: skip
    whole = outer.run()
    outer.run(tmp_path, stop_after=3)
    weights = outer.run(tmp_path)
    assert weights == whole and weights is not None
    part, held = LearnedOuter(weights=weights), {"rounds": 8, "seeds": (0, 1)}
    for workers in (2, 5):
        found = simulated(local_task(), Local(workers=workers, steps=2, statistics=statistics), part, **held)
        assert found.isfinite().all()
    assert bytes_per_round(100, part) == 400 * (5 if statistics else 1)
    with pytest.raises(InputError, match="not trained around local"):
        LearnedOuter(weights=asked().run())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=f"more={4 - more}"):
        replace(outer, features=replace(outer.features, more=4 - more))


def test_the_residual_form_with_a_silent_network_is_averaging() -> None:
    outer = asked(tasks=(local_task(),), local=Local(workers=2, steps=2), outer_steps=1)
    weights = outer.run()
    assert weights is not None
    silent = Weights.of(weights.card, {n: torch.zeros_like(t) for n, t in weights.tensors.items()})
    local, held = Local(workers=2, steps=2), {"rounds": 5, "seeds": (0, 1)}
    one = simulated(local_task(), local, LearnedOuter(weights=silent), **held)
    other = simulated(local_task(), local, SlowMo(lr=1.0, momentum=0.0), **held)
    assert torch.allclose(one, other, rtol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Mistaken(AdamW):
    """A rule of a user's with an error in its code."""

    def update(self, grad, state, param, hp, site):
        raise RuntimeError("my own mistake")


def test_a_mistake_in_a_rule_of_a_matrix_is_said_in_its_own_words(tmp_path: Path) -> None:
    home = task()
    rule = Rule(optimizer=Mistaken(lr=0.1), parametrization=home.recipe.parametrization, schedule=home.recipe.schedule)
    with pytest.raises(InputError, match="my own mistake"):
        Matrix(tasks=(home,), widths=(8,), steps=(3,), seeds=1).run(wt.Store(tmp_path), {"mine": rule})
