"""The conformance suite passes what is sound, and names line and remedy of what is not.

A broken idea is a file with one fault, its line marked `# here`; the check that must fail is asked, and all it needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import windtunnel.ideas as gallery
from windtunnel.cli import main
from windtunnel.cli.shared import load_anew, load_module
from windtunnel.conformance import SUITE, Finding, Mark, Report, Subject, ideas_of, report
from windtunnel.conformance.cost import _counted
from windtunnel.conformance.reading import runs_spent
from windtunnel.conformance.subject import bench
from windtunnel.errors import InputError
from windtunnel.launch.here import Here
from windtunnel.parts import optimizers
from windtunnel.recipe import Recipe, tuned
from windtunnel.store import Store
from windtunnel.train import checkpoint
from windtunnel.tune import Tuning

NUMBER = count()

SOUND = '''
"""Steps along the running mean of gradients."""
import random
from dataclasses import dataclass, field, replace
import torch
from torch import Tensor, zeros_like
from windtunnel import tuned
from windtunnel.parts.optimizers import AdamW, SGD

@dataclass(frozen=True)
class Mine:
    lr: float = tuned(1e-3, 1e1)
    beta: float = 0.9
    geometry = "gradient"

    def init(self, param, site):
        return {"mean": zeros_like(param), "steps": param.new_zeros(())}

    def update(self, grad, state, param, hp, site):
        mean = hp["beta"] * state["mean"] + (1 - hp["beta"]) * grad
        return -10 * hp["lr"] * mean, {"mean": mean, "steps": state["steps"] + 1}

def idea(base):
    """Momentum needs no more than this."""
    return base.but(optimizer=Mine())
'''
MEAN = '        mean = hp["beta"] * state["mean"] + (1 - hp["beta"]) * grad\n'
RETURN = '        return -10 * hp["lr"] * mean, {"mean": mean, "steps": state["steps"] + 1}\n'
INIT = '        return {"mean": zeros_like(param), "steps": param.new_zeros(())}\n'
BUT = "    return base.but(optimizer=Mine())\n"

WITH_DATA = """    return base.but(data=Other(base.data))

@dataclass(frozen=True)
class Other:
    inner: object
    repeat: bool = True
    def shape(self): return self.inner.shape()
    def fingerprint(self): return "other"
    def batch(self, *, seed, step, size):  # here
        return {}
    def held_out(self, **how): return self.inner.held_out(**how)
