"""A long pack's step is compiled: the same numbers to rounding, said in the record, never the cause of a failure."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tiny
import torch

from windtunnel.parts.optimizers import AdamW
from windtunnel.runs import Outcome
from windtunnel.train import compiled as compiling
from windtunnel.train import engine
from windtunnel.train.engine import Engine
from windtunnel.train.loop import train
from windtunnel.train.saving import Saving

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


def pack(corpus, *values):
    return tiny.pack(tiny.recipe(corpus, optimizer=AdamW(eps=1e-6)), [{"lr": v} for v in values])


@pytest.mark.slow
@needs_a_compiler
def test_a_compiled_pack_is_the_pack_as_written(corpus, tmp_path):
    """Half a minute, for the compiler: buys that what long packs run is what every other test tests."""
    whole = pack(corpus, 1e-3, 1e-2)
    faster, written = (train(whole, device=tiny.CPU, compile=c) for c in (True, False))
    for a, b in zip(faster, written, strict=True):
        assert a.cost.compiled_steps == tiny.STEPS and b.cost.compiled_steps == 0, a.cost.eager_because
        np.testing.assert_allclose(a.curve["train_loss"], b.curve["train_loss"], rtol=1e-6)
        np.testing.assert_allclose(a.curve["judged_loss"], b.curve["judged_loss"], rtol=1e-6)
    engine = Engine(whole, tiny.CPU, True, True)
    state = engine.start()
    for _ in range(5):
        engine.advance(state)
    Saving(tmp_path, [spec.key for spec in whole.specs]).now(state)
    # resumed by a process that would not compile by itself: what the rows were trained by goes on
    resumed = train(whole, device=tiny.CPU, folder=tmp_path)
    assert [tiny.numbers(r) for r in resumed] == [tiny.numbers(r) for r in faster]


def test_a_step_that_cannot_be_compiled_is_trained_as_written_with_the_reason(corpus, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no compiler here\nsecond line")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(compiling, "_in_two_files", refuse)
    whole = pack(corpus, 1e-2)
    (run,), (written,) = train(whole, device=tiny.CPU, compile=True), train(whole, device=tiny.CPU)
    assert run.outcome is Outcome.FINISHED and tiny.numbers(run) == tiny.numbers(written)
    assert "no compiler here" in run.cost.eager_because and "second line" not in run.cost.eager_because


def test_a_compiled_step_with_other_losses_is_not_used(corpus, monkeypatch):
    monkeypatch.setattr(compiling, "_graph", lambda step, *_: lambda *a: (a[0], a[1], step(*a)[2] * 1.001))
    (run,) = train(pack(corpus, 1e-2), device=tiny.CPU, compile=True)
    assert run.cost.compiled_steps == 0 and "other losses" in run.cost.eager_because


@pytest.mark.parametrize("wrong", [lambda before, after: before, lambda before, after: 2 * before - after])
def test_a_compiled_step_with_the_same_losses_and_another_update_is_not_used(corpus, monkeypatch, wrong):
    def other(step, *_):
        def run(*given):
            params, *rest = step(*given)
            return [wrong(before, after) for before, after in zip(given[0], params, strict=True)], *rest

        return run

    monkeypatch.setattr(compiling, "_graph", other)
    (run,) = train(pack(corpus, 1e-2), device=tiny.CPU, compile=True)
    assert run.cost.compiled_steps == 0 and "moved the weights elsewhere" in run.cost.eager_because


@pytest.mark.slow
@needs_a_compiler
def test_what_cannot_be_compiled_in_two_files_is_compiled_as_torch_does_it(corpus, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("an operation that is not known there")

    done, real = [], compiling._in_two_files
    monkeypatch.setattr(compiling, "_in_two_files", lambda *given: done.append(real(*given)) or done[-1])
    monkeypatch.setattr(compiling, "_JOINED", {})
    whole = pack(corpus, 1e-3, 1e-2)
    ours = train(whole, device=tiny.CPU, compile=True)
    assert len(done) == 1, "the way in two files has failed"
    monkeypatch.setattr(compiling, "_in_two_files", refuse)
    monkeypatch.setattr(compiling, "_JOINED", {})
    theirs = train(whole, device=tiny.CPU, compile=True)
    assert all(run.cost.compiled_steps == tiny.STEPS for run in (*ours, *theirs))
    assert [tiny.numbers(run) for run in ours] == [tiny.numbers(run) for run in theirs]


def test_a_process_compiles_a_graph_once_and_others_by_themselves(monkeypatch):
    made: list[str] = []

    def joined(recorded, tensors, graph, on_cpu):
        made.append(graph)
        return recorded

    monkeypatch.setattr(compiling, "_joined", joined)
    monkeypatch.setattr(compiling, "_look_ahead", lambda: None)
    monkeypatch.setattr(compiling, "_JOINED", {})
    x, y = torch.randn(3), torch.randn(3)

    def by(constant):
        return lambda given: {"x": given["x"] * constant - given["y"], "name": given["name"]}

    one, two = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 4.0])
    for constant, given, count in ((one, x, 1), (one, y, 1), (one, y.double(), 2), (two, y, 3), (two, y[:1], 4)):
        run = compiling._graph(by(constant), ({"x": given, "y": y[:1], "name": "kept"},), "float32")
        found = run({"y": y[:1], "name": "kept", "x": given})  # a dictionary in another order is the same one
        assert torch.equal(found["x"], given * constant - y[:1]) and found["name"] == "kept" and len(made) == count


@needs_a_compiler
def test_tensors_of_another_layout_shape_or_type_are_computed_right_and_nothing_is_compiled_anew(monkeypatch):
    """The compiler's code holds for one layout."""
    made: list[str] = []
    real = compiling._joined

    def joined(recorded, tensors, graph, on_cpu):
        made.append(graph)
        return real(recorded, tensors, graph, on_cpu)

    monkeypatch.setattr(compiling, "_joined", joined)
    monkeypatch.setattr(compiling, "_JOINED", {})

    def step(x, w):
        return [(x @ w).exp() * 0.5 + w.sum(0), w * 2]

    x, w = torch.randn(4, 4), torch.randn(4, 4)
    run = compiling._graph(step, (x, w), "float32")
    for _ in range(2):
        for other in (w, w.t(), w.double().float(), w[:, :2], w.t()):
            for found, expected in zip(run(x, other), step(x, other), strict=True):
                torch.testing.assert_close(found, expected)
    double = run(x.double(), w.double())
    assert double[0].dtype == torch.float64 and len(made) == 1


