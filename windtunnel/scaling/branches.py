"""Depth: which stacks of blocks grow, and where their residual branches end, found on an unmodified model.

A residual branch is an addition whose one side was computed from the other: x + f(x). One forward pass of the base
model, recorded operation by operation, shows them all; a multiplier then belongs on the output of the last module of f.
A newcomer would look for names ("out_proj", "fc2"); names lie, and a branch may end in a norm or a mixture of experts.
Branches inside a branch are left alone: the outer one scales them. What no multiplier reaches, and multipliers that
reach too far, are refused (multiplied.py). A model that is deeper because it uses the same blocks more often is, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from windtunnel.errors import InputError
from windtunnel.scaling.meta import on_meta
from windtunnel.scaling.multiplied import check_multiplied
from windtunnel.scaling.traced import Branch, traced

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


def grows(module: str, growing: Mapping[str, tuple[int, int]]) -> bool:
    """Whether a module is a block of a growing stack, or stands in one."""
    return layers_of(f"{module}.", growing) != (1, 1)


def branch_ends(
    model: nn.Module, growing: Mapping[str, tuple[int, int]], patterns: Sequence[str], called: str, stated: bool = True
) -> list[str]:
    """The modules of `model` that match; InputError for a block of a growing stack in which none does.

    A star in what was found (not `stated`) is a block's number alone. Blocks without a matrix (lists of norms or of
    dropouts) need no branch.
    """
    if isinstance(patterns, str):
        raise InputError(f"branches is one string, {patterns!r}; give patterns of module names, as in {EXAMPLE}.")
    found = _matching(model, growing, patterns, stated)
    inner = [(name, outer) for name in found for outer in found if name.startswith(f"{outer}.")]
    if inner:
        raise InputError(
            f"The branches {', '.join(patterns)} match {inner[0][0]} and {inner[0][1]}, which holds it; what both "
            f"return would be multiplied twice. State only the modules whose outputs are added, as in {EXAMPLE}."
        )
    for stack, (many, _) in growing.items():
        for number in range(many):
            block = f"{stack}.{number}" if stack else f"{number}"
            matrices = any(p.ndim > 1 for p in model.get_submodule(block).parameters())
            if matrices and not any(name == block or name.startswith(f"{block}.") for name in found):
                raise InputError(
                    f"No residual branch is known in {block} of {called}, whose stack grows with depth. State the "
                    f"modules whose outputs are added to the stream, as in {EXAMPLE}. A list of numbered modules that "
                    f"holds more than blocks (the embedding, the readout) must be split, so that blocks stand alone."
                )
    return found


def _matching(
    model: nn.Module, growing: Mapping[str, tuple[int, int]], patterns: Sequence[str], stated: bool
) -> list[str]:
    names = [name for name, _ in model.named_modules() if grows(name, growing)]
    if stated:
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    return [name for name in names if _pattern(name, growing) in patterns]


def found_patterns(
    build: Callable[[], nn.Module], example: Any, growing: Mapping[str, tuple[int, int]], deeper: nn.Module
) -> list[str]:
    """Patterns of the modules that end residual branches, seen in a forward pass of the model that `build` makes.

    `example` is one input: a tensor, a tuple, or a dict of keyword arguments; None takes the model's own
    `dummy_inputs` (transformers). The passes run on the meta device, or on the CPU if that fails. Raises InputError if
    both fail, if no branch is found, if multipliers there would miss something (multiplied.py), or if `deeper`, the
    target, has kinds of blocks that this model has not.
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
            return _seen(model, inputs, device, growing, deeper)
        except InputError:
            raise
        except Exception as error:
            troubles.append(f"on {device}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    raise InputError(
        f"The model's forward pass fails, so its residual branches cannot be seen ({'; '.join(troubles)}). Give an "
        f"input that it takes as example=, or state the modules that end them, {EXAMPLE}."
    )


def _seen(
    model: nn.Module, inputs: Any, device: str, growing: Mapping[str, tuple[int, int]], deeper: nn.Module
) -> list[str]:
    patterns = _patterns(traced(model, inputs, device), growing)
    _check_kinds(model, deeper, growing)
    more = _likes(deeper, growing) - _likes(model, growing)  # of which the deeper one has more
    matrices = [name for name, p in model.named_parameters() if _matrix(p) and _pattern(name, growing) in more]
    check_multiplied(
        model, inputs, device, _matching(model, growing, patterns, stated=False), matrices,
        lambda name: grows(name, growing),
    )  # fmt: skip
    return patterns


def _matrix(tensor: nn.Parameter) -> bool:
    return sum(n > 1 for n in tensor.shape) > 1


def _likes(model: nn.Module, growing: Mapping[str, tuple[int, int]]) -> Counter[str]:
    """How many tensors there are of each name, blocks' numbers aside."""
    return Counter(_pattern(name, growing) for name, _ in model.named_parameters(remove_duplicate=False))


def _check_kinds(model: nn.Module, deeper: nn.Module, growing: Mapping[str, tuple[int, int]]) -> None:
    """What a block of the target holds, some block of the base must hold together, for only there it was run."""
    for stack in growing:
        known = {frozenset(names) for names in _blocks(model, stack).values()}
        for number, names in _blocks(deeper, stack).items():
            if not any(names <= each for each in known):
                raise InputError(
                    f"{f'{stack}.' if stack else ''}{number} of the target holds tensors that no block of the base "
                    f"holds ({min(names - min(known, key=lambda each: len(names - each)))}), so its residual branches "
                    f"were not seen. Take a base that is deep enough to have every kind of block, or state them: "
                    f"{EXAMPLE}."
                )


def _blocks(model: nn.Module, stack: str) -> dict[str, set[str]]:
    """Number of each block of a stack to the names of its tensors, numbers of stacks inside it aside."""
    blocks = model.get_submodule(stack).named_children()
    return {
        number: {re.sub(r"\b\d+\b", "*", name) for name, _ in block.named_parameters(remove_duplicate=False)}
        for number, block in blocks
    }


def _patterns(branches: Sequence[Branch], growing: Mapping[str, tuple[int, int]]) -> list[str]:
    inside = [b for b in branches if any(grows(n, growing) for n in (b.adds, *b.ends))]
    unnamed = [branch.adds for branch in inside if not branch.ends]
    if unnamed:
        raise InputError(
            f"{unnamed[0]} adds to the stream what no module of it returns, so there is no output to put a multiplier "
            f"on. Wrap what it adds in a module, or take a rule for width alone, rule=MuP()."
        )
    outside = [n for b in branches for n in dict.fromkeys(b.ends) if not grows(n, growing)]
    for name in outside:
        if outside.count(name) > 1:
            raise InputError(
                f"{name} ends {outside.count(name)} residual branches and stands outside of the blocks that grow with "
                f"depth; a module that is used as often as there are blocks has no rule here. Take one for width "
                f"alone, rule=MuP()."
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
