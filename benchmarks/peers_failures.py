"""What becomes of a parametrization in real code: one row a situation; here what is done to a model that is ready.

Most rows are failures that were seen in mup 1.0.0, so their count says nothing of how often a tool fails; rows that
plain torch fails as well are run and not counted. A row says "right" where the model trains as it did before; "refuses"
where an exception names what was done (the tensor, by name or shape, or the setting or operation); "raises" for any
other exception; "warns" where a warning of the tool's does so and training goes on; "wrong" where nothing was said.
"right", "refuses" and "warns" are survived. A newcomer would count exceptions: it is the silent rows that cost a
training run.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.peers_models import BASE, GPT, VOCABULARY, Tool

TARGET = 128
RIGHT = "right"


@dataclass(frozen=True)
class Row:
    """A situation, what happens in it, and the words of which one must stand in an exception to make it a refusal."""

    name: str
    run: Callable[[Tool], str]
    words: tuple[str, ...]


def verdict(row: Row, tool: Tool) -> str:
    """What a row says of a tool."""
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            found = row.run(tool)
    except Exception as error:
        return told(error, row.words)
    said = [str(each.message) for each in heard if any(word in str(each.message) for word in row.words)]
    return f"warns: {said[0][:160]}" if found.startswith("wrong") and said else found


def told(error: Exception, words: tuple[str, ...]) -> str:
    """An exception as a verdict."""
    kind = "refuses" if any(word.lower() in str(error).lower() for word in words) else "raises"
    return f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def tokens() -> Tensor:
    """A batch."""
    return torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))


def stepped(tool: Tool, model: Any, optimizer: torch.optim.Optimizer) -> Tensor:
    """Logits after two steps."""
    for _ in range(2):
        optimizer.zero_grad()
        tool.layers.loss(model(tokens())[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()).backward()
        optimizer.step()
    return model(tokens()).detach()


def trained(tool: Tool, model: Any, beside: Any) -> Tensor:
    """Logits after two steps of the tool's AdamW; the rate is large enough that a lost factor shows."""
    return stepped(tool, model, tool.adamw(model, beside, 2.0 ** (tool.start + 2)))


def same(found: Tensor, expected: Tensor) -> str:
    """Right if two logits agree."""
    apart = float((found - expected).abs().max())
    return RIGHT if apart < 1e-3 * float(expected.std()) else f"wrong: logits differ by {apart:.2g}"


def kept(operation: Callable[[Tool, nn.Module], nn.Module], again: bool = False) -> Callable[[Tool], str]:
    """A row in which a ready model goes through an operation and must train as one that did not.

    mup documents set_base_shapes(rescale_params=False) for loaded checkpoints; where it cures, the verdict says so.
    """

    def run(tool: Tool) -> str:
        expected = trained(tool, *tool.made(TARGET))
        model, beside = tool.made(TARGET)
        model = operation(tool, model)
        try:
            return same(trained(tool, model, beside), expected)
        except Exception as error:
            if tool.name != "mup" or again:
                raise
            mup: Any = import_module("mup")
            mup.set_base_shapes(model, tool.build(BASE), delta=tool.build(2 * BASE), rescale_params=False)
            cured = same(trained(tool, model, beside), expected)
            raise type(error)(f"({cured} after set_base_shapes(rescale_params=False)) {error}") from error

    return run


def _assigned(tool: Tool, model: nn.Module) -> nn.Module:
    other = tool.made(TARGET, seed=1)[0]
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    return other


def _from_meta(tool: Tool, model: nn.Module) -> nn.Module:
    with torch.device("meta"):
        other = tool.build(TARGET)
        if tool.name == "mup":
            import_module("mup").set_base_shapes(other, tool.build(BASE), delta=tool.build(2 * BASE))
    other = other.to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return tool.made(TARGET)[1].attach(other) if tool.name == "ours" else other


def _swapped(tool: Tool, model: nn.Module) -> nn.Module:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return model.to(torch.float64).to(torch.float32)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def averaged(tool: Tool) -> str:
    model = tool.made(TARGET)[0]
    return same(AveragedModel(model)(tokens()).detach(), model(tokens()).detach())


def called(tool: Tool) -> str:
    model = tool.made(TARGET)[0]
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    return same(torch.func.functional_call(model, values, (tokens(),)), model(tokens()).detach())


def exported(tool: Tool) -> str:
    model = tool.made(TARGET)[0]
    program: Any = torch.export.export(model, (tokens(),)).module()
    return same(program(tokens()).detach(), model(tokens()).detach())


def loaded(**how: Any) -> Callable[[Tool], str]:
    """A whole module through torch.save and torch.load."""

    def run(tool: Tool) -> str:
        held = io.BytesIO()
        torch.save(tool.made(TARGET)[0], held)
        held.seek(0)
        return same(torch.load(held, **how)(tokens()).detach(), tool.made(TARGET)[0](tokens()).detach())

    return run


def compiled(tool: Tool) -> str:
    """A ready model is compiled where a plain one of its class was compiled before; graphs are kept by class."""
    torch.compile(GPT(TARGET), backend="eager")(tokens())
    expected = trained(tool, *tool.made(TARGET))
    model, beside = tool.made(TARGET)
    return same(trained(tool, torch.compile(model, backend="eager"), beside), expected)


def compiled_first(tool: Tool) -> str:
    """The tool is given a model that is compiled already."""
    expected = trained(tool, *tool.made(TARGET))
    model, beside = tool.made(TARGET)
    whole: Any = torch.compile(model, backend="eager")
    if tool.name == "mup":
        mup: Any = import_module("mup")
        mup.set_base_shapes(whole, tool.build(BASE), delta=tool.build(2 * BASE), rescale_params=False)
    return same(trained(tool, whole, beside), expected)


KEPT = (
    Row("copy.deepcopy", kept(lambda tool, model: copy.deepcopy(model)), ("copy",)),
    Row("AveragedModel (EMA)", averaged, ("copy", "average")),
    Row("meta device, then to_empty", kept(_from_meta), ("meta", "to_empty")),
    Row("load_state_dict(assign=True)", kept(_assigned), ("assign", "load")),
    Row(".to() with swapped parameters", kept(_swapped), ("swap",)),
    Row("torch.func.functional_call", called, ("functional",)),
    Row("torch.export", exported, ("export",)),
    Row("a whole module saved and loaded", loaded(weights_only=False), ("pickle",)),
    Row("the same by torch.load's default", loaded(), ()),
    Row("compiled after a plain one", compiled, ("compile",)),
    Row("compiled before the tool sees it", compiled_first, ("compile", "_orig_mod")),
)
