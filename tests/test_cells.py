"""Parts that no file holds, and parts of a script: what they mean, here and in the processes they are sent to."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
from test_meaning import DIFFERENT, MODULE, SAME

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch.sent import pickled
from windtunnel.meaning import describe, meaning, source_of
from windtunnel.parts.data.altered import Subset
from windtunnel.parts.models import Own

PART = "def part(x):\n    return RATE * x\n"


@pytest.fixture
def kernel(monkeypatch):
    """Run a cell as a notebook does: in a `__main__` without a file, or with the one given."""

    def run(*cells: str, file: str | None = None) -> types.ModuleType:
        main = types.ModuleType("__main__")
        if file is not None:
            main.__file__ = file
        monkeypatch.setitem(sys.modules, "__main__", main)
        for cell in cells:
            exec(compile(cell, "<ipython-input-1>", "exec", dont_inherit=True), vars(main))
        return main

    return run


@pytest.mark.parametrize("what", [what for what in SAME if what != "an import that is not used"])
def test_rewording_a_cell_keeps_the_meaning(kernel, what):
    assert meaning(kernel(MODULE).Part) == meaning(kernel(SAME[what]).Part)


@pytest.mark.parametrize("what", [what for what in DIFFERENT if what != "a decorator"])
def test_a_change_of_substance_in_a_cell_changes_the_meaning(kernel, what):
    assert meaning(kernel(MODULE).Part) != meaning(kernel(DIFFERENT[what]).Part)


def test_a_constant_changed_by_another_cell_changes_the_meaning_of_the_same_function(kernel):
    main = kernel("RATE = 0.5", PART)
    before = meaning(main.part)
    exec("RATE = 0.25", vars(main))
    assert meaning(main.part) != before
    exec("RATE = 0.5", vars(main))
    assert meaning(main.part) == before


@pytest.mark.parametrize(
    "cell",
    [
        "class Parent:\n    rate = {}\nclass part(Parent):\n    pass\n",
        "def part(x):\n    return other(x)\ndef other(x):\n    return part(x - {}) if x else 0\n",
        "class part:\n    @property\n    def p(self):\n        return {}\n",
        "class part:\n    @staticmethod\n    def s(x):\n        return {}\n",
        "import numpy as np\nTABLE = np.array([1, {}])\ndef part(x):\n    return [TABLE * y for y in x]\n",
        "def part(x, by={}):\n    return lambda y: y * by\n",
        "import functools\n@functools.cache\ndef of(x):\n    return {}\ndef part(x):\n    return of(x)\n",
    ],
)
def test_what_a_cell_leans_on_is_followed(kernel, cell):
    one, two = (meaning(kernel(cell.format(number)).part) for number in (1, 2))
    assert one != two and one == meaning(kernel(cell.format(1)).part)


FUNCTION = "def scaled(x):\n    return {} * x\n"
CONSTANTS = (
    "from dataclasses import dataclass\n@dataclass\nclass Kind:\n    rate: int\nTABLE = {{1: ({},)}}\nKEPT = Kind({})\n"
)
MADE = (
    "def maker(by):\n    def made(x):\n        return x * by\n    return made\nact = maker({})\n"
    "other = lambda x: x * {}\n"
)
CACHED = "import functools\n@functools.cache\ndef scaled(x):\n    return {}\nact = functools.partial(scaled, {})\n"


@pytest.mark.parametrize(
    ("helper", "cell"),
    [
        (FUNCTION, "import leant\ndef part(x):\n    return leant.scaled(x)\n"),
        (FUNCTION, "from leant import scaled\ndef part(x):\n    return scaled(x)\n"),
        (FUNCTION, "from leant import scaled\npart = scaled\n"),
        (FUNCTION, "def part(x):\n    from leant import scaled\n    return scaled(x)\n"),
        (FUNCTION, "def part(x):\n    import leant as aside\n    return aside.scaled(x)\n"),
        (FUNCTION, "import leant\nHELD = [leant]\ndef part(x):\n    return HELD[0].scaled(x)\n"),
        (CONSTANTS, "import leant\ndef part(x):\n    return leant.TABLE[1][0] * x\n"),
        (CONSTANTS, "import leant\ndef part(x):\n    return leant.KEPT.rate * x\n"),
        (CONSTANTS, "from leant import KEPT\ndef part(x):\n    return KEPT.rate * x\n"),
        (MADE, "from leant import act\ndef part(x):\n    return act(x)\n"),
        (MADE, "from leant import other\ndef part(x):\n    return other(x)\n"),
        (CACHED, "import leant\ndef part(x):\n    return leant.scaled(x)\n"),
        (CACHED, "import leant\ndef part(x):\n    return leant.act(x)\n"),
        ("import random\nrng = random.Random({})\n", "import leant\ndef part(x):\n    return leant.rng.random()\n"),
    ],
)
def test_what_a_cell_takes_from_a_file_is_followed(kernel, tmp_path, monkeypatch, helper, cell):
    """The same module name each time, as when a helper is edited between two sessions."""
    found = []
    for folder, rate in (("one", 1), ("two", 2), ("three", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "leant.py").write_text(helper.format(rate, rate))
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        monkeypatch.delitem(sys.modules, "leant", raising=False)
        main = kernel(cell)
        found.append(meaning(main.part))
    monkeypatch.delitem(sys.modules, "leant", raising=False)
    assert found[0] != found[1] and found[0] == found[2]


def test_what_a_closure_of_a_package_imports_from_its_sibling_is_followed(kernel, tmp_path, monkeypatch):
    found = []
    for folder, rate in (("one", 1), ("two", 2)):
        package = tmp_path / folder / "leant_on"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "made.py").write_text(
            "def maker():\n    def made(x):\n        from .aside import scaled\n        return scaled(x)\n"
            "    return made\n"
        )
        (package / "aside.py").write_text(FUNCTION.format(rate))
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        for name in ("leant_on", "leant_on.made", "leant_on.aside"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        found.append(
            meaning(kernel("from leant_on.made import maker\nheld = maker()\ndef part(x): return held(x)").part)
        )
    for name in ("leant_on", "leant_on.made", "leant_on.aside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert found[0] != found[1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile imports it
@pytest.mark.parametrize(
    "cell",
    [
        "class part:\n    def __new__(cls):\n        m = object.__new__(cls)\n        m.r = {}\n        return m",
        "from functools import partial\nclass part:\n    __call__ = partial(lambda x: x * {})\n",
        "class Meta(type):\n    def go(cls):\n        return {}\nclass part(metaclass=Meta):\n    pass\n",
        "look = {{8: {}}}.get\ndef part(x):\n    return look(x)\n",
        "shown = '{{}}{}'.format\ndef part(x):\n    return shown(x)\n",
        "from collections import defaultdict\nT = defaultdict(lambda: {})\ndef part(x):\n    return T[x]\n",
        "import re\nR = re.compile('a' * 250 + '{}')\ndef part(x):\n    return R.match(x)\n",
        "from typing import NamedTuple\nclass C(NamedTuple):\n    r: float\n    def f(self):\n        return {}\n"
        "c = C(1.0)\ndef part(x):\n    return c.f()\n",
        "class F(float):\n    def f(self):\n        return self * {}\nc = F(1.0)\ndef part(x):\n    return c.f()\n",
        "class F(dict):\n    def f(self):\n        return {}\nc = F(a=1)\ndef part(x):\n    return c.f()\n",
        "from collections import deque\ndef f(x):\n    return {}\nD = deque([f])\ndef part(x):\n    return D\n",
        "def part(x, *, flag=0):\n    class Inner:\n        r = {}\n    return Inner.r\n",
        "class Held:\n    __slots__ = ('r',)\nh = Held()\nh.r = {}\ndef part(x):\n    return h.r\n",
        "class Helper:\n    def f(self, x):\n        return {}\npart = Helper().f\n",
        "import collections\nC = collections.namedtuple('C', 'a b', defaults=({},))\ndef part(x):\n    return C(1)\n",
        "import enum\nclass E(enum.Enum):\n    A = {}\ndef part(x):\n    return E.A.value * x\n",
        "import enum\nclass E(enum.Flag):\n    A = 1\n    def f(self):\n        return {}\n"
        "def part(x):\n    return E.A.f()\n",
        "import types\nc = types.SimpleNamespace(r={})\ndef part(x):\n    return c.r\n",
        "import argparse\nc = argparse.Namespace(r={})\ndef part(x):\n    return c.r\n",
        "import torch\n@torch.no_grad()\ndef f(x):\n    return x * {}\ndef part(x):\n    return f(x)\n",
        "import torch\n@torch.compile\ndef f(x):\n    return x * {}\ndef part(x):\n    return f(x)\n",
        "import torch\nT = torch.tensor([1, {}], dtype=torch.bfloat16)\ndef part(x):\n    return T * x\n",
        "import torch\nT = torch.empty(2, {}, device='meta')\ndef part(x):\n    return T\n",
        "import array\nT = array.array('d', [{}])\ndef part(x):\n    return T\n",
        "T = memoryview(bytes([{}]))\ndef part(x):\n    return T\n",
        "import functools\n@functools.singledispatch\ndef f(x):\n    return x * {}\ndef part(x):\n    return f(x)\n",
        "import functools\nclass part:\n    def f(self, a): return a\n    g = functools.partialmethod(f, {})\n",
        "import logging\nlog = logging.getLogger('a{}')\ndef part(x):\n    log.info('seen')\n",
        "import numpy as np\nf = (np.tanh, np.sinh)[{} - 1]\ndef part(x):\n    return f(x)\n",
    ],
)
def test_values_are_told_whole_and_alike_in_every_process(kernel, cell, tmp_path):
    one, two = (meaning(kernel(cell.format(number)).part) for number in (1, 2))
    assert one != two
    assert meaning_in_another_process(cell.format(1), tmp_path) == one


def meaning_in_another_process(cell: str, folder: Path) -> str:
    command = f"from windtunnel.meaning import meaning\n{cell}\nprint(meaning(part))"
    ended = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


@pytest.mark.parametrize(
    "cell",
    [
        "def a(x): return 1\ndef b(x): return 2\ndef c(x): return S\nS = {a, b, c}\ndef part(x): return S\n",
        "S = {frozenset('azq'), frozenset('mnb')}\ndef part(x): return x in S or x in {'u', 'v', 'w'}\n",
    ],
)
def test_the_order_of_a_set_is_no_part_of_a_key(cell, tmp_path):
    assert len({meaning_in_another_process(cell, tmp_path) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "import numpy as np\nrng = np.random.default_rng(0)\n",
            "helper -> rng is a random generator .numpy's Generator.*from a seed",
        ),
        (
            "import numpy as np\nrng = np.random.RandomState(0)\n",
            "helper -> rng is a random generator .numpy's RandomState",
        ),
        ("import threading\nrng = [threading.Lock()]\n", "helper -> rng is a lock of _thread"),
        ("rng = (i for i in range(3))\n", "helper -> rng is a generator of builtins"),
        ("import numpy as np\nrng = np.frompyfunc(lambda x: x, 1, 1)\n", "helper -> rng is a ufunc of numpy"),
        (
            "class Bad:\n    @property\n    def __wrapped__(self): raise OSError(2)\nrng = lambda: globals()\n",
            "rng calls globals",
        ),
        ("rng = []\nfor _ in range(3000): rng = [rng]\n", "helper -> rng cannot be read .RecursionError"),
    ],
)
def test_a_value_that_cannot_be_told_is_refused_with_the_way_to_it(kernel, cell, said):
    main = kernel(f"{cell}def helper(x):\n    return rng\ndef part(x):\n    return helper(x)\n")
    with pytest.raises(InputError, match=rf"^part -> .*{said}.*put the part into a file"):
        meaning(main.part)


def test_a_docstring_inside_a_cells_function_is_no_part_of_its_key(kernel):
    text = "def part(x):\n    def inner(y):\n        {}\n        return None if y else 2\n    return inner(x)\n"
    found = [meaning(kernel(text.format(said)).part) for said in ("", "'said'", "'otherwise'")]
    assert len(set(found)) == 1
    text = "def part(x):\n    class Inner:\n        {}\n        rate = 2\n    return Inner.rate\n"
    assert len({meaning(kernel(text.format(said)).part) for said in ("'said'", "'otherwise'")}) == 1


def test_a_part_typed_after_a_script_was_run_is_not_taken_for_the_scripts(kernel, tmp_path):
    file = tmp_path / "script.py"
    file.write_text(f"RATE = 0.5\n{PART}")
    script = kernel("", file=str(file))
    exec(compile(file.read_text(), str(file), "exec"), vars(script))
    of_script = meaning(script.part)
    assert source_of(script.part) == ("__main__.py", file.read_text())
    assert meaning(kernel(f"RATE = 0.25\n{PART}", file=str(file)).part) != of_script
    assert source_of(kernel(f"RATE = 0.25\n{PART}", file=str(file)).part) is None
    other = kernel("RATE = 0.5\ndef another(x):\n    return RATE\n", file=str(file)).another
    assert meaning(other) != meaning(kernel("RATE = 0.25\ndef another(x):\n    return RATE\n", file=str(file)).another)


def test_a_value_whose_content_cannot_be_told_is_refused(kernel):
    main = kernel("import random\nGENERATOR = random.Random(0)\ndef part(x):\n    return GENERATOR.random() * x\n")
    with pytest.raises(InputError, match=r"GENERATOR is a random generator .* from a seed, or put the part into"):
        describe(main.part)


def test_a_module_that_is_imported_anew_is_read_anew_and_one_only_written_is_not(kernel, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / "leant_anew.py"
    helper.write_text(FUNCTION.format(1))
    importlib.invalidate_caches()
    main = kernel("import leant_anew\ndef part(x):\n    return leant_anew.scaled(x)\n")
    before = meaning(main.part), meaning(main.leant_anew.scaled)
    helper.write_text(FUNCTION.format(22))
    assert (meaning(main.part), meaning(main.leant_anew.scaled)) == before
    importlib.reload(main.leant_anew)
    after = meaning(main.part), meaning(main.leant_anew.scaled)
    monkeypatch.delitem(sys.modules, "leant_anew")
    assert after[0] != before[0] and after[1] != before[1]


def test_a_model_of_a_cell_is_counted_anew_when_a_global_that_it_reads_has_changed(kernel):
    main = kernel(
        "import torch\nTIMES = 1\n"
        "def net(rung, data):\n    wide = TIMES * rung.width\n    return torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.Linear(64, wide), torch.nn.Linear(wide, data.classes))\n"
    )
    rung, data = wt.Rung(width=8, depth=1, tokens=320), wt.data.digits().shape()
    before = Own(main.net).size(rung, data)
    main.TIMES = 4
    assert Own(main.net).size(rung, data).flops_per_token > 2 * before.flops_per_token


def test_examples_that_a_cells_rule_chooses_are_chosen_anew_when_it_has_changed(kernel):
    main = kernel("import numpy as np\nMOST = 10\ndef first(data):\n    return np.arange(MOST)\n")
    subset = Subset(wt.data.digits(), main.first)
    assert subset.examples() == 10
    main.MOST = 20
    assert subset.examples() == 20


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        ("MULT = int(sys.argv[1])", True),
        ("SHAPE = tuple(map(int, sys.argv[1:]))\nMULT = SHAPE", True),
        ("BASE = int(sys.argv[1])\nMULT = BASE * 2", True),
        ("for MULT in [int(sys.argv[1])]:\n    pass", True),
        ("args = argparse.Namespace(mult=int(sys.argv[1]), store=sys.argv[1])\nMULT = args.mult", True),
        ("MULT = 2\nother = int(sys.argv[1])", False),
        ("MULT = (1 + 2) * -3\nx = int(sys.argv[1])", False),
        ("class Kept:\n    pass\nMULT = Kept()\nMULT.path = sys.argv[1]", False),
    ],
)
def test_a_number_that_a_script_computes_from_its_arguments_is_part_of_a_key(kernel, tmp_path, lines, counts):
    assert (len(set(_of_script(kernel, tmp_path, f"{lines}\ndef part(x):\n    return MULT, x\n"))) == 2) == counts


@pytest.mark.parametrize(("read", "counts"), [("args.mult", True), ("args.store", False), ("vars(args)", True)])
def test_of_a_scripts_arguments_those_that_a_part_reads_are_part_of_its_key(kernel, tmp_path, read, counts):
    lines = "args = argparse.Namespace(mult=int(sys.argv[1]), store='same')\n"
    assert (len(set(_of_script(kernel, tmp_path, f"{lines}def part(x):\n    return {read}\n"))) == 2) == counts


def _of_script(kernel, folder: Path, text: str) -> list[str]:
    """What the part of a script means when it is started with 1, and with 2."""
    file, found = folder / "script.py", []
    file.write_text(f"import argparse, sys\n{text}")
    for number in ("1", "2"):
        script = kernel("", file=str(file))
        script.__dict__["sys"] = types.SimpleNamespace(argv=["script.py", number])
        exec(compile(file.read_text().replace(", sys", "", 1), str(file), "exec", dont_inherit=True), vars(script))
        found.append(meaning(script.part))
    return found


def test_a_key_of_a_script_whose_globals_are_literals_is_that_of_the_same_part_in_a_module(
    kernel, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "as_module.py").write_text("BASE = 2\nRATE = BASE * (1 - 0.5)\n" + PART)
    importlib.invalidate_caches()
    imported = meaning(importlib.import_module("as_module").part)
    monkeypatch.delitem(sys.modules, "as_module")
    file = tmp_path / "as_module.py"
    script = kernel("", file=str(file))
    exec(compile(file.read_text(), str(file), "exec", dont_inherit=True), vars(script))
    assert meaning(script.part) == imported


PLAN = """
import numpy as np
from dataclasses import dataclass
import windtunnel as wt
D = wt.data.digits()
ROWS = np.zeros((1000, 1000))
OPENED = (row for row in ROWS)
@dataclass(frozen=True)
class Mine:
    repeat = True
    def shape(self): return D.shape()
    def fingerprint(self): return "v1"
    def batch(self, *, seed, step, size): return ROWS, OPENED
    def held_out(self, *, size, tokens): return D.held_out(size=size, tokens=tokens)
