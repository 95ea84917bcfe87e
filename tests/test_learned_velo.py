"""VeLO as a part: 20 steps of three tensors in float64, in the engine, in a loop of one's own; what parts are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import learned_reference as reference
import numpy as np
import pytest
import tiny
import torch
from test_learned import recipe_of
from torch import Tensor, nn

import windtunnel as wt
from benchmarks.common import runs_of
from windtunnel.bridge.optimizer import TorchOptimizer
from windtunnel.errors import InputError
from windtunnel.parts.learned import native
from windtunnel.parts.learned.features import Features
from windtunnel.parts.learned.velo import VeLO
from windtunnel.parts.learned.weights import Card, Weights
from windtunnel.parts.optimizers import AdamW
from windtunnel.parts.schedules import Cosine
from windtunnel.recipe import Judge, Site
from windtunnel.scaling.adopt import adopt
from windtunnel.scaling.rules.mup import MuP
from windtunnel.scaling.rules.standard import Standard

FEATURES = Features(clipped=True, times=())
DECAYS = {"momentum": (0.9, 0.99, 0.999), "rms": (0.999,), "factored": (0.9, 0.99, 0.999)}
ROOM = 1e-5  # relative: what the issue asks of float32
STEPS = 20


def weights_of(units: int = 6, members: int = 8, hidden: int = 4, **card: Any) -> Weights:
    """Random ones, with a rate large enough that the steps matter."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "bank.w0": (members, 30, hidden), "bank.b0": (members, hidden), "bank.w1": (members, hidden, hidden),
        "bank.b1": (members, hidden), "bank.w2": (members, hidden, 3), "bank.b2": (members, 3),
        "mix.w": (30, units), "mix.b": (units,), "into.w": (30, units), "into.b": (units,),
        "lstm.w": (2 * units, 4 * units), "lstm.b": (4 * units,), "controls.w": (units, members),
        "controls.b": (members,), "rate.w": (units, 1), "rate.b": (1,), "start.hidden": (1, units),
        "start.cell": (1, units),
    }  # fmt: skip
    tensors = {n: torch.tensor(rng.normal(size=s) / s[-2 if len(s) > 1 else -1] ** 0.5) for n, s in shapes.items()}
    tensors |= {n: t * 0.1 for n, t in tensors.items() if n.startswith("controls")}  # a network's weights are near 1
    made = Card(
        rule="velo", features=FEATURES, step_size=0.001, magnitude=0.001, decays=DECAYS, horizon=200_000,
        parametrization={"rule": "standard"}, **card,
    )  # fmt: skip
    return Weights.of(made, tensors)


def three(width: int) -> nn.Module:
    """Tensors of rank three, one and two."""
    return nn.Sequential(nn.Conv1d(3, width, 2), nn.Flatten(), nn.Linear(width, 4, bias=False))


def bridged(part: Any, width: int = 6, **said: Any) -> tuple[nn.Module, TorchOptimizer]:
    torch.manual_seed(1)
    model = three(width)
    scales = adopt(three, base=4, target=width, optimizer=part, rule=Standard())
    return model, TorchOptimizer(part, model, scales, pretrained=True, **said)


def drawn(model: nn.Module, steps: int, size: float = 1e-2) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(p.shape, generator=generator) * size for p in model.parameters()] for _ in range(steps)]


def fallen(steps: int) -> list[float]:
    """Losses that fall, with noise and one leap."""
    noise = np.random.default_rng(3).normal(size=steps) * 0.1
    return [float(3 * 0.95**t + noise[t] + 40 * (t == 9)) for t in range(steps)]


