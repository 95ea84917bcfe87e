"""Rates and initial values in real code: one row a situation, judged by the ratios that a tool's own rule asks for.

"Right" and the other words are those of peers_failures.py. The ratios are those of a hidden matrix at four times the
base's width; unit-scaling's differ because its forward pass has the other half of the rule. A newcomer would ask for
mup's ratios everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import windtunnel as wt
from benchmarks.peers_failures import RIGHT, TARGET, Row, trained
from benchmarks.peers_models import BASE, GPT, Tool, our_ready

GROWTH = TARGET / BASE
# lr of a hidden matrix at TARGET over that at BASE
HIDDEN = {"plain": 1.0, "ours": 1 / GROWTH, "mup": 1 / GROWTH, "unit-scaling": GROWTH**-0.5}


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rate by tensor name."""
    by_tensor = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    return {name: by_tensor[id(p)] for name, p in model.named_parameters()}


def _factor(tool: Tool, tail: str, model: nn.Module, beside: Any, base: tuple[nn.Module, Any]) -> str:
    """Right if the lr of the tensors ending in `tail` has fallen as a hidden matrix's should."""
    here, there = (rates(m, tool.adamw(m, b, 1.0)) for m, b in ((model, beside), base))
    return _expected({here[n] / there[n] for n in here if n.endswith(tail)}, HIDDEN[tool.name])


def _expected(found: set[float], expected: float) -> str:
    off = [f for f in found if abs(f / expected - 1) > 1e-3]
    return RIGHT if not off else f"wrong: lr x {off[0]:.3g} at {GROWTH:.0f} times the width, {expected:.3g} is right"


def with_part(part: Callable[[Tool, int], nn.Module], tail: str) -> Callable[[Tool], str]:
    """A row in which the model has one more module, whose tensor is a hidden matrix."""

    def run(tool: Tool) -> str:
        build = partial(tool.build, part=partial(part, tool))
        model, beside = tool.ready(build, TARGET, 0)
        trained(tool, model, beside)
        return _factor(tool, tail, model, beside, tool.ready(build, BASE, 0))

    return run


def normed(tool: Tool) -> str:
    """Weight norm on the readout, there before the tool: its direction learns as the readout, at one rate (Table 8)."""

    def build(width: int) -> nn.Module:
        model = cast(GPT, tool.build(width))
        nn.utils.parametrizations.weight_norm(model.head)
        return model

    model, beside = tool.ready(build, TARGET, 0)
    trained(tool, model, beside)
    here, there = (rates(m, tool.adamw(m, b, 1.0)) for m, b in ((model, beside), tool.ready(build, BASE, 0)))
    return _expected({here[n] / there[n] for n in here if n.endswith("parametrizations.weight.original1")}, 1.0)


class Keys(nn.Module):
    """Keys of one head at every width, repeated to it."""

    def __init__(self, tool: Tool, width: int):
        super().__init__()
        self.key, self.times = tool.layers.linear(width, 16), width // 16

    def forward(self, x: Tensor) -> Tensor:
        return self.key(x).repeat(1, 1, self.times)


class Routed(nn.Module):
    """The stream, weighed by the first of four gates."""

    def __init__(self, tool: Tool, width: int):
        super().__init__()
        self.router = tool.layers.linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.router(x).softmax(-1)[..., :1]


