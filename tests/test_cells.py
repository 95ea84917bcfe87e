"""Parts that no file holds, and parts of a script: what they mean, here and in the processes they are sent to."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import types

import pytest
from test_meaning import DIFFERENT, MODULE, SAME

from windtunnel.errors import InputError
from windtunnel.launch.sent import pickled
from windtunnel.meaning import describe, in_cell, meaning, source_of

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
            exec(compile(cell, "<ipython-input-1>", "exec"), vars(main))
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


def test_a_changed_function_of_a_file_changes_the_meaning_of_a_cell(kernel, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for rate in (1, 2):
        (tmp_path / f"leant{rate}.py").write_text(f"def scaled(x):\n    return {rate} * x\n")
        for cell in ("import {0}\ndef part(x):\n    return {0}.scaled(x)\n", "from {0} import scaled\npart = scaled\n"):
            found.append(meaning(kernel(cell.format(f"leant{rate}")).part))
    assert len(set(found)) == 4
    assert not in_cell(kernel("from leant1 import scaled").scaled)


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
    with pytest.raises(InputError, match=r"outside any file, .* leans on a Random, .* Put the part into"):
        describe(main.part)


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
    helper, file = tmp_path / "leant_by_script.py", tmp_path / "script.py"
    helper.write_text("def scaled(x):\n    return x\n")
    file.write_text("from leant_by_script import scaled\ndef part(x):\n    return scaled(x)\n")
    importlib.invalidate_caches()
    script = kernel("", file=str(file))
    exec(compile(file.read_text(), str(file), "exec"), vars(script))
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