"""


def before(line: str) -> tuple[str, str]:
    """Put a line before the running mean."""
    return MEAN, f"        {line}\n{MEAN}"


def also(*lines: str) -> tuple[str, str]:
    """Give the optimizer more methods."""
    return "    def init(", "".join(f"    {line}\n" for line in lines) + "    def init("


# name: (check that fails, a piece of what is found, a piece of the remedy, what is replaced by what)
BROKEN: dict[str, tuple[str, str, str, tuple[str, str]]] = {
    "no docstring": (
        "loads", "no docstring", "base.but(", ('    """Momentum needs no more than this."""\n', ""),
    ),
    "returns nothing": ("loads", "NoneType", "underscore", (BUT, "    base.but(optimizer=Mine())\n")),
    "raises": ("loads", "ZeroDivisionError", "Mend", (BUT, "    1 / 0  # here\n" + BUT)),
    "sets a frozen field": ("loads", "frozen", "replace", (BUT, "    base.optimizer.lr = 1.0  # here\n" + BUT)),
    "changes the base": (
        "loads", "changed the base", "frozen", (BUT, '    object.__setattr__(base.optimizer, "lr", 1.0)\n' + BUT),
    ),
    "unknown slot": ("loads", "no slot optimiser", "Mend", (BUT, "    return base.but(optimiser=Mine())  # here\n")),
    "lambda": (
        "self-contained", "<lambda>", "top level",
        (BUT, "    schedule = lambda tokens, horizon: 1.0  # here\n    return base.but(schedule=schedule)\n"),
    ),
    "closure": (
        "self-contained", "defined inside a function", "top level",
        (BUT, "    def flat(t, h): return 1.0  # here\n    return base.but(schedule=flat)\n"),
    ),
    "not frozen": (
        "self-contained", "can change", "frozen=True",
        ("@dataclass(frozen=True)\nclass Mine:", "@dataclass\nclass Mine:  # here"),
    ),
    "not a dataclass": (
        "self-contained", "cannot be part of a run's key", "frozen dataclass",
        ("@dataclass(frozen=True)\nclass Mine:", "class Mine:  # here"),
    ),
    "tuned inside a nested part": (
        "tuned fields", "optimizer.inner.lr", "hand it on",
        ("class Mine:", "class Mine:  # here\n    inner: SGD = SGD()"),
    ),
    "no lr": ("tuned fields", "no learning rate", "lr: float", ("    lr: float = tuned(1e-3, 1e1)\n", "")),
    "no geometry": ("contract", "does not say how its updates", 'geometry = "', ('    geometry = "gradient"\n', "")),
    "unknown geometry": ("contract", "'adam'", "entrywise", ('geometry = "gradient"', 'geometry = "adam"')),
    "in-place state": (
        "contract", 'state["mean"] in place', "new tensors",
        (MEAN, '        mean = state["mean"].mul_(hp["beta"]).add_(grad)  # here\n'),
    ),
    "in-place parameter": ("contract", "param in place", "new tensors", before("param.mul_(0.9)  # here")),
    "in-place gradient by index": ("contract", "grad in place", "new tensors", before("grad[0] = 0.0  # here")),
    "in-place past the version counter": ("contract", "grad in place", "new tensors", before("grad.data.mul_(0.5)")),
    "wrong step shape": (
        "contract", "float64 (); the embedding parameter is float32 (256, 16)", "zeros_like",
        (RETURN, '        return -hp["lr"] * mean.mean(), state  # here\n'),
    ),
    "wrong step type": (
        "contract", "float64 (256, 16)", "zeros_like",
        (RETURN, '        return -hp["lr"] * mean.double(), state  # here\n'),
    ),
    "totals with axes": (
        "contract", "no dict of numbers without axes", "grad.square().sum()",
        also("def totals(self, grad, state, param, hp, site):", "    return {'square': grad.square()}  # here"),
    ),
    "looks ahead in another shape": (
        "contract", "look_ahead of the embedding tensor", "shape and type of the parameter",
        also("def look_ahead(self, grad, state, param, hp, site):", "    return grad.sum()  # here"),
    ),
    "looks ahead and does not say so": (
        "costs", "2.00 times the base's FLOPs a token, 1.00 declared", "cost = 2.0",
        also("def look_ahead(self, grad, state, param, hp, site):", "    return 1e-3 * grad"),
    ),
    "numbers of some": (
        "contract", "does not give each tensor its own", "the same numbers for every tensor",
        also("def numbers(self, tensors, seed, stretch):  # here", "    return {}"),
    ),
    "judged by another shape": (
        "contract", "readout of the embedding tensor", "takes the place of the parameter",
        also("def readout(self, param, state, site):", "    return param.sum()  # here"),
    ),
    "a further method misspelt": (
        "contract", "never calls read_out; it calls readout", "Call it readout",
        also("def read_out(self, param, state, site):  # here", "    return param"),
    ),
    "needs what there is not": (
        "contract", "Wishful.needs names 'tomorrow'", "only what there is",
        (BUT, "    return base.but(optimizer=Mine(), objective=Wishful())\n\n\n@dataclass(frozen=True)\n"
         "class Wishful:  # here\n    needs = ('tomorrow',)\n\n    def __call__(self, outputs, targets, told):\n"
         "        raise NotImplementedError\n"),
    ),
    "step alone": ("contract", "returned a", "two things", (RETURN, '        return -hp["lr"] * mean  # here\n')),
    "state forgets": (
        "contract", "{mean: float32 (256, 16)}", "same names",
        (RETURN, '        return -hp["lr"] * mean, {"mean": mean}  # here\n'),
    ),
    "state turns float64": (
        "contract", "steps: float64 ()", ".to(",
        (RETURN, '        return -hp["lr"] * mean, {"mean": mean, "steps": state["steps"] + hp["beta"]}  # here\n'),
    ),
    "state holds a number": (
        "contract", "'steps' is float", "new_zeros",
        (INIT, '        return {"mean": zeros_like(param), "steps": 0.0}  # here\n'),
    ),
    "lerp": (
        "packs", "lerp with a float64", "a * x + (1 - a) * y",
        (MEAN, '        mean = grad.lerp(state["mean"], hp["beta"])  # here\n'),
    ),
    "branches on a hyperparameter": (
        "packs", "branches on a tensor's value", "torch.where", before('if hp["lr"] > 0.1: grad = grad / 2  # here'),
    ),
    "branches on a tensor": (
        "packs", "branches on a tensor's value", "torch.where", before("if grad.abs().max() > 1: grad = -grad  # here"),
    ),
    "reads a number out": (
        "packs", "into a Python number", "self.rounds", before('grad = grad * float(hp["beta"])  # here'),
    ),
    "global generator": (
        "packs", "random numbers from the global generator", "counter",
        before("grad = grad + 1e-3 * torch.randn_like(grad)  # here"),
    ),
    "looks at its batching": (
        "pack equals alone", "packed and alone differ", "Keep such values",
        before("grad = grad * (1.5 if torch._C._functorch.is_batchedtensor(grad) else 1.0)"),
    ),
    "not a number": ("finite", "not finite", "eps", before("grad = grad / (grad - grad)")),
    "stops its pack": (
        "finite", "the whole pack stops", "nan_to_num", before('torch.linalg.svdvals(hp["lr"] ** 2 * grad)  # here'),
    ),
    "Python's generator": (
        "repeatable", "two different runs", "function of its spec", before("grad = grad * random.random()  # here"),
    ),
    "wrong sign": ("learns", "does not learn", "against the gradient", (RETURN, RETURN.replace("-10", "10"))),
    "wrong geometry": (
        "width-stable", "grow with width", '"entrywise"',
        (BUT, "    return base.but(optimizer=Wrong())\n\n"
              "@dataclass(frozen=True)\nclass Wrong(AdamW):  # here\n    geometry = 'gradient'\n"),
    ),
    "moves that vanish": (
        "width-stable", "moves of activations in training shrink with width", '"gradient"',
        (BUT, "    return base.but(optimizer=Wrong())\n\n"
              "@dataclass(frozen=True)\nclass Wrong(SGD):  # here\n    geometry = 'entrywise'\n"),
    ),
    "a rate that does nothing": (
        "learns", "lr changes nothing: 5 values", 'hp["lr"]', (RETURN, RETURN.replace('hp["lr"]', "0.3")),
    ),
    "an objective that is small from the start": (
        "learns", "does not learn", "against the gradient",
        (BUT, "    return base.but(optimizer=Mine(lr=tuned(1e-9, 1e-8)), objective=Tenth())\n\n"
              "@dataclass(frozen=True)\nclass Tenth:\n"
              "    def __call__(self, outputs, targets):\n"
              "        return 0.1 * torch.nn.functional.cross_entropy(outputs.mT, targets, reduction='none')\n"),
    ),
    "a tensor whose role no shape tells": (
        "contract", 'roles={"*.attention.gamma": "gain"}', "the roles above",
        (BUT, "    return base.but(transforms=(Gated(),))\n\n"
              "class Scaled(torch.nn.Module):\n"
              "    def __init__(self, inner, width):\n"
              "        super().__init__()\n"
              "        self.inner, self.gamma = inner, torch.nn.Parameter(torch.ones(width))\n"
              "    def forward(self, *given): return self.gamma * self.inner(*given)\n\n"
              "@dataclass(frozen=True)\nclass Gated:  # here\n"
              "    def __call__(self, model):\n"
              "        for block in model.blocks:\n"
              "            block.attention = Scaled(block.attention, model.embedding.weight.shape[1])\n"
              "        return model\n"),
    ),
    "attention that nobody declared": (
        "costs", "1.00 declared", "size(size, rung, data)",
        (BUT, "    return base.but(transforms=(Again(),))\n\n"
              "class Attends(torch.nn.Module):\n"
              "    def __init__(self, inner): super().__init__(); self.inner = inner\n"
              "    def forward(self, x):\n"
              "        y = self.inner(x)[:, None]\n"
              "        for _ in range(3):\n"
              "            y = torch.nn.functional.scaled_dot_product_attention(y, y, y, is_causal=True)\n"
              "        return y[:, 0]\n\n"
              "@dataclass(frozen=True)\nclass Again:  # here\n"
              "    def __call__(self, model):\n"
              "        model.embedding = Attends(model.embedding)\n"
              "        return model\n"),
    ),
    "sees the next token": (
        "causal", "those before it change", "causal mask",
        (BUT, "    return base.but(transforms=(Future(),))\n\n"
              "class Leaky(torch.nn.Module):\n"
              "    def __init__(self, inner):\n        super().__init__()\n        self.inner = inner\n\n"
              "    def forward(self, x):\n"
              "        return self.inner(x) + torch.nn.functional.one_hot(x.roll(-1, -1), 256)\n\n"
              "@dataclass(frozen=True)\nclass Future:  # here\n"
              "    def __call__(self, model): return Leaky(model)\n"),
    ),
    "drawn when the file is run": (
        "repeatable", "once the file has been run anew", "top level",
        ("    beta: float = 0.9\n", "    beta: float = 0.8 + 0.1 * random.random()  # here\n"),
    ),
    "a batch that is no whole number": (
        "contract", "gives 2.5 examples", "whole number",
        (BUT, "    return base.but(batch=two_and_a_half)\n\ndef two_and_a_half(rung, data): return 2.5  # here\n"),
    ),
    "an example too few": (
        "contract", "asked for 2 examples", "as many examples as asked",
        (BUT, WITH_DATA.format("tuple(each[:-1] for each in self.inner.batch(seed=seed, step=step, size=size))")),
    ),
    "FLOPs that are right at one width": (
        "costs", "(width 32)", "Laws and verdicts are at equal FLOPs",
        (BUT, "    return base.but(model=Cheaper(base.model))\n\n"
              "@dataclass(frozen=True)\nclass Cheaper:  # here\n    inner: object\n"
              "    def build(self, rung, data): return self.inner.build(rung, data)\n"
              "    def size(self, rung, data):\n        size = self.inner.size(rung, data)\n"
              "        return replace(size, flops_per_token=size.flops_per_token * (16 / rung.width))\n"),
    ),
    "trains on the judge's text, cut elsewhere": (
        "judge untouched", "among those by which every run is judged", "training side",
        (BUT, WITH_DATA.format("cut(next(iter(self.inner.held_out(size=512, tokens=1 << 14))), seed, step, size)")
              + "\ndef cut(held, seed, step, size):\n"
              "    rows = [(37 * (seed + 5 * step) + i) % len(held[0]) for i in range(size)]\n"
              "    x, y = held[0][rows], held[1][rows]\n"
              "    return y, torch.tensor(y).roll(-1, 1).numpy()\n"),
    ),
    "counts in a global": (
        "saves", "resumed from its checkpoint", "the state that update returns",
        (MEAN, '        COUNT[0] += site.role == "readout"\n' + MEAN + "        mean = mean / (1 + COUNT[0] / 100)\n"),
    ),
    "trains on the judge's examples": (
        "judge untouched", "among those by which every run is judged", "training side",
        (BUT, "    return base.but(data=Cheat(base.data))\n\n"
              "@dataclass(frozen=True)\nclass Cheat:\n    inner: object\n    repeat: bool = True\n"
              "    def shape(self): return self.inner.shape()\n"
              "    def fingerprint(self): return 'cheat'\n"
              "    def batch(self, *, seed, step, size):  # here\n"
              "        held = list(self.inner.held_out(size=size, tokens=1 << 13))\n"
              "        return held[(seed + step) % (len(held) - 1)]\n"
              "    def held_out(self, **how): return self.inner.held_out(**how)\n"),
    ),
}  # fmt: skip


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[ModuleType, Path, Any]]:
    """Write a file under a new name and load it as the command would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def loaded(text: str) -> tuple[ModuleType, Path, Any]:
        file = tmp_path / f"written_{next(NUMBER)}.py"
        file.write_text(text.lstrip("\n"))
        return load_module(str(file)), file, partial(load_anew, str(file))

    return loaded


