"""Where the one PyTorch package of learned optimizers goes wrong (measured, 2026-11), ours does the right thing."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from windtunnel.bridge.optimizer import TorchOptimizer
from windtunnel.errors import InputError
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.small_fc import SmallFC
from windtunnel.parts.learned.weights import Card, Weights
from windtunnel.recipe import Site
from windtunnel.scaling.adopt import adopt

DECAYS = {"momentum": (0.9, 0.99, 0.999), "rms": (0.999,), "factored": (0.9, 0.99, 0.999)}
HP = {"lr": torch.tensor(1.0), "weight_decay": torch.tensor(0.0)}


def weights(seed: int = 0, hidden: int = 8, width: int | None = None) -> Weights:
    seen = Features(square_axes="oi")
    sizes = (seen.count, hidden, hidden, 2)
    generator = torch.Generator().manual_seed(seed)
    net = {f"w{i}": torch.randn(a, b, generator=generator) / a**0.5 for i, (a, b) in enumerate(pairwise(sizes))}
    net |= {f"b{i}": torch.randn(b, generator=generator) / 10 for i, b in enumerate(sizes[1:])}
    rule = {"rule": "standard"} if width is None else {"rule": "mup", "width": width}
    card = Card(
        rule="small_fc", features=seen, step_size=0.01, magnitude=0.001, decays=DECAYS, horizon=1000,
        parametrization=rule,
    )  # fmt: skip
    return Weights.of(card, net)


def build(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


def ready(part: Any, width: int = 8) -> tuple[nn.Sequential, TorchOptimizer]:
    torch.manual_seed(0)
    model = build(width)
    scales = adopt(build, base=16, target=width, optimizer=part)
    return model, TorchOptimizer(part, model, scales, pretrained=True)


def batches(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 12, generator=generator) for _ in range(count)]


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def values(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def gradient(param: torch.Tensor) -> torch.Tensor:
    assert param.grad is not None
    return param.grad.clone()


# making it


def test_it_is_made_offline_from_a_file(tmp_path, monkeypatch):
    path = weights().save(tmp_path / "weights.safetensors")

    def refuse(*given: Any, **named: Any) -> Any:
        raise AssertionError("the network was asked for")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    model, optimizer = ready(SmallFC(weights=Weights.load(path)))
    loss_of(model, batches(1)[0]).backward()
    optimizer.step()


# step()


def test_a_closure_is_called_and_its_loss_returned_and_the_steps_are_those_without_one():
    (one, with_closure), (other, without) = ready(SmallFC(weights=weights())), ready(SmallFC(weights=weights()))
    for x in batches():
        calls = []

        def closure(x: torch.Tensor = x, calls: list[int] = calls) -> torch.Tensor:
            calls.append(1)
            with_closure.zero_grad()
            loss = loss_of(one, x)
            loss.backward()
            return loss

        returned = with_closure.step(closure)
        without.zero_grad()
        loss = loss_of(other, x)
        loss.backward()
        assert without.step() is None  # no loss is asked for
        assert calls == [1] and torch.equal(returned, loss)
    assert all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


def test_frozen_tensors_and_those_without_a_gradient_stay_and_have_no_state():
    part = SmallFC(weights=weights())
    model, reference = build(8), build(8)
    reference.load_state_dict(model.state_dict())
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    last = model.get_parameter("4.bias")
    scales = adopt(build, base=16, target=8, optimizer=part)
    optimizer = TorchOptimizer(part, model, scales, pretrained=True)
    whole = TorchOptimizer(part, reference, scales, pretrained=True)
    before = values(model)
    for x in batches():
        for each, net in ((optimizer, model), (whole, reference)):
            each.zero_grad()
            loss_of(net, x).backward()
        last.grad = None
        for mine, full in zip(model.parameters(), reference.parameters(), strict=True):
            if mine.grad is not None:
                mine.grad = gradient(full)
        optimizer.step()
        whole.step()
    still = {id(model[0].weight), id(model[2].bias), id(last)}
    for param, old, full in zip(model.parameters(), before, reference.parameters(), strict=True):
        if id(param) in still:
            assert torch.equal(param, old) and not optimizer.state.get(param)
        else:
            assert torch.equal(param, full) and not torch.equal(param, old)


@pytest.mark.parametrize("shape", [(6, 5), (7,)])
def test_the_update_compiles_into_one_graph(shape):
    part = SmallFC(weights=weights())
    site = Site(role="hidden", shape=shape, fan_in=shape[-1], fan_out=shape[0])
    generator = torch.Generator().manual_seed(0)
    param, grad = (torch.randn(shape, generator=generator) for _ in range(2))

    def update(grad: torch.Tensor, state: Any, param: torch.Tensor) -> Any:
        return part.update(grad, state, param, HP, site)

    compiled = torch.compile(update, fullgraph=True, backend="aot_eager")
    eager, one = part.init(param, site), part.init(param, site)
    for _ in range(3):
        step, eager = update(grad, eager, param)
        other, one = compiled(grad, one, param)
        torch.testing.assert_close(other, step, rtol=1e-4, atol=1e-6)
    assert step.abs().max() > 0


# what is saved


def test_a_saved_state_says_which_weights_it_belongs_to_and_others_refuse_it():
    model, optimizer = ready(SmallFC(weights=weights()))
    loss_of(model, batches(1)[0]).backward()
    optimizer.step()
    saved = optimizer.state_dict()
    assert weights().hash in str(saved["param_groups"])
    same = ready(SmallFC(weights=weights()))[1]
    same.load_state_dict(saved)
    other = ready(SmallFC(weights=weights(seed=1)))[1]
    with pytest.raises(InputError, match=weights().hash):
        other.load_state_dict(saved)
    assert not other.state


# decay, clipping


@pytest.mark.parametrize("width", [16, 128])
def test_decay_shrinks_the_old_value_and_by_the_same_share_at_every_width(width):
    """With a network that says nothing, decay is all that is left."""
    silent = weights(width=16)
    silent = Weights.of(silent.card, dict(silent.tensors) | {"w2": torch.zeros(8, 2), "b2": torch.zeros(2)})
    model, optimizer = ready(SmallFC(weights=silent, weight_decay=0.25), width)
    before = [layer.weight.detach().clone() for layer in model if isinstance(layer, nn.Linear)]
    loss_of(model, batches(1)[0]).backward()
    optimizer.step()
    after = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, 0.75 * old)


def test_clipping_is_torchs_over_all_tensors_at_once_and_a_step_leaves_gradients_alone():
    (one, clipped), (other, scaled) = ready(SmallFC(weights=weights())), ready(SmallFC(weights=weights()))
    for model in (one, other):
        (100 * loss_of(model, batches(1)[0])).backward()
    whole = torch.nn.utils.clip_grad_norm_(one.parameters(), 0.1)
    assert whole > 0.1
    for param in other.parameters():
        param.grad = gradient(param) * (0.1 / (whole + 1e-6))
    held = [gradient(p) for p in one.parameters()]
    clipped.step()
    scaled.step()
    assert all(torch.equal(gradient(p), g) for p, g in zip(one.parameters(), held, strict=True))
    for a, b in zip(values(one), values(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# which way a matrix lies


@pytest.mark.parametrize(("shape", "matters"), [((6, 6), True), ((4, 6), False), ((6, 4), False)])
def test_a_square_matrix_is_seen_as_where_the_rule_was_trained_and_others_need_no_convention(shape, matters):
    grads = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]

    def last_step(axes: str, turned: bool) -> torch.Tensor:
        part = SmallFC(weights=replaced(axes))
        param = torch.ones(shape).T if turned else torch.ones(shape)
        site = Site(role="hidden", shape=tuple(param.shape), fan_in=param.shape[1], fan_out=param.shape[0])
        state, step = part.init(param, site), param
        for grad in grads:
            step, state = part.update(grad.T if turned else grad, state, param, HP, site)
        return step.T if turned else step

    def replaced(axes: str) -> Weights:
        known = weights()
        return Weights.of(replace(known.card, features=Features(square_axes=axes)), known.tensors)

    torch.testing.assert_close(last_step("io", False), last_step("oi", True), rtol=1e-4, atol=1e-6)
    apart = (last_step("io", False) - last_step("oi", False)).abs().max() / last_step("io", False).abs().max()
    assert (apart > 1e-3) == matters


# memory


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory is begun anew by Linux")
@pytest.mark.parametrize("without_kernel", ["", "1"])
def test_a_step_of_a_1024_by_1024_matrix_takes_less_than_64_mib_more(without_kernel, tmp_path):
    code = """
        import torch
        from benchmarks.learned_sides import forget_peak, peak, random_part
        from windtunnel.recipe import Site

        torch.set_num_threads(1)
        part, site = random_part("small_fc"), Site(role="hidden", shape=(1024, 1024), fan_in=1024, fan_out=1024)
        hp = {"lr": torch.tensor(1.0), "weight_decay": torch.tensor(0.0)}
        param, grad = torch.randn(1024, 1024), torch.randn(1024, 1024)
        state = part.init(param, site)
        small = site.__class__(role="hidden", shape=(8, 8), fan_in=8, fan_out=8)
        part.update(grad[:8, :8], part.init(param[:8, :8], small), param[:8, :8], hp, small)  # libraries loaded
        before = forget_peak()
        step, state = part.update(grad, state, param, hp, site)
        held = sum(v.numel() * v.element_size() for v in state.values())
        print(f"extra {(peak() - before) / 2**20:.1f} MiB, state {held / param.numel():.2f} bytes a parameter")
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"WINDTUNNEL_NO_NATIVE": "1"} if without_kernel else {})
    extra, state = math.inf, 0.0
    for _ in range(3):  # a busy system that takes pages of libraries and gives them back adds to what is counted
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        print(done.stdout)
        seen, state = map(float, re.findall(r"[\d.]+", done.stdout)[:2])
        extra = min(extra, seen)
        if extra < 64:
            break
    assert extra < 64
    assert state < 16.2  # four numbers of an entry, and the factored statistics
