"""Depth: which stacks of blocks grow, and where their residual branches end, found on an unmodified model.

A residual branch is an addition whose one side was computed from the other: x + f(x). One forward pass of the base
model, recorded operation by operation, shows them all; a multiplier then belongs on the output of the last module of f.
A newcomer would look for names ("out_proj", "fc2"); names lie, and a branch may end in a norm or a mixture of experts.
Branches inside a branch are left alone: the outer one scales them. What is not seen: a model that is deeper because it
uses the same blocks more often.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from windtunnel.errors import InputError
from windtunnel.scaling.meta import on_meta

ATEN = torch.ops.aten
SUMS = (ATEN.add.Tensor, ATEN.add_.Tensor)
# What keeps a multiple of a tensor a multiple of it: a factor before is a factor after.
LINEAR = {
    ATEN.mul.Tensor, ATEN.mul.Scalar, ATEN.div.Tensor, ATEN.div.Scalar, ATEN.view.default, ATEN._unsafe_view.default,
    ATEN.transpose.int, ATEN.t.default, ATEN.permute.default, ATEN.clone.default, ATEN._to_copy.default,
    ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.native_dropout.default, ATEN.alias.default, ATEN.detach.default,
    ATEN.expand.default, ATEN.slice.Tensor,
}  # fmt: skip
EXAMPLE = "branches=('*.attention.out', '*.mlp.down')"


def stacks(model: nn.Module) -> dict[str, int]:
    """Name of every module whose children are numbered (ModuleList, Sequential) to how many it has."""
    counts = {name: [child for child, _ in module.named_children()] for name, module in model.named_modules()}
    return {name: len(children) for name, children in counts.items() if children and all(map(str.isdigit, children))}


def grown(here: nn.Module, shallow: nn.Module) -> dict[str, tuple[int, int]]:
    """Stacks that hold another number of blocks in `here` than in `shallow`: name to (blocks here, blocks there)."""
    at_base = stacks(shallow)
    return {name: (n, at_base[name]) for name, n in stacks(here).items() if at_base.get(name, n) != n}


def layers_of(name: str, growing: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """How many blocks stand in line with a tensor or module, here and at the base; (1, 1) outside growing stacks."""
    here, there = 1, 1
    for stack, (many, few) in growing.items():
        if re.match(rf"{re.escape(stack)}\.\d+\." if stack else r"\d+\.", name):
            here, there = here * many, there * few
    return here, there


def branch_ends(
    model: nn.Module, growing: Mapping[str, tuple[int, int]], patterns: Sequence[str], called: str
) -> list[str]:
    """The modules of `model` that match; InputError for a block of a growing stack in which none does."""
    names = [name for name, _ in model.named_modules()]
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    for stack, (many, _) in growing.items():
        for number in range(many):
            block = f"{stack}.{number}" if stack else f"{number}"
            if not any(name == block or name.startswith(f"{block}.") for name in found):
                raise InputError(
                    f"No residual branch is known in {block} of {called}, whose stack grows with depth. State the "
                    f"modules whose outputs are added to the stream, as in {EXAMPLE}."
                )
    return [name for name in found if layers_of(f"{name}.", growing) != (1, 1)]


def found_patterns(build: Callable[[], nn.Module], example: Any, growing: Mapping[str, tuple[int, int]]) -> list[str]:
    """Patterns of the modules that end residual branches, seen in one forward pass of the model that `build` makes.

    `example` is one input: a tensor, a tuple, or a dict of keyword arguments; None takes the model's own
    `dummy_inputs` (transformers). The pass runs on the meta device, or on the CPU if that fails. Raises InputError if
    both fail or no branch is found.
    """
    troubles = []
    for device in ("meta", "cpu"):
        model = on_meta(build) if device == "meta" else build()
        inputs = example if example is not None else getattr(model, "dummy_inputs", None)
        if inputs is None:
            raise InputError(
                f"The model grows in depth, so its residual branches must be known. Give an input of a forward pass, "
                f"example=torch.zeros(1, 16, dtype=torch.long), or state the modules that end them, {EXAMPLE}."
            )
        try:
            return _patterns(_traced(model, inputs, device), growing)
        except InputError:
            raise
        except Exception as error:
            troubles.append(f"on {device}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    raise InputError(
        f"The model's forward pass fails, so its residual branches cannot be seen ({'; '.join(troubles)}). Give an "
        f"input that it takes as example=, or state the modules that end them, {EXAMPLE}."
    )


def _patterns(branches: Sequence[Branch], growing: Mapping[str, tuple[int, int]]) -> list[str]:
    inside = [b for b in branches if any(layers_of(f"{n}.", growing) != (1, 1) for n in (b.adds, *b.ends))]
    unnamed = [branch.adds for branch in inside if not branch.ends]
    if unnamed:
        raise InputError(
            f"{unnamed[0]} adds to the stream what no module of it returns, so there is no output to put a multiplier "
            f"on. Wrap what it adds in a module, or take a rule for width alone, rule=MuP()."
        )
    patterns = {_pattern(name, growing) for branch in inside for name in branch.ends}
    if not patterns:
        raise InputError(
            f"No residual branch was seen in {', '.join(growing)}: nothing that a module returns is added to what it "
            f"was computed from. If there are some, state them: {EXAMPLE}. Without any, depth has no rule here; take "
            f"one for width alone, rule=MuP()."
        )
    return sorted(patterns)


def _pattern(name: str, growing: Mapping[str, tuple[int, int]]) -> str:
    """The name with the block's number replaced by a star, in every growing stack."""
    for stack in growing:
        prefix = re.escape(stack) + r"\." if stack else ""
        name = re.sub(rf"^({prefix})\d+(?=\.|$)", r"\1*", name)
    return name