def until(subject: Subject, check: str) -> Report:
    """The report of a check and of all that it needs."""
    by_name, wanted = {c.name: c for c in SUITE}, [check]
    for name in wanted:
        wanted += [need for need in by_name[name].needs if need not in wanted]
    return report(subject, [c for c in SUITE if c.name in wanted])


def optimizer_ideas() -> list[Callable[[Recipe], Recipe]]:
    """Every stock optimizer as an idea."""

    def idea_of(part: type) -> Callable[[Recipe], Recipe]:
        def idea(base: Recipe) -> Recipe:
            """A stock optimizer."""
            return base.but(optimizer=part())

        idea.__name__ = part.__name__
        return idea

    return [idea_of(getattr(optimizers, name)) for name in optimizers.__all__]


def complaints(found: Report) -> str:
    return "\n".join(f"{f.check}: {f.found} ({f.place}) {f.remedy}" for f in found.failed)


@pytest.mark.parametrize("idea", optimizer_ideas(), ids=lambda idea: idea.__name__)
def test_every_stock_optimizer_passes_as_an_idea(idea):
    found = report(Subject(idea, Path(__file__), bench()))
    assert found.passed, complaints(found)
    assert all(f.mark is not Mark.SKIPPED for f in found.findings)


# Ideas whose learning rate does not carry over widths under the base's rule; their docstrings say so.
NOT_TRANSFERABLE = ("weight_standardization",)


