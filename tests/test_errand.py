"""A pack sent to another machine: its parts are found there, and what it says is heard once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types

import pytest
import tiny

import windtunnel as wt
from windtunnel.launch.errand import Heard, errands, own_sources, perform

PARTS = '''
"""An optimizer that exists nowhere else."""
from dataclasses import dataclass

from windtunnel.parts.optimizers import AdamW


@dataclass(frozen=True)
class Travelling(AdamW):
    def update(self, grad, state, param, hp, site):
        step, state = AdamW.update(self, grad, state, param, hp, site)
        return 2 * step, state
'''
PERFORM = """
import pickle, sys
from windtunnel.launch.errand import perform
print(perform(pickle.load(open(sys.argv[1], "rb"))))
"""


@pytest.fixture
def sent(corpus, tmp_path, monkeypatch):
    """A pack whose optimizer is in a module of its own, as it is sent; the module's file; the store."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "travelling_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(folder))
    import travelling_parts  # type: ignore[import-not-found]

    store = wt.Store(tmp_path / "store")
    pack = tiny.pack(tiny.recipe(corpus, optimizer=travelling_parts.Travelling()), [{"lr": 0.01}])
    store.packs()
    yield errands([pack], store)[0], folder / "travelling_parts.py", store, pack
    del sys.modules["travelling_parts"]


@pytest.mark.parametrize("there", ["gone", "changed since"])
def test_a_part_travels_where_its_file_is_not_or_says_something_else(sent, tmp_path, there):
    errand, file, store, pack = sent
    alone = tiny.alone(pack, 0)
    (tmp_path / "errand").write_bytes(pickle.dumps(errand))
    file.unlink() if there == "gone" else file.write_text(PARTS.replace("2 *", "3 *"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PERFORM, str(tmp_path / "errand")],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    assert "'finished'" in done.stdout, done.stdout + done.stderr
    run = store.get(pack.specs[0].key)
    assert tiny.numbers(run) == tiny.numbers(alone)
    assert "return 2 * step" in run.source["travelling_parts.py"]
    assert not list(temporary.glob("windtunnel-sources-*"))


def test_another_engine_refuses_in_a_sentence(sent):
    errand, _, store, pack = sent
    answer = perform(errand | {"engine": 0})
    assert "install the same version on both" in answer["input error"]
    assert pack.specs[0].key not in store


def test_what_is_sent_holds_the_studys_modules_and_no_library(sent):
    names = set(sent[0]["sources"])
    assert {"travelling_parts", "tiny"} <= names
    assert not {name.split(".")[0] for name in names} & {"windtunnel", "torch", "numpy", "json", "pytest"}


def test_what_a_library_wrote_for_itself_is_not_sent(tmp_path, monkeypatch):
    written = types.ModuleType("torch._inductor.runtime.compile_tasks.cabc")
    written.__file__ = str(tmp_path / "cabc.py")
    (tmp_path / "cabc.py").write_text("x = 1\n")
    monkeypatch.setitem(sys.modules, written.__name__, written)
    assert written.__name__ not in own_sources()
    mine = types.ModuleType("my_own")
    mine.__file__ = written.__file__
    monkeypatch.setitem(sys.modules, "my_own", mine)
    assert own_sources()["my_own"][1] == "x = 1\n"


def test_each_step_and_each_sentence_is_passed_on_once_under_the_packs_own_key():
    heard, said = Heard(), []
    for progress in (
        {"pack": "part", "step": 1, "said": []},
        {"pack": "part", "step": 1, "said": []},
        {"pack": "part", "step": 2, "said": ["halved"]},
        {"pack": "other", "step": 1, "said": ["halved", "compiled"]},
        {"pack": "other", "step": 1, "said": ["after a death"]},
    ):
        said.append(heard.news("whole", progress))
    assert said[1] is None and heard.news("whole", None) is None
    assert {news["pack"] for news in said if news} == {"whole"}
    assert [news["said"] for news in said if news] == [[], ["halved"], ["compiled"], ["after a death"]]