def test_a_dictionary_in_another_order_is_the_same_graph(monkeypatch):
    """A checkpoint gives an optimizer's states in any order."""
    monkeypatch.setattr(compiling, "_joined", lambda recorded, *_: recorded)
    monkeypatch.setattr(compiling, "_JOINED", {})
    states = {"m": torch.randn(3), "v": torch.randn(3)}
    for order in (("m", "v"), ("v", "m")):
        run = compiling._graph(
            lambda x, s: x * s["m"] - s["v"], (states["m"], {n: states[n] for n in order}), "float32"
        )
        assert torch.equal(run(states["m"], states), states["m"] ** 2 - states["v"])
    assert len(compiling._JOINED) == 1


def recorded(step, *arguments):
    """Names of the operations of a graph as it is given to the compiler, and what it computes."""
    graph, taken, rebuilt = compiling._recorded(step, arguments, "float32")
    return [str(node.target) for node in graph.graph.nodes], rebuilt(graph(*taken(arguments)))


@pytest.mark.parametrize("shape, dim", [((3, 5, 7), 2), ((3, 5, 7), -1), ((4, 6), 0)])
def test_adding_at_one_place_a_row_is_a_comparison_with_the_same_digits(shape, dim):
    one = [1 if d == dim % len(shape) else n for d, n in enumerate(shape)]
    values, added = torch.randn(shape), torch.randn(one)
    index = torch.randint(shape[dim], one)

    def add(values, index, added):
        return values.scatter_add(dim, index, added)

    names, found = recorded(add, values, index, added)
    assert "aten.where.self" in names or "aten.where.ScalarOther" in names, names
    assert not any("scatter" in name for name in names)
    assert torch.equal(found, add(values, index, added))