@pytest.mark.parametrize("name", gallery.__all__)
def test_every_idea_of_the_gallery_passes_or_says_that_it_does_not_transfer(name):
    idea = getattr(gallery, name)
    found = report(Subject(idea, Path(idea.__code__.co_filename), bench()))
    if name in NOT_TRANSFERABLE:
        assert [failure.check for failure in found.failed] == ["width-stable"]
        assert "width-stable" in (sys.modules[idea.__module__].__doc__ or "")
    else:
        assert found.passed, complaints(found)


def test_a_sound_file_passes_every_check_that_its_broken_kin_fail(load):
    found = report(*ideas_of(*load(SOUND)))
    assert found.passed, complaints(found)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_named_with_its_line_and_remedy(load, fault):
    check, piece, remedy, (old, new) = BROKEN[fault]
    assert old in SOUND
    text = SOUND.replace(old, new).lstrip("\n")
    if fault == "counts in a global":
        text = text.replace(INIT, "        COUNT[0] = 0\n" + INIT) + "\nCOUNT = [0]\n"
    if fault == "not a dataclass":
        text = text.replace("lr: float = tuned(1e-3, 1e1)", "lr = 0.1")
    finding = first_failure(until(*ideas_of(*load(text)), check), check)
    assert piece in finding.found and remedy in finding.remedy
    marked = [i for i, line in enumerate(text.splitlines(), 1) if line.endswith("# here")]
    assert finding.place is not None
    if marked:
        assert [finding.place.line] == marked


