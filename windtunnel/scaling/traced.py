"""Residual additions of one forward pass: of every tensor is noted from which others it was computed.

A sum x + f(x) has one side that was computed from the other. A newcomer would ask whether f's tensor came from x's; but
code writes 0.9 * x + f(x), x.view(...) + f(x) or x.double() + f(x), whose x is a new tensor. So what is linear in the
stream is followed as the stream. Two parts of one stream (x and the embedding it began as) are no branch of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

ATEN = torch.ops.aten
SUMS = (ATEN.add.Tensor, ATEN.add_.Tensor, ATEN.sub.Tensor, ATEN.sub_.Tensor)
# What keeps a multiple of a tensor a multiple of it: a factor before is a factor after.
LINEAR = {
    ATEN.mul.Tensor, ATEN.mul.Scalar, ATEN.div.Tensor, ATEN.div.Scalar, ATEN.view.default, ATEN._unsafe_view.default,
    ATEN.transpose.int, ATEN.t.default, ATEN.permute.default, ATEN.clone.default, ATEN._to_copy.default,
    ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.native_dropout.default, ATEN.alias.default, ATEN.detach.default,
    ATEN.expand.default, ATEN.slice.Tensor, ATEN.roll.default, ATEN.flip.default, ATEN.neg.default,
    ATEN.constant_pad_nd.default, ATEN.squeeze.default, ATEN.squeeze.dims, ATEN.select.int, ATEN.mul_.Tensor,
    ATEN.div_.Tensor,
}  # fmt: skip


@dataclass(frozen=True)
class Branch:
    """A residual addition: bits of the stream and of the branch, the stream's roots and the sum's own bit, the module
    whose forward adds, and the modules that the branch ends in."""

    stream: int
    branch: int
    roots: int
    out: int
    adds: str
    ends: tuple[str, ...]

    def holds(self, other: Branch) -> bool:
        """Whether the other addition happens inside this one's branch, on what came from this one's stream."""
        inside = self.branch & other.out and not self.stream & other.out
        return bool(inside and self.roots & (other.stream | other.branch))


def traced(model: nn.Module, inputs: Any, device: str) -> list[Branch]:
    """The residual additions on the way to a model's (first) output, without those inside another's branch."""
    trace = _Trace()
    handles = [h for name, module in model.named_modules() for h in trace.listen(name, module)]
    output = next((t for t in tree_leaves(run(model, inputs, device, trace, handles)) if isinstance(t, Tensor)), None)
    counts = [each for each in trace.sums if output is not None and trace.bits_of(output) & each.out]
    return [each for each in counts if not any(other.holds(each) for other in counts)]


def run(model: nn.Module, inputs: Any, device: str, mode: TorchDispatchMode, handles: Sequence[RemovableHandle]) -> Any:
    """The model's output in a forward pass under `mode`, without gradients or dropout; the handles are removed."""
    given = tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, inputs)
    positional = () if isinstance(given, Mapping) else given if isinstance(given, tuple | list) else (given,)
    try:
        with torch.no_grad(), mode:
            return model.eval()(*positional, **(given if isinstance(given, Mapping) else {}))
    finally:
        for handle in handles:
            handle.remove()


def first_of(output: Any) -> Any:
    """What a multiplier acts on: the output, or the first of several."""
    return output[0] if isinstance(output, tuple | list) and output else output


def storage(tensor: Tensor) -> int:
    """Identity of the memory that a tensor and its views share."""
    return tensor.untyped_storage()._cdata


