"""Searches inside a run: exact forks, what is told, what is asked next, what is recorded, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError, Stopped
from windtunnel.ideas.population_based_training import (
    Population,
    loss_of,
    population_based_training,
    random_search,
)
from windtunnel.parts.optimizers import SGD
from windtunnel.parts.schedules import Constant
from windtunnel.parts.schedules.faster import PartOf
from windtunnel.recipe import Recipe, Stretch, Told
from windtunnel.train.loop import train

RUNG = tiny.RUNG
RANGES = (("lr", 1e-4, 1e-1),)


@dataclass(frozen=True, kw_only=True)
class Forked:
    """One run in two stretches, the second a fork of the first: nothing but the cut differs from one stretch."""

    def stretches(self, recipe: Recipe, rung: wt.Rung) -> Sequence[Stretch]:
        half = rung.but(tokens=rung.tokens // 2)
        parts = [recipe.but(schedule=PartOf(schedule=recipe.schedule, begins=b, ends=b + 0.5)) for b in (0.0, 0.5)]
        return [
            Stretch(name="one", recipe=parts[0], rung=half),
            Stretch(name="two", recipe=parts[1], rung=half, fork="one"),
        ]

    def ask(self, recipe: Recipe, rung: wt.Rung, told: Sequence[Told], seed: int) -> Sequence[Stretch]:
        return self.stretches(recipe, rung)[len(told) : len(told) + 1]

    def chosen(self, told: Sequence[Told]) -> str:
        return told[-1].stretch.name


def pack_of(corpus, values=(0.003, 0.01), **slots):
    recipe = tiny.recipe(corpus, **slots)
    return tiny.pack(recipe, [{"lr": lr} for lr in values], seeds=range(len(values)))


def population(corpus, seeds=(0, 1), members=4, generations=4, **fields):
    recipe = population_based_training(tiny.recipe(corpus))
    part = Population(ranges=RANGES, members=members, generations=generations, **fields)
    return tiny.pack(recipe.but(phases=part), [{} for _ in seeds], seeds=list(seeds))


def test_a_fork_goes_on_bit_for_bit_with_optimizer_state_and_data(corpus):
    whole, cut = (train(pack_of(corpus, phases=phases), device=tiny.CPU) for phases in (None, Forked()))
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a.curve["train_loss"], b.curve["train_loss"])  # AdamW's momenta went along
        np.testing.assert_array_equal(a.curve["tokens"], b.curve["tokens"])
        assert a.loss == b.loss and a.cost.flops == b.cost.flops


def test_a_population_is_one_run_that_pays_for_all_its_members(corpus):
    pack, plain = population(corpus), pack_of(corpus, values=(0.01, 0.01))
    assert pack.training_flops() == pytest.approx(4 * plain.training_flops())
    for run in train(pack, device=tiny.CPU):
        assert run.cost.flops == pytest.approx(4 * plain.training_flops() / 2)
        assert run.curve["tokens"][-1] == tiny.TOKENS and len(run.curve["train_loss"]) == tiny.STEPS
        assert list(run.curve["searched_tokens"]) == [tiny.TOKENS * g // 4 for g in range(4)]
        rates = run.curve["searched_lr"]
        factors = rates[1:] / rates[:-1]
        assert all(min(abs(f - g) for g in (0.8, 1.0, 1.2)) < 1e-9 for f in factors)


def test_worse_members_go_on_from_better_ones_and_random_search_lets_everyone_be(corpus):
    seen: dict[int, list[Sequence[Told]]] = {}

    @dataclass(frozen=True, kw_only=True)
    class Spied(Population):
        def ask(self, recipe, rung, told, seed):
            seen.setdefault(seed, []).append(list(told))
            return super().ask(recipe, rung, told, seed)

    pack = population(corpus)
    phases = Spied(ranges=RANGES, members=4, generations=4)
    object.__setattr__(pack.recipe, "phases", phases)
    train(pack, device=tiny.CPU)
    copies = 0
    for rounds in seen.values():
        told = rounds[-1]
        for g in range(1, 4):
            before, after = told[4 * (g - 1) : 4 * g], told[4 * g : 4 * (g + 1)]
            losses = [loss_of(t) for t in before]
            parents = [next(i for i, t in enumerate(before) if t.stretch.name == a.stretch.fork) for a in after]
            for member, parent in enumerate(parents):
                assert losses[parent] <= losses[member]
                copies += parent != member
            assert parents[int(np.argmax(losses))] == int(np.argmin(losses))
    assert copies == 2 * 3  # one of four in each of three rounds of two runs
    for run in train(population(corpus, replaced=0.0), device=tiny.CPU):
        assert len(set(run.curve["searched_lr"])) == 1


def test_the_best_member_of_a_random_search_is_the_run_at_its_value(corpus):
    (run,) = train(population(corpus, seeds=(3,), replaced=0.0), device=tiny.CPU)
    alone = tiny.recipe(corpus).but(schedule=Constant())
    first = Population(ranges=RANGES, members=4)._first(3)
    solo = [train(tiny.pack(alone, [values], seeds=[3]), device=tiny.CPU)[0] for values in first]
    half = tiny.STEPS // 4 // 2
    ends = [float(r.curve["train_loss"][-half:].mean()) for r in solo]
    best = solo[int(np.argmin(ends))]
    np.testing.assert_allclose(run.curve["train_loss"], best.curve["train_loss"], rtol=1e-5)
    assert run.loss == pytest.approx(best.loss, rel=1e-5)


def test_a_population_packed_equals_alone_and_survives_a_stop_at_every_step(corpus, tmp_path):
    pack = population(corpus)
    runs = train(pack, device=tiny.CPU)
    for member, run in enumerate(runs):
        (alone,) = train(pack.part([member]), device=tiny.CPU, packed=False)
        np.testing.assert_allclose(run.curve["train_loss"], alone.curve["train_loss"], rtol=1e-5)
    told: list[int] = []
    while True:
        asked = len(told)
        try:
            done = train(
                pack, device=tiny.CPU, folder=tmp_path, report=lambda p: told.append(p.step),
                stop=lambda asked=asked: len(told) > asked,
            )  # fmt: skip
            break
        except Stopped:
            continue
    assert told == list(range(1, tiny.STEPS + 1))
    for run, again in zip(runs, done, strict=True):
        for name in ("train_loss", "judged_loss", "searched_lr"):
            np.testing.assert_array_equal(run.curve[name], again.curve[name])
        assert (run.loss, run.cost.flops) == (again.loss, again.cost.flops)


def test_a_member_that_diverges_is_replaced_and_a_population_that_dies_is_a_diverged_run(corpus):
    (run,) = train(population(corpus, seeds=(0,), members=3, generations=3), device=tiny.CPU)
    assert run.outcome is wt.Outcome.FINISHED
    wild = replace(population(corpus, seeds=(0,)).recipe.phases, ranges=(("lr", 1e30, 1e38),))
    pack = population(corpus, seeds=(0,))
    object.__setattr__(pack.recipe, "phases", wild)
    (dead,) = train(pack, device=tiny.CPU)
    assert dead.outcome is wt.Outcome.DIVERGED and dead.loss is None and "not finite" in dead.message


@dataclass(frozen=True, kw_only=True)
class Wrong(Forked):
    """Asks for what there is not, in one way or another."""

    how: str

    def ask(self, recipe, rung, told, seed):
        one, two = self.stretches(recipe, rung)
        wrong = {
            "unknown fork": replace(two, fork="zero"),
            "same name": replace(two, name="one"),
            "too much": replace(two, rung=rung.but(tokens=3 * rung.tokens)),
            "both": replace(two, start=lambda ended: ended["one"]),
            "closed": replace(two, values={"momentum": 0.5}),
            "unfit": replace(two, recipe=two.recipe.but(optimizer=SGD(lr=0.1, momentum=0.9))),
            "chosen": two,
        }[self.how]
        return [one] if not told else [wrong] if len(told) == 1 else []

    def chosen(self, told):
        return "three"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("unknown fork", "forks 'zero', which has not ended"),
        ("same name", "two stretches the name 'one'"),
        ("too much", "the rung asked for allows"),
        ("both", "both fork and start"),
        ("closed", "does not leave open"),
        ("unfit", "another optimizer"),
        ("chosen", "chose 'three', which it never asked for"),
    ],
)
def test_what_a_search_cannot_ask_is_said_in_a_sentence(corpus, how, words):
    with pytest.raises(InputError, match=words):
        train(pack_of(corpus, phases=Wrong(how=how)), device=tiny.CPU)


def test_the_two_arms_have_the_same_first_values_and_no_tuning(corpus):
    base = tiny.recipe(corpus)
    one, other = population_based_training(base), random_search(base)
    assert not one.tuned_fields() and not other.tuned_fields()
    assert one.phases._first(5) == other.phases._first(5) != one.phases._first(6)
    assert one.size(RUNG).flops_per_token == 8 * base.size(RUNG).flops_per_token