def first_failure(found: Report, check: str) -> Finding:
    """The first failure of a report, which must be of this check and nothing else."""
    assert [f.check for f in found.failed] == [check], complaints(found)
    return found.failed[0]


def test_an_objective_is_not_judged_by_its_own_number(load):
    tenfold = (
        "    return base.but(objective=Shifted())\n\n@dataclass(frozen=True)\nclass Shifted:\n"
        "    def __call__(self, outputs, targets):\n"
        "        return 10.0 + torch.nn.functional.cross_entropy(outputs.mT, targets, reduction='none')\n"
    )
    found = until(*ideas_of(*load(SOUND.replace(BUT, tenfold))), "learns")
    assert found.passed, complaints(found)


def test_other_data_of_the_same_width_rule_stay_width_stable(load):
    """At the largest rate that learns one of these was at slope -0.5: scatter, which a study would never meet."""
    longer = "    import windtunnel as wt\n    return base.but(data=wt.data.stdlib(context={}))\n"
    for context in (36, 48):
        found = until(*ideas_of(*load(SOUND.replace(BUT, longer.format(context)))), "width-stable")
        assert found.passed, complaints(found)


def test_a_number_drawn_in_a_neighbour_file_is_found_and_what_was_loaded_stays(load, tmp_path):
    (tmp_path / "drawn_beside.py").write_text("import random\nBETA = 0.8 + 0.1 * random.random()\n")
    text = SOUND.replace("    beta: float = 0.9\n", "    beta: float = drawn_beside.BETA\n").replace(
        "import random\n", "import drawn_beside\n"
    )
    found = until(*ideas_of(*load(text)), "repeatable")
    beside = sys.modules.pop("drawn_beside")
    assert "once the file has been run anew" in found.failed[0].found
    (name,) = (name for name in sys.modules if name == f"written_{int(str(NUMBER)[6:-1]) - 1}")
    assert sys.modules[name].drawn_beside is beside


