"""Runs in several stretches: what is handed on, what is recorded, what a stop costs, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
import torch

import windtunnel as wt
from windtunnel.errors import InputError, Stopped
from windtunnel.ideas.model_soup import Soup
from windtunnel.ideas.v_cycle import VCycle, overlap, resized
from windtunnel.launch.here import Here
from windtunnel.parts.models import Transformer
from windtunnel.parts.models.transformer import GELU
from windtunnel.parts.schedules import Constant, Power, Rewarmed
from windtunnel.parts.schedules.faster import Faster, PartOf
from windtunnel.recipe import Recipe, Stretch
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.pack import build_model
from windtunnel.train.rows import at_batch

RUNG = wt.Rung(width=16, depth=2, heads=2, tokens=tiny.TOKENS, batch=tiny.BATCH)
LR = {"lr": 0.01}


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Two stretches of the same network; the second goes on from the first, or from nothing."""

    handed: bool = True
    share: float = 0.5

    def stretches(self, recipe: Recipe, rung: wt.Rung) -> Sequence[Stretch]:
        first = round(self.share * rung.tokens)
        return (
            Stretch(name="one", recipe=recipe, rung=rung.but(tokens=first)),
            Stretch(
                name="two", recipe=recipe, rung=rung.but(tokens=rung.tokens - first),
                start=(lambda ended: ended["one"]) if self.handed else None,
            ),
        )  # fmt: skip


def pack_of(corpus, values=(0.003, 0.01), *, seeds=None, rung=RUNG, **slots):
    """A pack of a few learning rates at a rung that can be halved."""
    return tiny.pack(tiny.recipe(corpus, **slots), [{"lr": lr} for lr in values], rung=rung, seeds=seeds)


def test_a_stretch_goes_on_from_the_weights_and_in_the_data_of_the_one_before(corpus):
    sgd = wt.recipes.mlp_mup_sgd(data=wt.data.digits()).optimizer
    slots = {"optimizer": replace(sgd, momentum=0.0), "schedule": Constant()}
    whole, halves = (pack_of(corpus, **slots, phases=phases) for phases in (None, Halves()))
    one, two = (train(pack, device=tiny.CPU) for pack in (whole, halves))
    for a, b in zip(one, two, strict=True):  # without momentum and schedule, two halves are the whole
        np.testing.assert_allclose(a.curve["train_loss"], b.curve["train_loss"], rtol=1e-5)
        np.testing.assert_array_equal(a.curve["tokens"], b.curve["tokens"])
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.cost.flops == b.cost.flops and a.key != b.key
    fresh = train(pack_of(corpus, **slots, phases=Halves(handed=False)), device=tiny.CPU)
    half = tiny.STEPS // 2
    assert fresh[0].curve["train_loss"][half] > one[0].curve["train_loss"][half]
    assert list(one[0].curve["judged_tokens"])[-1] == list(two[0].curve["judged_tokens"])[-1] == tiny.TOKENS


@pytest.mark.parametrize("phases", [VCycle(), Soup()], ids=["VCycle", "Soup"])
def test_a_pack_in_stretches_equals_its_members_alone_and_survives_a_stop_at_every_step(corpus, tmp_path, phases):
    pack = pack_of(corpus, phases=phases)
    runs = train(pack, device=tiny.CPU)
    for member, run in enumerate(runs):
        (alone,) = train(pack.part([member]), device=tiny.CPU, packed=False)
        np.testing.assert_allclose(run.curve["train_loss"], alone.curve["train_loss"], rtol=1e-5)
    steps = len(runs[0].curve["train_loss"])
    told: list[int] = []
    while True:  # stopped after every single step
        asked = len(told)
        try:
            done = train(
                pack, device=tiny.CPU, folder=tmp_path, report=lambda p: told.append(p.step),
                stop=lambda asked=asked: len(told) > asked,
            )  # fmt: skip
            break
        except Stopped:
            continue
    assert told == list(range(1, steps + 1))
    for run, again in zip(runs, done, strict=True):
        np.testing.assert_array_equal(run.curve["train_loss"], again.curve["train_loss"])
        assert (run.loss, run.cost.flops, run.metrics) == (again.loss, again.cost.flops, again.metrics)


