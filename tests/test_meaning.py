"""Meaning: what a part does identifies it, not how it is written or where it lies.

Each test writes two modules, as a user would, and compares what the same name means in both.
"""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass

import pytest

from windtunnel.errors import InputError
from windtunnel.meaning import describe, meaning, source_of
from windtunnel.runs import _without_names

MODULE = '''
"""An optimizer."""
import math
from dataclasses import dataclass

RATE = 0.5


def scaled(x):
    return RATE * x


def unused(x):
    return x + 1


@dataclass(frozen=True)
class Part:
    """It halves."""

    beta: float = 0.9

    def update(self, grad):
        # twice is too much
        return scaled(grad) * self.beta
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write modules and import them; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(text: str, name: str | None = None):
        name = name or f"meant_{tmp_path.name.replace('-', '_')}_{len(made)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name)

    yield write
    for name in made:
        sys.modules.pop(name, None)


def changed(old: str, new: str) -> str:
    assert old in MODULE
    return MODULE.replace(old, new)


SAME = {
    "a comment": changed("# twice is too much", "# rather a lot, and said at length"),
    "a docstring": changed('"""It halves."""', '"""It multiplies by one half, as everybody knows."""'),
    "the module's docstring": changed('"""An optimizer."""', '"""Another text."""'),
    "blank lines and brackets": changed(
        "return scaled(grad) * self.beta", "return (\n\n            scaled(grad) * self.beta\n        )"
    ),
    "a function that is not used": changed("return x + 1", "return x + 2"),
    "an import that is not used": changed("import math", "import os"),
    "the order of definitions": MODULE.replace("\n\ndef unused(x):\n    return x + 1\n", "")
    + "\n\ndef unused(x):\n    return x + 1\n",
}
DIFFERENT = {
    "its own code": changed("* self.beta", "+ self.beta"),
    "a field's default": changed("beta: float = 0.9", "beta: float = 0.95"),
    "a constant that a function it calls leans on": changed("RATE = 0.5", "RATE = 0.25"),
    "a function that it calls": changed("return RATE * x", "return RATE + x"),
    "a decorator": changed("@dataclass(frozen=True)", "@dataclass(frozen=True, eq=True)"),
}


@pytest.mark.parametrize("what", SAME)
def test_rewording_keeps_the_meaning(module, what):
    assert meaning(module(MODULE).Part) == meaning(module(SAME[what]).Part)


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_change_of_substance_changes_the_meaning(module, what):
    assert meaning(module(MODULE).Part) != meaning(module(DIFFERENT[what]).Part)


def test_another_module_or_file_name_keeps_the_meaning(module):
    assert meaning(module(MODULE, "first_name").Part) == meaning(module(MODULE, "quite_another_name").Part)


def test_a_helper_moved_to_a_module_of_its_own_keeps_the_meaning(module):
    body = MODULE.replace("def scaled(x):\n    return RATE * x\n", "").replace("RATE = 0.5\n", "")
    module("RATE = 0.5\n\n\ndef scaled(x):\n    return RATE * x\n", "moved_out")
    assert meaning(module(MODULE).Part) == meaning(module(f"from moved_out import scaled\n{body}").Part)


@pytest.mark.parametrize(
    "line, use",
    [
        ("from {} import scaled", "scaled(grad)"),
        ("from {} import scaled as other", "other(grad)"),
        ("import {}", "{}.scaled(grad)"),
        ("import {} as aside", "aside.scaled(grad)"),
    ],
)
def test_a_changed_function_of_an_imported_module_changes_the_meaning(module, line, use):
    means = []
    for number, rate in enumerate(("0.5", "0.25")):
        name = f"aside_{number}"
        module(f"RATE = {rate}\n\n\ndef scaled(x):\n    return RATE * x\n", name)
        text = f"{line.format(name)}\n\n\ndef part(grad):\n    return {use.format(name)}\n"
        means.append(meaning(module(text).part))
    assert means[0] != means[1]


def test_a_changed_constant_of_an_imported_module_changes_the_meaning(module):
    means = []
    for number, rate in enumerate(("0.5", "0.25")):
        module(f"RATE = {rate}\n", f"constants_{number}")
        means.append(
            meaning(module(f"from constants_{number} import RATE\n\n\ndef part(g):\n    return RATE * g\n").part)
        )
    assert means[0] != means[1]


def test_a_changed_parent_class_changes_the_meaning(module):
    texts = [f"class Parent:\n    rate = {r}\n\n\nclass Part(Parent):\n    pass\n" for r in (1, 2)]
    assert meaning(module(texts[0]).Part) != meaning(module(texts[1]).Part)


def test_definitions_that_lean_on_each_other_end(module):
    text = "def part(x):\n    return other(x)\n\n\ndef other(x):\n    return part(x - {}) if x else 0\n"
    assert meaning(module(text.format(1)).part) != meaning(module(text.format(2)).part)


def test_an_installed_library_counts_by_its_name():
    assert meaning(functools.reduce) == "_functools.reduce"
    from torch.optim import AdamW

    assert meaning(AdamW) == "torch.optim.adamw.AdamW"


@pytest.mark.parametrize("folder", [".local/lib/python3.12/site-packages", "lib/python3/dist-packages"])
def test_a_library_of_the_user_or_of_the_system_below_a_virtual_environment_counts_by_its_name(
    folder, tmp_path, monkeypatch
):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "installed_there.py").write_text("def part(x):\n    return x\n")
    monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert meaning(importlib.import_module("installed_there").part) == "installed_there.part"


def test_our_stock_parts_count_by_what_they_do():
    from windtunnel.parts.optimizers import AdamW

    assert len(meaning(AdamW)) == 16 and source_of(AdamW()) is not None


# what a part is described as


@dataclass(frozen=True)
class Holder:
    """Holds anything."""

    held: object = None


def test_values_and_parts_are_described_as_plain_data():
    described = describe(Holder((1, 2.5, "x", None, True, Holder(3))))
    assert described["fields"]["held"][:5] == [1, 2.5, "x", None, True]
    assert described["fields"]["held"][5]["fields"] == {"held": 3}


def test_the_name_of_a_part_is_shown_but_does_not_identify():
    first, second = {"is": "A", "fields": {"x": 1}, "meaning": "m"}, {"is": "B", "fields": {"x": 1}, "meaning": "m"}
    assert _without_names(first) == _without_names(second)
    assert _without_names({"is": "A", "meaning": "m"}) != _without_names({"is": "A", "meaning": "n"})


@pytest.mark.parametrize("thing", [object(), {1, 2}, sys, b"bytes"])
def test_what_cannot_be_described_is_explained(thing):
    with pytest.raises(InputError, match="cannot be part of a run's key"):
        describe(thing)


def test_a_part_made_inside_a_function_is_explained():
    def inner(x):
        return x

    with pytest.raises(InputError, match="is defined inside a function"):
        describe(inner)
    with pytest.raises(InputError, match="<lambda> is a lambda, which has no name"):
        describe(lambda x: x)


def test_equal_functions_of_two_modules_are_both_followed(module):
    def told(scale):
        body = "SCALE = {}\n\n\ndef scaled(x):\n    return SCALE * x\n"
        first, second = module(body.format(1)), module(body.format(scale))
        both = "from {} import scaled as one\nfrom {} import scaled as two\n\n\ndef part(x):\n    return one(two(x))\n"
        return meaning(module(both.format(first.__name__, second.__name__)).part)

    assert told(2) != told(3) and told(2) == told(2)