def test_an_idea_that_a_function_made_is_run_anew_under_the_name_it_is_called_by(load):
    """Two closures of one name; the one of the other number trained something else."""
    made = (
        'def with_beta(beta: float):\n    def made(base):\n        """A claim."""\n'
        "        return base.but(optimizer=Mine(beta=beta))\n    return made\n\n"
        "made = with_beta(0.9)\nother = with_beta(0.5)\n"
    )
    text = SOUND[: SOUND.index("def idea(base)")] + made
    subjects = ideas_of(*load(text))
    assert [each.called for each in subjects] == ["made", "other"]
    for subject in subjects:
        found = until(subject, "repeatable")
        assert found.passed, complaints(found)


def test_data_that_ignore_the_seed_are_noted(load):
    text = SOUND.replace(BUT, WITH_DATA.format("self.inner.batch(seed=0, step=step, size=size)"))
    found = until(*ideas_of(*load(text)), "repeatable")
    (noted,) = (finding for finding in found.findings if finding.mark is Mark.NOTED)
    assert found.passed and "the data plan gives both the same examples" in noted.found


def test_a_curriculum_is_not_taken_for_a_leak(load):
    """Easy text first: rows of blanks recur in all text."""
    easy = (
        "tuple(each[_easiest(both[0])[:size]] for both in [self.inner.batch(seed=seed, step=step, size=4 * size)] "
        "for each in both)"
    )
    helper = "\ndef _easiest(x):\n    return sorted(range(len(x)), key=lambda i: len(set(x[i])))\n"
    found = report(*ideas_of(*load(SOUND.replace(BUT, WITH_DATA.format(easy) + helper))))
    assert found.passed, complaints(found)


def test_an_idea_for_images_is_checked_on_images_and_says_so(load):
    flipped = "(lambda x, y: (x[:, :, :, ::-1].copy(), y))(*self.inner.batch(seed=seed, step=step, size=size))"
    text = SOUND.replace(BUT, WITH_DATA.format(flipped))
    found = until(*ideas_of(*load(text)), "learns")
    assert found.passed, complaints(found)
    first = found.findings[0]
    assert first.mark is Mark.NOTED and "runs on images and not on text (IndexError" in first.found


def test_an_idea_that_breaks_text_is_not_taken_for_one_for_images(load):
    """A mask whose number is one beyond the vocabulary; digits would bear it."""
    masked = "(lambda x, y: (x * 0 + self.shape().classes, y))(*self.inner.batch(seed=seed, step=step, size=size))"
    found = until(*ideas_of(*load(SOUND.replace(BUT, WITH_DATA.format(masked)))), "trains")
    assert not found.passed and "IndexError" in found.failed[0].found
    assert found.findings[0].mark is Mark.NOTED and "one step is possible on images" in found.findings[0].found


def test_an_idea_for_data_that_no_bench_has_is_not_told_that_its_line_is_wrong(load):
    text = SOUND.replace(
        BUT, WITH_DATA.format("self.inner.batch(seed=seed, step=step, size=size)[0][:, :, :, :, ::-1]")
    )
    found = until(*ideas_of(*load(text)), "trains")
    assert not found.passed and "no check here has them: have its study tried" in found.failed[0].remedy


def test_an_idea_that_cannot_be_packed_is_still_checked_alone(load):
    text = SOUND.replace(*before('if hp["lr"] > 1e9: grad = grad / 2'))
    found = report(*ideas_of(*load(text)), SUITE[:8])
    assert [f.check for f in found.failed] == ["packs"]
    assert [f.check for f in found.findings if f.mark is Mark.SKIPPED] == ["pack equals alone"]
    assert "times the time of packs of 8" in found.failed[0].remedy