def alone(
    part: Any, params: list[Tensor], grads: list[list[Tensor]], losses: list[float], horizon: int, decays: list[float]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """(steps, weights after them), by the part's own functions, one tensor at a time."""
    sites = [Site(role="fixed", shape=tuple(p.shape), fan_in=1, fan_out=1) for p in params]
    states = [part.init(p, site) for p, site in zip(params, sites, strict=True)]
    for row, loss in zip(grads, losses, strict=True):
        told = {"lr": part.lr, "loss": loss, "horizon": float(horizon)}
        hps = [
            {n: torch.tensor(v, dtype=torch.float64) for n, v in (told | {"weight_decay": d}).items()} for d in decays
        ]
        each = list(zip(row, states, params, hps, sites, strict=True))
        largest = torch.stack([part.maxima(*one)["largest"] for one in each]).amax(0).double()
        moved = [part.update(g, s, p, hp | {"largest": largest}, site) for g, s, p, hp, site in each]
        steps, states = [m[0] for m in moved], [m[1] for m in moved]
        params = [p + step for p, step in zip(params, steps, strict=True)]
        yield steps, params


def in_float64(
    part: VeLO, params: list[Tensor], grads: list[list[Tensor]], losses: list[float], horizon: int
) -> Iterator[list[np.ndarray]]:
    """The reference's steps, from its own weights."""
    theta = {name: value.double().numpy() for name, value in part.weights.tensors.items()}
    decays = {name: np.array(values, dtype=np.float32).astype(float) for name, values in DECAYS.items()}
    held = [p.double().numpy() for p in params]
    states, kept = [reference.velo_first(p.shape, theta) for p in held], reference.velo_losses()
    for row, loss in zip(grads, losses, strict=True):
        given = [g.double().numpy() for g in row]
        steps, states, kept = reference.velo(theta, decays, held, given, states, kept, loss, horizon)
        held = [p - step for p, step in zip(held, steps, strict=True)]
        yield [-step for step in steps]


@pytest.fixture(params=["kernel", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(native, "suits", lambda values, hidden: False)
    elif native.available():
        pytest.skip(f"no kernel: {native.available()}")
    return request.param


@pytest.mark.parametrize("size", [1e-2, 3e3])  # the larger ones meet the bound of a thousand
def test_20_steps_of_three_tensors_are_those_of_the_specification_in_float64(size: float, engine: str) -> None:
    """Beside the largest of a tensor's 20 steps: the rate is a sum that crosses zero, where nothing is left of it."""
    part, model = VeLO(weights=weights_of()), bridged(VeLO(weights=weights_of()), horizon=30)[0]
    params, grads, losses = [p.detach() for p in model.parameters()], drawn(model, STEPS, size), fallen(STEPS)
    ours = [steps for steps, _ in alone(part, params, grads, losses, 30, [0.0, 0.0, 0.0])]
    theirs = list(in_float64(part, params, grads, losses, 30))
    for tensor in range(len(params)):
        apart = [np.abs(a[tensor].double().numpy() - b[tensor]).max() for a, b in zip(ours, theirs, strict=True)]
        largest = max(np.abs(steps[tensor]).max() for steps in theirs)
        print(f"{engine}, gradients {size:g}, tensor {tensor}: {max(apart) / largest:.1e} apart")
        assert max(apart) <= ROOM * largest


def test_in_a_loop_of_ones_own_it_takes_the_steps_of_the_part() -> None:
    part = VeLO(weights=weights_of(), weight_decay=0.1)
    model, optimizer = bridged(part, horizon=30)
    params, grads, losses = [p.detach().clone() for p in model.parameters()], drawn(model, 4), fallen(4)
    decays = [0.1 if p.ndim > 1 else 0.0 for p in params]
    for row, loss, (_, wanted) in zip(grads, losses, alone(part, params, grads, losses, 30, decays), strict=True):
        for p, grad in zip(model.parameters(), row, strict=True):
            p.grad = grad
        if loss == losses[1]:
            optimizer.step(lambda loss=loss: loss)  # a closure's value is the loss too
        else:
            optimizer.step(loss=torch.tensor(loss, requires_grad=True))
        for p, now in zip(model.parameters(), wanted, strict=True):
            assert torch.allclose(p, now, rtol=0, atol=1e-7)


def test_a_frozen_tensor_and_one_without_gradient_are_not_heard() -> None:
    part = VeLO(weights=weights_of())
    model, optimizer = bridged(part, horizon=30)
    left, _, used = model.parameters()
    used.grad = drawn(model, 1)[0][2]
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(loss=1.0)
    ((wanted,),) = [now for _, now in alone(part, [before[2]], [[used.grad]], [1.0], 30, [0.0])]
    assert torch.allclose(used, wanted, rtol=0, atol=1e-7)
    assert torch.equal(left, before[0]) and not optimizer.state[left]


def test_what_it_must_be_told_is_asked_for_in_a_sentence() -> None:
    part = VeLO(weights=weights_of())
    with pytest.raises(InputError, match="give its steps"):
        bridged(part)
    with pytest.raises(InputError, match="at least 1"):
        bridged(part, horizon=0)
    model, optimizer = bridged(part, horizon=30)
    for p, grad in zip(model.parameters(), drawn(model, 1)[0], strict=True):
        p.grad = grad
    for call in (lambda: optimizer.step(), lambda: optimizer.step(lambda: None), lambda: optimizer.step(loss="1")):
        with pytest.raises(InputError, match="needs the loss of every step"):
            call()
    with pytest.raises(InputError, match="belong to another part"):
        VeLO(weights=Weights.of(replace(weights_of().card, rule="celo2"), weights_of().tensors))
    with pytest.raises(InputError, match="trained under Standard"):
        part.suits(MuP())


def test_a_loop_that_stops_goes_on_from_its_state_as_if_it_had_not() -> None:
    part, losses = VeLO(weights=weights_of()), fallen(6)

    def walk(optimizer: TorchOptimizer, model: nn.Module, steps: range) -> None:
        for step in steps:
            for p, grad in zip(model.parameters(), grads[step], strict=True):
                p.grad = grad
            optimizer.step(loss=losses[step])

    model, optimizer = bridged(part, horizon=30)
    grads = drawn(model, 6)
    walk(optimizer, model, range(6))
    stopped, first = bridged(part, horizon=30)
    walk(first, stopped, range(3))
    resumed, second = bridged(part, horizon=30)
    resumed.load_state_dict(stopped.state_dict())
    second.load_state_dict(first.state_dict())
    walk(second, resumed, range(3, 6))
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_of_the_published_size_come_back_from_their_file(tmp_path: Path) -> None:
    weights = weights_of(units=512, members=256)
    count = sum(t.numel() for t in weights.tensors.values())
    assert 2.2e6 < count < 2.4e6  # "about 2.32M"; the third mixing layer, which nothing reads, has 15,872
    assert Weights.load(weights.save(tmp_path / "w.safetensors")) == weights
    with pytest.raises(InputError, match="shapes of its card"):
        Weights.of(weights.card, dict(weights.tensors) | {"mix.w": torch.zeros(29, 512)})
    with pytest.raises(InputError, match="has the tensors"):
        Weights.of(weights.card, {n: t for n, t in weights.tensors.items() if n != "rate.b"})


# in the engine


def ran(folder: Path, part: Any, asked: list[tuple[float, int]], steps: int = 10) -> list[Any]:
    made = recipe_of(part, Standard())
    made = made.but(schedule=Cosine()) if isinstance(part, Hearing) else made
    rung = wt.Rung(width=8, depth=2, heads=1, tokens=16 * steps, batch=16)
    judge = Judge(data=made.data, tokens=64, evaluations=1)
    said: Any = {"base": rung.but(width=16), "study": "t", "stored": False}
    return runs_of(str(folder), made, rung, judge, asked, **said)


def test_a_pack_trains_and_is_that_of_runs_alone(tmp_path: Path) -> None:
    part = VeLO(weights=weights_of(), lr=wt.tuned(1.0, 1000.0))
    together = ran(tmp_path / "two", part, [(1000.0, 0), (100.0, 1)])
    alone = ran(tmp_path / "one", part, [(100.0, 1)])
    assert together[1].loss == pytest.approx(alone[0].loss, rel=1e-4)
    assert together[0].loss != together[1].loss


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Plain gradient descent that stops if it is told another loss, horizon or maximum than is true."""

    lr: float = wt.tuned(1e-3, 1.0)
    needs = ("loss", "horizon")
    geometry = "gradient"

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        return {"heard": param.new_zeros(3)}

    def maxima(
        self, grad: Tensor, state: Any, param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> dict[str, Tensor]:
        return {"largest": torch.stack([grad.abs().amax(), param.abs().amax()])}

    def update(
        self, grad: Tensor, state: Any, param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        heard = torch.stack([hp["loss"], hp["horizon"], hp["largest"][1]]).to(param.dtype)
        return -hp["lr"] * grad, {"heard": heard}


def test_a_part_is_told_each_members_own_loss_horizon_and_maximum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windtunnel.train import engine as engines

    seen: list[Any] = []
    before = engines.Engine.advance

    def advance(self: Any, state: Any) -> None:
        largest = [max(float(p[row].abs().max()) for p in state.params) for row in range(len(state.rows))]
        before(self, state)
        if not state.rows:  # the last step
            return
        losses = [state.train_loss[-1][row[0]] for row in state.rows]
        for group, tree in zip(self.groups, state.states, strict=True):
            heard = tree["heard"].unflatten(0, (-1, len(group.names)))
            seen.append((heard, losses, [self.steps_of[row[0]] for row in state.rows], largest))

    monkeypatch.setattr(engines.Engine, "advance", advance)
    ran(tmp_path, Hearing(), [(0.1, 0), (0.01, 1)], steps=4)
    assert len(seen) >= 8
    for heard, losses, horizons, largest in seen:
        for name in range(heard.shape[1]):
            assert heard[:, name, 0].tolist() == pytest.approx(losses, rel=1e-6)
            assert heard[:, name, 1].tolist() == horizons
            assert heard[:, name, 2].tolist() == pytest.approx(largest, rel=1e-6)


def test_what_no_part_is_told_is_refused_by_name() -> None:
    from windtunnel.train.extras import asked_of, told_to

    with pytest.raises(InputError, match="'weather', which an optimizer is not told"):
        told_to(type("Odd", (), {"needs": ("weather",)})())
    assert asked_of(recipe_of(VeLO(weights=weights_of()), Standard())) == [
        "the optimizer's maxima", "the optimizer's loss", "the optimizer's horizon",
    ]  # fmt: skip
    assert asked_of(recipe_of(AdamW(), Standard())) == []


def test_members_of_other_horizons_share_no_row_where_the_optimizer_follows_the_horizon(corpus: Any) -> None:
    rungs = [tiny.RUNG.but(tokens=tokens) for tokens in (640, 1280)]
    recipes = [tiny.recipe(corpus).but(optimizer=optimizer) for optimizer in (Hearing(), AdamW())]
    hearing, plain = ([tiny.pack(r, [{"lr": 0.01}], rung=rung).alike()[0] for rung in rungs] for r in recipes)
    assert hearing[0] != hearing[1] and plain[0] == plain[1]
