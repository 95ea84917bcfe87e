"""A torch model of your own at any rung: you give the function that builds it, its size is counted here.

Parameters and FLOPs are counted on the meta device, where nothing is computed, by torch's own counter of products. A
newcomer would write the formulas, as the stock models do: they are exact where a counter is blind (a custom kernel, a
router that sends a token to few experts), so a part with `build` and `size` remains the other way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from windtunnel.errors import InputError
from windtunnel.ladder import Rung, Size
from windtunnel.meaning import now
from windtunnel.recipe import DataShape
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.sites import LOOKUPS
from windtunnel.scaling.wrapped import check_plain

Built = Callable[[Rung, DataShape], nn.Module]


@dataclass(frozen=True)
class Own:
    """Any torch module: `module(rung, data)` returns one of that width and depth, for data of that shape.

    `module` is a function at the top level of a file. The forward pass takes inputs and returns logits (examples,
    tokens, classes), or (examples, classes) where an example is one prediction, or an object that has them as `logits`,
    as models of Hugging Face's `transformers` do. `roles`, by pattern of tensor names, says what shapes cannot tell, as
    in `wt.adopt`. The values that the module begins with are replaced by the parametrization's.

    Its size: all parameters, those of `nn.Embedding` tables as its embedding, tied where another layer has the same
    tensor; and the FLOPs of one example's forward and backward pass by torch's counter, which sees products alone, as
    our formulas do, and takes all experts of a mixture for working. Raises InputError where the module cannot be built
    and run on the meta device, is compiled, or has a frozen or complex parameter.
    """

    module: Built
    roles: Mapping[str, Any] = field(default_factory=dict, hash=False)
    begins: ClassVar[int] = 2  # part of every key: raised by one where the same module would begin with other values

    def __post_init__(self) -> None:
        if isinstance(self.module, nn.Module):
            name = type(self.module).__name__
            raise InputError(
                f"Own needs a function that builds the model of a rung, and was given a {name} that is built already; "
                f"pass a function, def net(rung, data): return {name}(rung.width)."
            )

    def build(self, rung: Rung, data: DataShape) -> nn.Module:
        """A fresh module."""
        try:
            found = self.module(rung, data)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{_at(self.module, rung)} raised {type(error).__name__}: {error}") from error
        if not isinstance(found, nn.Module):
            raise InputError(f"{_at(self.module, rung)} returned {found!r}; it must return a torch module.")
        frozen = [name for name, param in found.named_parameters() if not param.requires_grad]
        if frozen:
            raise InputError(
                f"{_at(self.module, rung)} has frozen parameters ({', '.join(frozen[:3])}), which would be trained; "
                f"make them buffers, register_buffer(..., persistent=False)."
            )
        check_plain(found)
        # a module around it would change the tensors' names
        found.register_forward_hook(partial(_logits, one=data.tokens_per_example == 1))
        # vmap takes the CPU's fused attention member by member, which costs nothing: 4.3 ms a member's step either way
        # (measured, eight Llamas of width 32)
        warnings.filterwarnings("ignore", "There is a performance drop .* aten::_scaled_dot_product", UserWarning)
        return found

    def size(self, rung: Rung, data: DataShape) -> Size:
        """Counted once for each meaning, width, depth, number of heads and shape of data."""
        return _counted(self.module, now(self.module), rung.but(tokens=1, batch=None, unique_tokens=None), data)


def _logits(module: nn.Module, inputs: Any, outputs: Any, *, one: bool) -> Tensor:
    """With an axis of tokens also where an example is one prediction, which classifiers and images leave out."""
    found = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(found, Tensor):
        held = {dict: "out['logits']", tuple: "out[0]", list: "out[0]"}.get(type(outputs), "those alone")
        raise InputError(
            f"{type(module).__name__} returns a {type(outputs).__name__}; its forward pass must return logits "
            f"(examples, tokens, classes), or an object with .logits. Wrap it in a module that returns {held}."
        )
    return found.reshape(len(found), 1, -1) if one and found.dim() not in (0, 3) else found


class _Agreeing(TorchDispatchMode):
    """Says yes where a forward pass asks a tensor without values for one: is this mask all ones?"""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            return True
        return func(*args, **(kwargs or {}))


@cache
def _counted(module: Built, means: str, rung: Rung, data: DataShape) -> Size:
    model = on_meta(lambda: Own(module).build(rung, data)).to("meta")
    for param in model.parameters():
        param.data = param.data.float()  # as they are trained
    flops = _flops(module, model, rung, data)
    named = dict(model.named_parameters(remove_duplicate=False))
    tables = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, LOOKUPS)}
    embedding = {id(named[name]): named[name].numel() for name in tables}
    return Size(
        embedding=sum(embedding.values()),
        non_embedding=sum(p.numel() for p in model.parameters() if id(p) not in embedding),
        flops_per_token=flops / data.tokens_per_example,
        tied=any(id(param) in embedding for name, param in named.items() if name not in tables),
    )


def _flops(module: Built, model: nn.Module, rung: Rung, data: DataShape) -> float:
    """Of a forward and backward pass of one example."""
    text = data.example_shape == (data.tokens_per_example,)
    inputs = torch.zeros(1, *data.example_shape, dtype=torch.int64 if text else torch.float32, device="meta")
    counter = FlopCounterMode(display=False)
    try:
        with torch.device("meta"), _Agreeing(), counter:  # a forward pass too may make tensors
            outputs = model(inputs)
            outputs.float().sum().backward()
    except InputError as error:
        raise InputError(f"{_at(module, rung)}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{_at(module, rung)} was given inputs {tuple(inputs.shape)} of {_kind(inputs)}, one example, and raised "
            f"{type(error).__name__}: {error}. It must take any number of such examples; this was on the meta device, "
            f"where FLOPs are counted without values. Only if the network needs values (.item(), a kernel of its own) "
            f"write a part with build(rung, data) and size(rung, data)."
        ) from error
    shape = (data.tokens_per_example, data.classes)
    if tuple(outputs.shape) != (1, *shape):
        raise InputError(
            f"{_at(module, rung)} returns outputs of shape {tuple(outputs.shape)} for one example; they must be logits "
            f"{(1, *shape)}: examples, tokens, classes."
        )
    return float(counter.get_total_flops())


def _kind(inputs: Tensor) -> str:
    return str(inputs.dtype).removeprefix("torch.")


def _at(module: Built, rung: Rung) -> str:
    return f"{getattr(module, '__name__', module)} at width {rung.width} x depth {rung.depth}"