def test_a_state_may_name_one_tensor_twice_and_is_still_saved(tmp_path):
    twice = torch.arange(6.0).view(2, 3)
    checkpoint.save(tmp_path, 1, {"a": twice, "b": twice, "turned": twice.mT}, {"members": []})
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert all(torch.equal(found[1][name], t) for name, t in {"a": twice, "b": twice, "turned": twice.mT}.items())


@pytest.mark.parametrize("width", [16, 32, 64])
def test_what_is_counted_of_the_base_is_what_it_declares(width):
    """Attention too, which torch counts on a GPU and not on a CPU."""
    subject = Subject(lambda base: base, Path(__file__), bench())
    counted, declared = _counted(subject, subject.base, width)
    assert counted == pytest.approx(declared, rel=1e-12)


@pytest.mark.slow
def test_a_file_that_passes_trains_in_worker_processes(load, tmp_path):
    """Two fresh interpreters: buys that self-contained means what it says."""
    (subject,) = ideas_of(*load(SOUND))
    assert until(subject, "self-contained").passed
    packs = [subject.pack([member], steps=2) for member in subject.members[:2]]
    store = Store(tmp_path / "store")
    Here(devices=2)(packs, store)
    assert [store.get(pack.specs[0].key).message for pack in packs] == ["", ""]


def test_a_file_without_an_idea_is_shown_the_three_lines(load):
    helper = (
        "import torch\ndef norm(x: torch.Tensor): return x\ndef _hidden(base): return base\ndef two(a, b): return a\n"
    )
    with pytest.raises(InputError, match=r"(?s)def my_idea\(base\):.*return base\.but"):
        ideas_of(*load(helper))


def test_every_idea_of_a_file_is_checked(load):
    more = '\n\ndef second(base: "Recipe", beta=0.5):\n    """Another."""\n    return base\n'
    assert [s.name for s in ideas_of(*load(SOUND + more))] == ["idea", "second"]


@pytest.mark.parametrize(
    "text,said",
    [
        ("def idea(base:\n", "line 1"),
        ("\n\nx = 1 / 0\n", "line 3"),
        ("from windtunnel import tuned\n\ntuned(2, 1)\n", "line 3"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_bad_input_with_its_line(tmp_path, capsys, text, said):
    file = tmp_path / f"written_{next(NUMBER)}.py"
    file.write_text(text)
    assert main(["check", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_the_command_prints_a_line_a_check_and_details_only_of_failures(load, capsys):
    _, file, _ = load(SOUND.replace(INIT, '        return {"mean": 0.0}  # here\n'))
    assert main(["check", str(file)]) == 2
    whole = capsys.readouterr().out.splitlines()
    lines = whole[next(i for i, line in enumerate(whole) if line.startswith("idea")) :]  # the machine comes before
    assert [line[:4] for line in lines[1:5]] == ["pass", "pass", "pass", "FAIL"]
    assert lines[5].strip().startswith(f"{file}:16")
    assert lines[-1].startswith("idea fails 1 of 16 checks: contract")
    assert all(line.isprintable() for line in lines)


def test_json_holds_what_the_lines_say(load, capsys):
    _, file, _ = load(SOUND.replace('    geometry = "gradient"\n', ""))
    assert main(["check", str(file), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is False
    failed = [c for c in said["ideas"][0]["checks"] if c["mark"] == "failed"]
    assert [c["check"] for c in failed] == ["contract"]
    assert failed[0]["place"]["line"] == 10


def test_tuning_is_charged_as_a_study_would_spend_it():
    tuning = Tuning()
    fine_new = 5 * tuning.seeds - 3  # three of the five fine values were already tried with the first seed
    assert runs_spent(tuned(1e-3, 1e0)) == tuning.points + fine_new + 2 * tuning.recheck * tuning.seeds


@pytest.mark.parametrize("high,said", [("1e1", False), ("0.1", True)])
def test_a_width_that_is_read_at_the_end_of_the_range_says_so(load, high, said):
    text = SOUND.replace("tuned(1e-3, 1e1)", f"tuned(1e-3, {high})")
    report = until(*ideas_of(*load(text)), "width-stable")
    (found,) = (finding.found for finding in report.findings if finding.check == "width-stable")
    assert ", at lr=" in found and ("the end of its range" in found) == said