def test_the_bill_is_of_all_stretches_and_the_size_of_the_last(corpus):
    plain, cycle = pack_of(corpus), pack_of(corpus, phases=VCycle())
    assert cycle.size() == plain.size()
    assert 0.4 * plain.training_flops() < cycle.training_flops() < 0.9 * plain.training_flops()
    (run, _) = train(cycle, device=tiny.CPU)
    assert run.cost.flops == pytest.approx(cycle.training_flops() / 2, rel=0.15)
    assert run.curve["tokens"][-1] == tiny.TOKENS


def test_a_study_trains_phases_through_worker_processes(corpus, tmp_path):
    store, pack = wt.Store(tmp_path / "store"), pack_of(corpus, phases=VCycle())
    Here(devices=2)([pack.part([0]), pack.part([1])], store)
    wanted = train(pack, device=tiny.CPU)
    assert [store.get(run.key).loss for run in wanted] == pytest.approx([run.loss for run in wanted], rel=1e-5)
    assert not list((store.path / "packs").glob("*"))


def test_members_of_other_horizons_have_stretches_of_their_own(corpus):
    pack = pack_of(corpus, phases=Halves())
    longer = replace(pack.specs[1], rung=RUNG.but(tokens=2 * tiny.TOKENS))
    runs = train(replace(pack, specs=(pack.specs[0], longer)), device=tiny.CPU)
    assert [len(run.curve["train_loss"]) for run in runs] == [tiny.STEPS, 2 * tiny.STEPS]


def test_a_member_that_diverges_in_its_first_stretch_leaves_the_others_alone(corpus):
    runs = train(pack_of(corpus, (1e38, 0.01), phases=Halves()), device=tiny.CPU)
    assert not runs[0].finished and "not finite" in runs[0].message and len(runs[0].curve["train_loss"]) < tiny.STEPS
    (alone,) = train(pack_of(corpus, (0.01,), seeds=(1,), phases=Halves()), device=tiny.CPU)
    np.testing.assert_allclose(runs[1].curve["train_loss"], alone.curve["train_loss"], rtol=1e-6)


def test_shared_pieces_of_a_line_add_up():
    for old, new in ((8, 4), (4, 8), (88, 40), (40, 88), (6, 4)):
        shared = overlap(old, new)
        torch.testing.assert_close(shared.sum(1), torch.ones(new, dtype=torch.float64))
    torch.testing.assert_close(overlap(4, 2) @ overlap(2, 4), torch.eye(2, dtype=torch.float64))