"""


def test_a_data_plan_counts_by_its_fingerprint_whatever_it_leans_on(kernel):
    recipe = wt.recipes.mlp_mup_sgd(data=kernel(PLAN).Mine())
    assert recipe.describe()["data"] == {"is": "Mine", "fingerprint": "v1"}


FILLING = """
import torch
from windtunnel.launch.here import Here
from windtunnel.parts.models import Own
import windtunnel as wt
MEMO = {}
def hidden(width):
    return MEMO.setdefault(width, 2 * width)
def net(rung, data):
    h = hidden(rung.width)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, h), torch.nn.Linear(h, data.classes))
data = wt.data.digits()
study = wt.Study(name="s", base=wt.recipes.mlp_mup_sgd(data=data).but(model=Own(net)),
    ladder=wt.Ladder.widths((8, 12, 16), depth=1, tokens=320, seeds=1), tuning=wt.Tuning(points=3, seeds=1, recheck=0),
    target=wt.Target(rung=wt.Rung(width=48, depth=1, tokens=320)), judge=wt.Judge(data=data, tokens=128))
"""


def test_a_global_that_fills_while_it_is_used_is_named(kernel, tmp_path):
    main = kernel(FILLING)
    with pytest.raises(InputError, match=r"leans on, MEMO, changed while it was used.*functools\.cache"):
        main.study.run(wt.Store(tmp_path), launcher=main.Here(devices=1))


def leaning_on(helper, kernel):
    """A script beside a helper, run as `__main__`, whose part calls the helper's `scaled`."""
    file = helper.parent / "script.py"
    file.write_text(f"from {helper.stem} import scaled\ndef part(x):\n    return scaled(x)\n")
    importlib.invalidate_caches()
    script = kernel("", file=str(file))
    exec(compile(file.read_text(), str(file), "exec", dont_inherit=True), vars(script))
    return script