class Experts(nn.Module):
    """Stacked experts (copies, in, out), averaged; `growing`: as many as width / 8, else four."""

    def __init__(self, tool: Tool, width: int, *, growing: bool):
        super().__init__()
        drawn = torch.randn(width // 8 if growing else 4, width, 4 * width)
        unit = tool.name == "unit-scaling"
        make = partial(import_module("unit_scaling").Parameter, mup_type="weight") if unit else nn.Parameter
        self.stacked = make(drawn if unit else drawn * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("btd,edf->btf", x, self.stacked)[..., : x.shape[-1]] / x.shape[-1]


def stacked_sgd(tool: Tool) -> str:
    """A fixed number of stacked experts under the tool's SGD."""
    build = partial(tool.build, part=partial(partial(Experts, growing=False), tool))
    found = []
    for width in (TARGET, BASE):
        ready: Any = partial(our_ready, optimizer=torch.optim.SGD) if tool.name == "ours" else tool.ready
        model, beside = ready(build, width, 0)
        found.append(rates(model, _sgd(tool, model, beside))["part.stacked"])
    right = {"unit-scaling": GROWTH**-0.5}.get(tool.name, 1.0)  # its SGD is scaled as its Adam unless told otherwise
    return _expected({found[0] / found[1]}, right)


def _sgd(tool: Tool, model: nn.Module, beside: Any) -> torch.optim.Optimizer:
    if tool.name == "mup":
        return import_module("mup").MuSGD(model.parameters(), lr=1.0)
    if tool.name == "unit-scaling":
        return import_module("unit_scaling").optim.SGD(model.parameters(), lr=1.0)
    return torch.optim.SGD(beside.groups(model, 1.0) if beside else model.parameters(), lr=1.0)


def adapted(tool: Tool) -> str:
    """A LoRA tensor added to a ready model."""
    model, beside = tool.made(TARGET)
    model.get_submodule("blocks.0.up").add_module("adapter", nn.Linear(TARGET, 4, bias=False))
    tool.adamw(model, beside, 1.0)
    return "wrong: the added tensor was given a rate unasked"


def by_name(tool: Tool) -> str:
    """Names reach the optimizer, as torch's own take named_parameters()."""
    model, beside = tool.made(TARGET)
    if tool.name == "ours":
        names = {name for group in tool.adamw(model, beside, 1.0).param_groups for name in group["names"]}
        return RIGHT if names == {name for name, _ in model.named_parameters()} else "wrong: names are missing"
    whole = type("Named", (), {"parameters": model.named_parameters})()
    return _expected({rates(model, tool.adamw(whole, beside, 1.0))["blocks.0.up.weight"]}, HIDDEN[tool.name])


def tensor_rate(tool: Tool) -> str:
    """lr=torch.tensor(...) against the same as a number."""
    found = []
    for lr in (1.0, torch.tensor(1.0)):
        model, beside = tool.made(TARGET)
        found.append(rates(model, tool.adamw(model, beside, lr)))
    off = [name for name in found[0] if abs(found[1][name] / found[0][name] - 1) > 1e-3]
    return RIGHT if not off else f"wrong: {off[0]} gets lr {found[1][off[0]]:.3g} instead of {found[0][off[0]]:.3g}"


def scheduled(make: Callable[[torch.optim.Optimizer], Any]) -> Callable[[Tool], str]:
    """A scheduler that sets rates: the ratio of a hidden matrix to the token table must stay. Ours has check for it."""

    def run(tool: Tool) -> str:
        model, beside = tool.made(TARGET)
        optimizer = tool.adamw(model, beside, 1e-2)
        before = _ratio(rates(model, optimizer))
        schedule = make(optimizer)
        for _ in range(5):
            optimizer.step()
            schedule.step()
        after = _ratio(rates(model, optimizer))
        if tool.name == "ours":
            beside.check(optimizer)
        kept = abs(after / before - 1) < 1e-3
        return RIGHT if kept else f"wrong: lr of hidden over token table was {before:.3g}, is {after:.3g}"

    return run


def _ratio(found: dict[str, float]) -> float:
    return found["blocks.0.up.weight"] / found["token.weight"]


def exported_adam(tool: Tool) -> str:
    """The Adam that the tool exports. Ours exports none, and its check refuses torch's own."""
    model, beside = tool.made(TARGET)
    if tool.name == "ours":
        beside.check(torch.optim.Adam(model.parameters(), lr=1.0))
    module = {"mup": "mup", "unit-scaling": "unit_scaling.optim"}.get(tool.name, "torch.optim")
    found = []
    for width in (TARGET, BASE):
        model = tool.made(width)[0]
        found.append(rates(model, import_module(module).Adam(model.parameters(), lr=1.0))["blocks.0.up.weight"])
    return _expected({found[0] / found[1]}, HIDDEN[tool.name])


# initial values


def tied(tool: Tool) -> str:
    """The readout is the token table; its initial size must not follow the width."""

    def build(width: int) -> nn.Module:
        model = cast(GPT, tool.build(width))
        if tool.name == "mup":
            model.head = import_module("mup").MuSharedReadout(model.token.weight, bias=False)
        model.head.weight = model.token.weight
        return model

    ready = _mup_as_built if tool.name == "mup" else tool.ready
    stds = [float(ready(build, width, 0)[0].get_parameter("token.weight").std()) for width in (32, 128, 512)]
    return RIGHT if max(stds) / min(stds) < 1.1 else f"wrong: its std is {', '.join(f'{s:.2g}' for s in stds)}"


def _mup_as_built(build: Callable[[int], nn.Module], width: int, seed: int) -> tuple[nn.Module, None]:
    torch.manual_seed(seed)
    model = build(width)
    import_module("mup").set_base_shapes(model, build(BASE), delta=build(2 * BASE))
    return model, None


def small_values(anew: bool) -> Callable[[Tool], str]:
    """The constructor draws everything with std 0.02, as Hugging Face's do; `anew`: the tool's own values follow."""

    def run(tool: Tool) -> str:
        def build(width: int) -> nn.Module:
            model = tool.build(width)
            for param in model.parameters():
                nn.init.normal_(param, std=0.02)
            return model

        def ready(width: int) -> nn.Module:
            if anew and tool.name != "unit-scaling":
                return tool.ready(build, width, 0)[0]
            if tool.name == "mup":
                return _mup_as_built(build, width, 0)[0]
            return _attached(build, width) if tool.name == "ours" else build(width)

        found = [_effective(tool, ready(width)) for width in (BASE, TARGET)]
        right = GROWTH**-0.5
        fell = found[1] / found[0]
        close = abs(fell / right - 1) < 0.1
        return RIGHT if close else f"wrong: hidden values x {fell:.2f} at {GROWTH:.0f} times the width, not {right:.2f}"

    return run


def _attached(build: Callable[[int], nn.Module], width: int) -> nn.Module:
    scales, model = wt.adopt(build, base=BASE, target=width, optimizer=torch.optim.AdamW), build(width)
    scales.groups(model, 1e-3)
    return scales.attach(model)


def _effective(tool: Tool, model: nn.Module) -> float:
    """Size of a hidden matrix as the forward pass has it."""
    weight = model.get_parameter("blocks.0.up.weight")
    return float(weight.detach().std()) * (weight.shape[1] ** -0.5 if tool.name == "unit-scaling" else 1.0)


SCALED = (
    Row("weight_norm on the readout", normed, ("head", "parametriz", "weight_norm")),
    Row("fixed number of key heads", with_part(Keys, "part.key.weight"), ("key",)),
    Row("MoE router", with_part(Routed, "part.router.weight"), ("router",)),
    Row("stacked experts, more with width", with_part(partial(Experts, growing=True), "part.stacked"),
        ("stacked", "more than 2 inf")),
    Row("stacked experts under SGD", stacked_sgd, ("stacked",)),
    Row("LoRA tensor added later", adapted, ("adapter", "[4, 128]", "(4, 128)")),
    Row("named_parameters()", by_name, ("named",)),
    Row("lr=torch.tensor(...)", tensor_rate, ("lr",)),
    Row("OneCycleLR(max_lr=x)", scheduled(lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=10)),
        ("OneCycleLR",)),
    Row("CosineAnnealingLR(eta_min=x)", scheduled(lambda o: lr_scheduler.CosineAnnealingLR(o, 5, eta_min=1e-3)),
        ("CosineAnnealingLR",)),
    Row("tied embedding", tied, ("tied", "token", "head")),
    Row("constructor draws std 0.02, then the tool's own values", small_values(anew=True), ("std",)),
    Row("constructor draws std 0.02, values left so", small_values(anew=False), ("std", "standard deviation")),
    Row("the Adam that the tool exports", exported_adam, ("lr_mult",)),
)  # fmt: skip