@pytest.mark.parametrize("places", [(3, 2), (2, 1)])  # two a row; fewer rows than there are
def test_other_additions_stay_as_they_are(places):
    values, added, index = torch.randn(3, 5), torch.randn(places), torch.randint(5, places)
    names, found = recorded(lambda v, i, a: v.scatter_add(1, i, a), values, index, added)
    assert any("scatter_add" in name for name in names)
    assert torch.equal(found, values.scatter_add(1, index, added))


def test_only_long_stretches_are_compiled(corpus, monkeypatch):
    whole = pack(corpus, 1e-3, 1e-2)
    work = 2 * tiny.STEPS * whole.tokens_per_step() * whole.size().total ** 0.5
    for bar, chosen in ((0.99 * work, True), (1.01 * work, False)):
        monkeypatch.setattr(engine, "PAYS_FROM", bar)
        assert Engine(whole, tiny.CPU, True).start().compiled is chosen
    monkeypatch.setattr(engine, "PAYS_FROM", 0.0)
    assert not Engine(whole, tiny.CPU, True, False).start().compiled, "who forbids it is heard"
    assert not Engine(whole, tiny.CPU, False, True).start().compiled, "what is trained alone is not recorded as a pack"


def test_what_is_computed_twice_is_computed_once():
    x = torch.randn(4, 4)
    names, found = recorded(lambda x: x.exp() @ x.exp(), x)
    assert names.count("aten.exp.default") == 1
    assert torch.equal(found, x.exp() @ x.exp())


def test_numbers_that_are_equal_and_not_the_same_stay_apart():
    x, i = torch.randn(3), torch.arange(3)

    def step(x, i):
        return i + 1, i + 1.0, x / (x * 0.0), x / (x * -0.0), torch.full((2,), 1), torch.full((2,), 1.0)

    for found, expected in zip(recorded(step, x, i)[1], step(x, i), strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_a_graph_that_writes_in_place_or_draws_numbers_stays_as_it_is():
    x = torch.randn(4, 4)

    def filled(x):
        one, other = torch.zeros_like(x), torch.zeros_like(x)
        one.add_(x)
        return one + other

    twice = {
        "aten.zeros_like.default": filled,
        "aten.rand_like.default": lambda x: torch.rand_like(x) - torch.rand_like(x),
    }
    for name, step in twice.items():
        assert recorded(step, x)[0].count(name) == 2
    assert torch.equal(recorded(filled, x)[1], x)


HOLDS = """
import sys
from windtunnel.train.compiled import _by_one
with _by_one("graph"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_processes_compile_one_graph_one_after_the_other_and_wait_for_no_other(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline() == b"held\n"
        entered: list[str] = []
        _enter("another graph", entered)
        with monkeypatch.context() as impatient:
            impatient.setattr(compiling, "WAITS", 0.2)
            _enter("graph", entered)  # a process that hangs is not waited for
        assert entered == ["another graph", "graph"]
        waits = threading.Thread(target=lambda: _enter("graph", entered))
        waits.start()
        time.sleep(0.5)
        assert entered == ["another graph", "graph"]
        other.stdin.close()
        waits.join(20)
    assert entered == ["another graph", "graph", "graph"] and other.returncode == 0


def _enter(graph, entered):
    with compiling._by_one(graph):
        entered.append(graph)


def test_a_machine_without_locks_compiles_all_the_same(monkeypatch):
    def refused(*asked):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(compiling.fcntl, "lockf", refused)
    entered: list[str] = []
    _enter("graph", entered)
    assert entered == ["graph"]