class _Trace(TorchDispatchMode):
    """Notes of every tensor from which ones it was computed (a bit each), and which modules' outputs it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []  # so that no identity is used twice
        self.bits: dict[int, int] = {}
        self.written: dict[int, int] = {}  # by storage: bits of what was written into it, as into a slice of zeros
        self.own: dict[int, int] = {}
        self.roots: dict[int, int] = {}  # its own bit and those of what it is linear in, along the stream
        self.ends: dict[int, tuple[int, tuple[str, ...]]] = {}  # bits of the modules' outputs, and their names
        self.inside: list[str] = []
        self.sums: list[Branch] = []

    def listen(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Hooks: the innermost module with weights that returns a tensor is what the tensor is made of."""
        weights = any(True for _ in module.parameters())

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.inside.pop()
            first = first_of(output)
            if isinstance(first, Tensor) and weights:
                self.ends.setdefault(id(first), (self.own.get(id(first), 0), (name,)))

        enter = module.register_forward_pre_hook(lambda module, inputs: self.inside.append(name))
        return [enter, module.register_forward_hook(leave)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        before = 0
        for t in tensors:
            before |= self.bits_of(t)
        made, sides, roots = self._made_of(func, tensors), self._sides(func, tensors), self._roots(func, tensors)
        out = func(*args, **(kwargs or {}))
        if sides is not None:
            stream, branch = sides
            bits, ends = (self.bits_of(stream), self.bits_of(branch)), self.ends.get(id(branch), (0, ()))[1]
            self.sums.append(Branch(*bits, self.roots[id(stream)], 1 << len(self.kept), self.inside[-1], ends))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._note(t, before, roots, made)
                if func._schema.is_mutable:
                    self.written[storage(t)] = self.written.get(storage(t), 0) | self.bits[id(t)]
        return out

    def bits_of(self, tensor: Tensor) -> int:
        """All that the tensor was computed from."""
        return self.bits.get(id(tensor), 0) | self.written.get(storage(tensor), 0)

    def _note(self, tensor: Tensor, before: int, roots: int, made: tuple[int, tuple[str, ...]] | None) -> None:
        own = 1 << len(self.kept)
        self.kept.append(tensor)
        self.own[id(tensor)], self.bits[id(tensor)], self.roots[id(tensor)] = own, before | own, roots | own
        self.ends.pop(id(tensor), None)
        if made:
            self.ends[id(tensor)] = made

    def _made_of(self, func: Any, tensors: Sequence[Tensor]) -> tuple[int, tuple[str, ...]] | None:
        """Modules whose outputs the result is a sum of multiples of; a factor that comes from them is no multiple."""
        known = [t for t in tensors if id(t) in self.ends]
        if func in LINEAR and len(known) == 1:
            bits, names = self.ends[id(known[0])]
            own = bits or self.own.get(id(known[0]), 0)
            others = [self.bits_of(t) for t in tensors if t is not known[0]]
            return None if any(own & other for other in others) else (bits, names)
        if func in SUMS and len(known) == 2 and self._sides(func, tensors) is None:
            (bits, names), (more, others) = (self.ends[id(t)] for t in known)
            return bits | more, names + others
        return None

    def _roots(self, func: Any, tensors: Sequence[Tensor]) -> int:
        """Bits of what the result is linear in; a sum of stream and branch goes on as the stream."""
        computed = [t for t in tensors if id(t) in self.bits]
        sides = self._sides(func, tensors)
        if sides is not None:
            return self.roots[id(sides[0])]
        if func in SUMS and len(computed) == 2 and self._one_stream(*computed):
            return self.roots[id(computed[0])] | self.roots[id(computed[1])]
        return self.roots[id(computed[0])] if func in (LINEAR | set(SUMS)) and len(computed) == 1 else 0

    def _one_stream(self, one: Tensor, other: Tensor) -> bool:
        return bool(self.roots[id(one)] & self.roots[id(other)])

    def _sides(self, func: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
        """The stream and what is added to it; None for other operations, and where both are of one stream."""
        if func not in SUMS or len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
            return None
        if any(id(t) not in self.bits for t in tensors) or self._one_stream(*tensors):
            return None
        for stream, branch in (tensors, tensors[::-1]):
            backwards = self.own[id(branch)] & self.bits_of(stream)
            if self.roots[id(stream)] & self.bits_of(branch) and not backwards:
                return stream, branch
        return None
