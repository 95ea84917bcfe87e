"""What a script sets in a module from outside is in no file: its parts are refused, not trained under a file's key."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys

import pytest

from windtunnel.errors import InputError
from windtunnel.meaning import describe, meaning
from windtunnel.written import _said, check_as_written

TEXT = """
import math
from math import floor
from dataclasses import dataclass
from enum import Enum
from textwrap import dedent as parse

SCALE, WIDTHS = 1.0, (8, 16)
RATE: float = 0.5
NAME = "plain"
EIGHTH = 1 / 8
built = 0
memo = {}
try:
    FAST = True
except ImportError:
    FAST = False


class Kind(Enum):
    ONE = 1


def act(x):
    return math.tanh(x)


def count():
    global built
    built += 1


@dataclass(frozen=True)
class Part:
    power: float = 2.0
    made = 0

    def build(self, rung, data):
        Part.made += 1
        count()
        memo[rung] = act(RATE) * self.power
        return NAME, FAST, Kind.ONE, self.hidden()

    def hidden(self):
        return SCALE, WIDTHS, EIGHTH, parse("x"), floor(EIGHTH)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "mymodel.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mymodel")
    del sys.modules["mymodel"]


def module_of_mine(text):
    return text


def setting(path, value):
    def act(module):
        *owner, name = path.split(".")
        setattr(functools.reduce(getattr, owner, module), name, value)

    return act


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("RATE", 0.2, "mymodel.RATE is 0.2 in memory and 0.5 in"),
        ("NAME", None, "mymodel.NAME is None"),
        ("EIGHTH", 0.5, "mymodel.EIGHTH is 0.5 in memory and 0.125 in"),
        ("parse", module_of_mine, "mymodel.parse is another object in memory and dedent of textwrap in"),
        ("act", abs, "mymodel.act is another object in memory and a function"),
        ("act", lambda x: x, "mymodel.act is another object"),
        ("Part.build", lambda self, rung, data: None, "mymodel.Part.build is another object"),
        ("Part.power", 3.0, "mymodel.Part.power is 3.0 in memory and 2.0 in"),
    ],
)
def test_what_is_replaced_from_outside_is_refused_before_anything_is_trained(module, path, value, said):
    part = module.Part()
    before = describe(part)
    setting(path, value)(module)
    with pytest.raises(InputError, match=said):
        describe(part)
    importlib.reload(module)
    assert describe(module.Part()) == before


def test_what_a_file_changes_itself_is_left_alone(module):
    part = module.Part()
    before = describe(part)
    part.build(3, None)
    assert (module.built, module.Part.made, len(module.memo)) == (1, 1, 1)
    module.FAST = not module.FAST  # bound twice: the file does not say which holds
    assert describe(part) == before


def test_a_part_that_leans_on_nothing_replaced_is_not_asked_of_it(module):
    module.RATE = 3.0
    assert meaning(module.act)


def test_a_module_imported_anew_is_read_anew(module, tmp_path):
    (tmp_path / "mymodel.py").write_text(TEXT.replace("RATE: float = 0.5", "RATE: float = 0.75"))
    importlib.reload(module)
    check_as_written([(module, name) for name in _said(module)])
    module.RATE = 0.5
    with pytest.raises(InputError, match=r"0\.5 in memory and 0\.75 in"):
        check_as_written([(module, "RATE")])


LIBRARIES = """
import importlib
from windtunnel.written import _said, check_as_written
for each in map(importlib.import_module, [
    "windtunnel.ladder", "windtunnel.tune", "torch.nn.modules.transformer", "torch.nn.functional",
    "torch.nn.modules.rnn", "json.decoder", "scipy.optimize._minimize", "numpy.lib._function_base_impl",
]):
    assert _said(each), each
    check_as_written((each, name) for name in _said(each))
"""


def test_libraries_as_they_are_pass():
    """In a process of its own, where no test and no other library has replaced anything of them."""
    subprocess.run([sys.executable, "-c", LIBRARIES], check=True)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffX = 1\n",
        "X = 1\nglobals()['X'] = 2\n",
        "class A:\n    k = 1\nsetattr(A, 'k', 2)\n",
        "class Meta(type):\n    pass\nclass A(metaclass=Meta):\n    k = 1\n",
        "X = ({},)\nX[0][1] = 2\n",
        "X = 1\nmatch 3:\n    case X:\n        pass\n",
    ],
)
def test_what_a_file_says_in_other_ways_is_no_fault(tmp_path, monkeypatch, text):
    (tmp_path / "odd.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    odd = importlib.import_module("odd")
    check_as_written([(odd, name) for name in vars(odd)])
    del sys.modules["odd"]


def test_a_file_of_another_encoding_is_read(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_bytes("# -*- coding: latin-1 -*-\nNAME = 'é'\n".encode("latin-1"))
    monkeypatch.syspath_prepend(tmp_path)
    odd = importlib.import_module("odd")
    check_as_written([(odd, "NAME")])
    odd.NAME = "e"
    with pytest.raises(InputError, match="in memory"):
        check_as_written([(odd, "NAME")])
    del sys.modules["odd"]