def _traced(model: nn.Module, inputs: Any, device: str) -> list[Branch]:
    """The residual branches of a forward pass."""
    trace = _Trace()
    handles = [h for name, module in model.named_modules() for h in trace.listen(name, module)]
    given = tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, inputs)
    try:
        with torch.no_grad(), trace:
            model.eval()(**given) if isinstance(given, Mapping) else model.eval()(
                *(given if isinstance(given, tuple | list) else (given,))
            )
    finally:
        for handle in handles:
            handle.remove()
    return trace.outermost()


@dataclass(frozen=True)
class Branch:
    """A residual addition: bits of the stream and of the branch, the sum's own bit, the module whose forward adds, and
    the modules that the branch ends in."""

    stream: int
    branch: int
    out: int
    adds: str
    ends: tuple[str, ...]


class _Trace(TorchDispatchMode):
    """Notes of every tensor from which ones it was computed (a bit each), and which modules' outputs it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []  # so that no identity is used twice
        self.bits: dict[int, int] = {}
        self.own: dict[int, int] = {}
        self.ends: dict[int, tuple[str, ...]] = {}
        self.inside: list[str] = []
        self.sums: list[Branch] = []

    def listen(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Hooks: the innermost module with weights that returns a tensor is what the tensor is made of."""
        weights = any(True for _ in module.parameters())

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.inside.pop()
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor) and weights:
                self.ends.setdefault(id(first), (name,))

        enter = module.register_forward_pre_hook(lambda module, inputs: self.inside.append(name))
        return [enter, module.register_forward_hook(leave)]

    def outermost(self) -> list[Branch]:
        """The branches, without those inside another branch."""
        return [
            each for each in self.sums if not any(o.branch & each.out and not o.stream & each.out for o in self.sums)
        ]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        before = 0
        for t in tensors:
            before |= self.bits.get(id(t), 0)
        made = self._made_of(func, tensors)
        branch = self._branch(func, tensors)
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._note(t, before, made)
                if branch is not None:
                    self.sums.append(Branch(*branch[:2], self.own[id(t)], self.inside[-1], branch[2]))
        return out

    def _note(self, tensor: Tensor, before: int, made: tuple[str, ...]) -> None:
        own = 1 << len(self.kept)
        self.kept.append(tensor)
        self.own[id(tensor)], self.bits[id(tensor)] = own, before | own
        self.ends.pop(id(tensor), None)
        if made:
            self.ends[id(tensor)] = made

    def _made_of(self, func: Any, tensors: Sequence[Tensor]) -> tuple[str, ...]:
        """Modules whose outputs the result is a sum of multiples of."""
        known = [self.ends[id(t)] for t in tensors if id(t) in self.ends]
        if func in LINEAR and len(known) == 1:
            return known[0]
        together = func in SUMS and len(known) == 2 and self._branch(func, tensors) is None
        return known[0] + known[1] if together else ()

    def _branch(self, func: Any, tensors: Sequence[Tensor]) -> tuple[int, int, tuple[str, ...]] | None:
        """Bits of the stream, bits of what is added to it, and the modules it is made of; None for other operations."""
        if func not in SUMS or len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
            return None
        bits = [self.bits.get(id(t), 0) for t in tensors]
        own = [self.own.get(id(t), 0) for t in tensors]
        for stream, branch in ((0, 1), (1, 0)):
            if own[stream] & bits[branch] and not own[branch] & bits[stream]:
                return bits[stream], bits[branch], self.ends.get(id(tensors[branch]), ())
        return None