def test_a_network_that_was_grown_computes_what_the_small_one_did(corpus):
    recipe = tiny.recipe(corpus, model=Transformer(mlp=GELU))
    small, large = RUNG.but(width=16, depth=1, heads=2), RUNG.but(width=32, depth=1, heads=4)
    torch.manual_seed(0)
    one, two = build_model(recipe, small), build_model(recipe, large)
    weights = {name: p.detach() for name, p in one.named_parameters()}
    shapes = {name: tuple(p.shape) for name, p in two.named_parameters()}
    two.load_state_dict(resized(weights, shapes, 1, 1, head=8), strict=False)
    inputs = torch.from_numpy(recipe.data.batch(seed=0, step=0, size=2)[0])
    torch.testing.assert_close(two(inputs), one(inputs), rtol=1e-4, atol=1e-5)
    back = resized(
        {n: p.detach() for n, p in two.named_parameters()}, {n: tuple(w.shape) for n, w in weights.items()}, 1, 1, 8
    )
    for name, tensor in weights.items():  # growing and shrinking again changes nothing
        torch.testing.assert_close(back[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_soup_is_the_mean_of_its_branches(corpus):
    pack = pack_of(corpus, (0.01,), phases=Soup(heights=(1.0, 1.0)))
    same = pack_of(corpus, (0.01,), phases=Soup(heights=(1.0,), trunk=0.7))
    (two,), (one,) = train(pack, device=tiny.CPU), train(same, device=tiny.CPU)
    assert two.finished and one.finished
    names = [stretch.name for stretch in Soup().stretches(pack.recipe, RUNG)]
    assert names == ["trunk", "branch 0", "branch 1", "branch 2", "soup"]
    start = Soup().stretches(pack.recipe, RUNG)[-1].start
    assert start is not None
    found = start({f"branch {i}": {"w": torch.full((2,), float(i))} for i in range(3)} | {"trunk": {}})
    torch.testing.assert_close(found["w"], torch.ones(2))


def test_part_of_a_schedule_is_the_piece_it_says():
    whole = wt.recipes.transformer_mup_adamw(data=None).schedule
    for begins, ends in ((0.0, 0.5), (0.5, 1.0), (0.2, 0.9)):
        piece = PartOf(schedule=whole, begins=begins, ends=ends)
        for share in (0.1, 0.5, 0.9):
            at = begins + share * (ends - begins)
            assert piece(share * 700, 700) == pytest.approx(whole(at * 1000, 1000))
    power = Power(knee_tokens=1e5, batch_tokens=256)
    follows = [at_batch(part, 1024) for part in (PartOf(schedule=power), Faster(schedule=power, factor=2))]
    assert [each.schedule for each in follows] == [power.at_batch(1024)] * 2 != [power] * 2
    nested = Rewarmed(each=Faster(schedule=power, factor=2), at_tokens=(5_000,))
    assert at_batch(nested, 1024).each.schedule == power.at_batch(1024) and at_batch(whole, 1024) is whole
    with pytest.raises(InputError, match="shares of the whole schedule"):
        PartOf(schedule=whole, begins=0.5, ends=0.5)


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """Phases that break a promise."""

    how: str

    def stretches(self, recipe: Recipe, rung: wt.Rung) -> Sequence[Stretch]:
        whole = Stretch(name="whole", recipe=recipe, rung=rung)
        if self.how == "smaller":
            return [replace(whole, rung=rung.but(width=8))]
        if self.how == "longer":
            return [replace(whole, rung=rung.but(tokens=2 * rung.tokens))]
        if self.how == "none":
            return []
        if self.how == "twice":
            return [whole, whole]
        if self.how == "inside":
            return [replace(whole, recipe=recipe.but(phases=Halves()))]
        return [replace(whole, start=lambda ended: {"nowhere": torch.zeros(1)})]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("smaller", "it must end at the rung asked for"),
        ("longer", "the rung asked for allows"),
        ("none", "at least one stretch"),
        ("twice", "each with a name of its own"),
        ("inside", "has phases itself"),
        ("names", "starts with a tensor 'nowhere', which its network does not have"),
    ],
)
def test_phases_that_break_a_promise_are_refused_with_a_sentence(corpus, how, says):
    with pytest.raises(InputError, match=says):
        train(pack_of(corpus, phases=Wrong(how=how)), device=tiny.CPU)


def test_a_study_refuses_phases_that_some_rung_cannot_have_before_it_trains_anything(corpus, tmp_path):
    ladder = wt.Ladder.widths((8, 12, 16), depth=1, tokens=tiny.TOKENS, head_width=4, seeds=1)  # 3 heads at width 12
    target = wt.Target(rung=wt.Rung(width=48, depth=1, heads=12, tokens=tiny.TOKENS))
    study = tiny.study(corpus, ideas=[wt.ideas.v_cycle], ladder=ladder, target=target)
    store = wt.Store(tmp_path / "store")
    with pytest.raises(InputError, match=r"v_cycle cannot be trained everywhere.*give an even number"):
        study.run(store)
    assert not store.rows()


def test_a_recipe_without_phases_has_the_key_it_always_had(corpus):
    recipe = tiny.recipe(corpus)
    assert "phases" not in recipe.describe() and "phases" in recipe.but(phases=Halves()).describe()
    assert Engine(pack_of(corpus), tiny.CPU, True).stretch == 0
