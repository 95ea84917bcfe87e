"""The kernels for a GPU, run through Triton's interpreter on the CPU: the numbers are torch's."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_divided import walked

from windtunnel.parts.learned import native, network
from windtunnel.parts.learned.features import Features, first_moments, layout_of
from windtunnel.parts.learned.network import moved
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import bundled


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """Each case's largest relative difference; in a process of its own, for triton reads the variable once."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed; torch's CUDA wheels bring it, and pip install triton does for a CPU")
    told = os.environ | {"TRITON_INTERPRET": "1", "WINDTUNNEL_NO_NATIVE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("triton_interpreted.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=told, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_kernels_steps_are_torchs(interpreted: dict[str, Any]) -> None:
    print(interpreted["apart"])
    assert {name: apart for name, apart in interpreted["apart"].items() if not apart <= 1e-5} == {}


def test_the_kernels_move_parts_of_a_tensor_as_the_whole(interpreted: dict[str, Any]) -> None:
    assert interpreted["in parts"] and {n: a for n, a in interpreted["in parts"].items() if not a <= 1e-5} == {}


def test_it_was_the_kernels_that_were_asked(interpreted: dict[str, Any]) -> None:
    assert interpreted["calls"] == len(interpreted["apart"]) >= 10


def test_a_part_of_a_tensor_is_moved_by_kernels_that_agree_and_by_torch_where_they_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels made up for this, beside two processes' parts of a matrix: the same numbers by whoever makes them."""
    asked = []

    def made_up(error: float) -> Any:
        def step(*given: Any) -> Any:
            return network._as_written(*given) * (1 + error)

        def by(name: str) -> Any:
            return lambda *given: asked.append(name) or getattr(network, name)(*given)

        told = {"step": step, "dense_sums": by("dense_sums"), "moved_by": by("moved_by")}
        return SimpleNamespace(suits=lambda values, hidden: values.numel() > 0, **told)

    for error, said in ((1e-7, 3 * 2), (0.1, 0)):
        monkeypatch.setattr(network, "_TRUSTED", {})
        monkeypatch.setattr(network, "_on_gpu", lambda values, error=error: made_up(error))
        monkeypatch.setattr(native, "suits", lambda values, hidden: False)
        asked.clear()
        with pytest.warns(UserWarning, match="differ from torch") if error > 1e-3 else nullcontext():
            whole, pieces, _, _ = walked(SmallFC(weights=bundled("mulo-digits")), (3, 8), 0, 4, torch.float32, steps=1)
        torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-5, atol=1e-6)
        assert len(asked) == said  # a part each of three processes; the fourth has none


def test_kernels_that_fail_or_differ_are_left_alone_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels made up for this: one that raises, one that is wrong, one that is right."""
    grad = torch.randn(1, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    layout, decays = layout_of((4, 5)), torch.full((1, 7), 0.9)
    shapes = {"w0": (1, 39, 8), "b0": (1, 8), "w1": (1, 8, 8), "b1": (1, 8), "w2": (1, 8, 2), "b2": (1, 2)}
    net = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in shapes.items()}
    given = (net, Features(), 0.001, grad, grad, first_moments(grad, layout), decays, layout, torch.zeros(1))
    monkeypatch.setattr(native, "suits", lambda values, hidden: False)
    true, _ = moved(*given)

    class Kernels:
        def __init__(self, step: Any) -> None:
            self.step = step

        def suits(self, values: Any, hidden: int) -> bool:
            return True

    def failing(*_: Any) -> Any:
        raise RuntimeError("no such instruction")

    def right(*given: Any) -> Any:
        return network._as_written(*given) * (1 + 1e-6)

    for step, said in ((failing, "no such instruction"), (lambda *g: right(*g) + 1, "differ from torch"), (right, "")):
        monkeypatch.setattr(network, "_TRUSTED", {})
        monkeypatch.setattr(network, "_on_gpu", lambda values, step=step: Kernels(step))
        if said:
            with pytest.warns(UserWarning, match=said):
                assert torch.equal(moved(*given)[0], true)
            assert torch.equal(moved(*given)[0], true)  # and not again
        else:
            moved(*given)
            assert not torch.equal(moved(*given)[0], true)  # trusted from the second on
