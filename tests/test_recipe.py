"""Recipes: slots are filled by value, tuned fields by name, and a run's key says exactly what was asked."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import SGD, AdamW
from windtunnel.parts.schedules import WSD, Constant
from windtunnel.recipe import Judge, Tuned, tuned
from windtunnel.runs import RunSpec


@pytest.fixture
def recipe(corpus):
    return tiny.recipe(corpus)


def key(recipe, **changes) -> str:
    """The key of a run of a recipe at the smallest rung."""
    (spec,) = tiny.pack(recipe, [{"lr": 0.01}]).specs
    return replace(spec, **changes).key


# slots


def test_but_fills_one_slot_and_leaves_the_original(recipe):
    other = recipe.but(optimizer=SGD())
    assert isinstance(other.optimizer, SGD) and isinstance(recipe.optimizer, AdamW)
    assert {slot for slot in recipe.parts() if getattr(other, slot) != getattr(recipe, slot)} == {"optimizer"}


def test_but_refuses_a_slot_that_is_not_there_and_names_those_that_are(recipe):
    with pytest.raises(InputError, match=r"no slot lr.* Its slots are model, .*but\(optimizer=AdamW\(lr=3e-3\)\)"):
        recipe.but(lr=0.1)


# tuned fields


def test_the_stock_recipe_tunes_the_learning_rate_alone(recipe):
    assert set(recipe.tuned_fields()) == {"lr"}


def test_tuned_fields_of_all_slots_are_found_and_filled(recipe):
    open_ = recipe.but(optimizer=AdamW(lr=tuned(1e-3, 1e-1), beta2=tuned(0.9, 0.999)), schedule=Constant(warmup=0.1))
    open_ = open_.but(schedule=Constant(warmup=tuned(0.01, 0.5)))
    assert open_.tuned_fields() == {"lr": Tuned(1e-3, 1e-1), "beta2": Tuned(0.9, 0.999), "warmup": Tuned(0.01, 0.5)}
    filled = open_.fill({"lr": 0.01, "beta2": 0.95, "warmup": 0.2})
    assert filled.tuned_fields() == {}
    assert (filled.optimizer.lr, filled.optimizer.beta2, filled.schedule.warmup) == (0.01, 0.95, 0.2)
    assert filled.optimizer.beta1 == AdamW().beta1


@pytest.mark.parametrize("values", [{}, {"lr": 0.1, "beta1": 0.9}, {"learning_rate": 0.1}])
def test_filling_needs_exactly_the_open_fields(recipe, values):
    with pytest.raises(InputError, match=r"leaves \['lr'\] open for tuning"):
        recipe.fill(values)


def test_two_open_fields_of_one_name_are_refused(recipe):
    with pytest.raises(InputError, match="Two slots have a tuned field called lr"):
        recipe.but(schedule=Named(lr=tuned(0.1, 1))).tuned_fields()


@dataclass(frozen=True)
class Named:
    """A schedule with a field of the optimizer's name."""

    lr: float = 0.5

    def __call__(self, tokens: float, horizon: float) -> float:
        return self.lr


@pytest.mark.parametrize("low, high", [(0.1, 0.01), (0.1, 0.1), (0, 1), (-1, 1), (1, float("inf")), (float("nan"), 1)])
def test_an_empty_or_inverted_range_is_refused(low, high):
    with pytest.raises(InputError, match=r"empty or inverted range.*0 < low < high"):
        tuned(low, high)


def test_a_range_of_words_is_refused():
    with pytest.raises(InputError, match=r"tuned\('a', 'b'\) is no range; it takes two numbers"):
        tuned("a", "b")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("changes", [{"tokens": 0}, {"evaluations": 0}])
def test_a_judge_that_never_looks_is_refused(recipe, changes):
    with pytest.raises(InputError, match="both must be at least 1"):
        Judge(data=recipe.data, **changes)


# the key of a run


def test_equal_asks_have_equal_keys(corpus):
    assert key(tiny.recipe(corpus)) == key(tiny.recipe(corpus))


def test_a_spec_comes_back_from_json_with_its_key(recipe):
    (spec,) = tiny.pack(recipe, [{"lr": 0.01}]).specs
    assert RunSpec.from_json(spec.to_json()) == spec
    assert RunSpec.from_json(spec.to_json()).key == spec.key


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"hyperparameters": {"lr": 0.0100001}},
        {"rung": tiny.RUNG.but(tokens=tiny.TOKENS + 1)},
        {"rung": tiny.RUNG.but(batch=5)},
        {"rung": tiny.RUNG.but(heads=2)},
        {"base_rung": tiny.RUNG.but(width=4)},
        {"judge": {"data": "other", "tokens": 1, "evaluations": 1}},
    ],
)
def test_what_changes_a_run_changes_its_key(recipe, change):
    assert key(recipe, **change) != key(recipe)


@pytest.mark.parametrize(
    "slots",
    [
        {"optimizer": AdamW(beta2=0.96)},
        {"optimizer": SGD()},
        {"schedule": WSD(decay=0.3)},
        {"transforms": (tiny.sign_momentum,)},
        {"parametrization": wt.recipes.transformer_standard_adamw(data=None).parametrization},
    ],
)
def test_a_changed_part_changes_the_key(recipe, slots):
    assert key(recipe.but(**slots)) != key(recipe)


def test_the_base_horizon_is_no_part_of_the_key(recipe):
    """Multipliers follow from the base's shape alone, so a longer ladder keeps the runs it shares."""
    assert key(recipe, base_rung=tiny.RUNG.but(tokens=7)) == key(recipe)


def test_an_integer_hyperparameter_is_the_same_ask_as_its_float(recipe):
    assert key(recipe, hyperparameters={"lr": 1}) == key(recipe, hyperparameters={"lr": 1.0})


def test_the_key_follows_the_content_of_the_data_and_not_its_path(corpus, tmp_path):
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    for folder in (here, there, other):
        folder.mkdir()
        tiny.write_corpus(folder)
    (other / "001.txt").write_text((other / "001.txt").read_text() + " more")
    keys = [key(tiny.recipe(folder)) for folder in (corpus, here, there, other)]
    assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.mark.parametrize("options", [{"context": 8}, {"validation": 0.3}])
def test_another_cut_of_the_data_is_another_ask(corpus, options):
    other = tiny.recipe(corpus).but(data=tiny.text(corpus, **options))
    assert key(other) != key(tiny.recipe(corpus))


def test_where_the_cache_lies_and_how_often_text_may_repeat_is_no_part_of_the_key(corpus, tmp_path):
    other = tiny.recipe(corpus).but(data=tiny.text(corpus, cache=tmp_path / "cache", repeat=True))
    assert key(other) == key(tiny.recipe(corpus))


def test_an_optimizer_may_not_hold_what_cannot_be_hashed(recipe):
    with pytest.raises(InputError, match="cannot be part of a run's key"):
        recipe.but(optimizer=AdamW(beta1=object())).describe()


def test_the_key_is_the_same_in_another_process_with_another_hash_seed(corpus):
    code = "import sys, tiny, test_recipe; print(test_recipe.key(tiny.recipe(sys.argv[1])))"
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(corpus)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.strip() == key(tiny.recipe(corpus)), done.stderr


def test_a_batch_rule_that_gives_the_same_batch_is_still_another_recipe(recipe):
    assert key(recipe.but(batch=FixedBatch(examples=9))) != key(recipe)