def test_an_unrelated_edit_of_a_helper_stops_no_worker(kernel, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / "leant_in_part.py"
    helper.write_text("def scaled(x):\n    return x\ndef unrelated(x):\n    return 1\n")
    script = leaning_on(helper, kernel)
    expected, sent = meaning(script.part), pickled(script.part)
    helper.write_text("def scaled(x):\n    return x\ndef unrelated(x):\n    return 22\n")
    assert elsewhere(sent, tmp_path)[0] == expected


ELSEWHERE = """
import pickle, sys
from windtunnel.meaning import meaning, source_of
part = pickle.loads(sys.stdin.buffer.read())
print(meaning(part), source_of(part) is not None)
"""


def elsewhere(sent: bytes, folder: object) -> list[str]:
    """What a part means in another process, and whether its source is known there."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{ELSEWHERE}"]
    return subprocess.run(command, input=sent, capture_output=True, check=True).stdout.decode().split()


def test_a_part_of_a_script_means_the_same_in_another_process_until_what_it_leans_on_changes(
    kernel, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / "leant_by_script.py"
    helper.write_text("def scaled(x):\n    return x\n")
    script = leaning_on(helper, kernel)
    expected = meaning(script.part)
    sent = pickled(script.part)
    assert elsewhere(sent, tmp_path) == [expected, "True"]
    helper.write_text("def scaled(x):\n    return 2 * x + 1\n")
    assert elsewhere(sent, tmp_path)[0] != expected


def test_a_cell_means_the_same_in_another_process(kernel, tmp_path):
    part = kernel(MODULE).Part
    sent = pickled(part)  # before its meaning was asked for, and so written on it
    assert elsewhere(sent, tmp_path) == [meaning(part), "False"]
    assert elsewhere(pickled(part), tmp_path) == [meaning(part), "False"]


def test_a_function_that_reads_torch_and_an_attribute_called_classes_can_be_sent(kernel):
    main = kernel("import torch\ndef part(rung, data):\n    return torch.nn.Linear(rung.width, data.classes)\n")
    assert pickle.loads(pickled(main.part)) is not None


def test_a_module_that_cannot_be_imported_by_its_name_is_refused_before_it_is_sent(kernel):
    main = kernel("import torch\naten = torch.ops.aten\ndef part(x):\n    return aten.mm(x, x)\n")
    with pytest.raises(InputError, match=r"torch\.ops\.aten is no module that can be imported"):
        pickled(main.part)


def test_what_cannot_be_sent_is_refused_in_words(kernel):
    main = kernel("import threading\nLOCK = threading.Lock()\ndef part(x):\n    return LOCK\n")
    with pytest.raises(InputError, match=r"cannot be sent to another process \(cannot pickle '_thread.lock' object\)"):
        pickled(main.part)


SCRIPT = """
from dataclasses import dataclass
import torch
import windtunnel as wt
from windtunnel.launch.here import Here
from windtunnel.parts.models import Own
@dataclass(frozen=True)
class Plain:
    lr: float = wt.tuned(1e-3, 1.)
    geometry = "gradient"
    def init(self, param, site): return {}
    def update(self, grad, state, param, hp, site): return -hp["lr"]*grad, {}
def net(rung, data):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, rung.width), torch.nn.ReLU(),
                               torch.nn.Linear(rung.width, data.classes))
data = wt.data.digits()
study = wt.Study(name="s", base=wt.recipes.mlp_mup_sgd(data=data).but(model=Own(net), optimizer=Plain()),
    ladder=wt.Ladder.widths((8, 12, 16), depth=1, tokens=320, seeds=1), tuning=wt.Tuning(points=3, seeds=1, recheck=0),
    target=wt.Target(rung=wt.Rung(width=48, depth=1, tokens=320)), judge=wt.Judge(data=data, tokens=128))
store = wt.Store("store")
study.run(store, launcher=Here(devices=2))
print(study.plan(store))
print("kept", *{tuple(sorted(run.source)) for run in store.runs()})
"""


@pytest.mark.parametrize("how", ["a script", "python -"])
def test_a_study_of_parts_in_main_is_trained_by_workers(how, tmp_path):
    """Worth its seconds: the default number of workers is the number of cores, and a script is what people write."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = {"a script": ["script.py"], "python -": ["-"]}[how]
    ended = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, input=SCRIPT, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "nothing is left to train" in ended.stdout
    assert ("'__main__.py'" in ended.stdout) == (how == "a script")
