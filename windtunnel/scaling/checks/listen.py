"""The outputs of every module in a forward pass, by name, and names that mean the same block at every depth.

A newcomer would listen to the readout by name; a module whose output is the readout's own (a wrapper) is one too.
Blocks of a stack that grows with depth are called by place, `blocks[first]`, `[middle]`, `[last]`: block 3 of 4 and
block 3 of 32 are not the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Outputs = dict[str, list[Tensor]]  # module name to its outputs, one a call


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[Outputs]:
    """A dict that fills with the first floating tensor that each module returns while the context is open."""
    seen: Outputs = {}

    def listen(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found = first_tensor(output)
            if found is not None:
                seen.setdefault(name, []).append(found.detach().clone())  # it may be added to in place

        return hook

    handles = [module.register_forward_hook(listen(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor | None:
    """The output, or the first floating tensor inside a tuple, list or mapping."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def like(names: set[str], seen: Outputs) -> set[str]:
    """`names`, and the modules that return what one of them does."""
    given = [outputs[-1].flatten() for name in names for outputs in [seen.get(name)] if outputs]
    return names | {name for name, outputs in seen.items() if any(_same(outputs[-1], one) for one in given)}


def _same(output: Tensor, flat: Tensor) -> bool:
    return output.numel() == flat.numel() and torch.equal(output.flatten(), flat)


def by_place(names: Mapping[str, Any], here: Mapping[str, int], growing: set[str]) -> dict[str, str]:
    """Name at every depth to name in this model: first, middle and last of the stacks in `growing`; others drop out."""
    found = {}
    for name in names:
        common = _placed(name, here, growing)
        if common is not None:
            found[common] = name
    return found


def inside(name: str, growing: set[str]) -> bool:
    """Whether a name of `by_place` is of a growing stack, and not its last block itself, whose output is the stream."""
    return any(name.startswith(f"{stack}[") and name != f"{stack}[last]" for stack in growing)


def growing_stacks(models: list[Mapping[str, int]]) -> set[str]:
    """The stacks whose length is not the same in all models."""
    return {name for name in models[0] if len({model.get(name) for model in models}) > 1}


def aligned(
    seen: Mapping[Any, Mapping[str, Any]], stacks: Mapping[Any, Mapping[str, int]]
) -> tuple[set[str], dict[Any, dict[str, str]], list[str]]:
    """The stacks that grow over runs, by run its names by place, and the places that all runs have."""
    growing = growing_stacks([*stacks.values()])
    named = {run: by_place(names, stacks[run], growing) for run, names in seen.items()}
    first = next(iter(named.values()), {})
    return growing, named, [place for place in first if all(place in names for names in named.values())]


def _placed(name: str, here: Mapping[str, int], growing: set[str]) -> str | None:
    for stack in sorted(growing):
        inside = name[len(stack) + 1 :] if stack else name
        index, dot, rest = inside.partition(".")
        if index.isdigit() and name == f"{stack}.{inside}".removeprefix("."):
            count = here[stack]
            place = {count // 2: "middle", 0: "first", count - 1: "last"}.get(int(index))
            return None if place is None else f"{stack}[{place}]{dot}{rest}"
    return name


def mean_absolute(outputs: list[Tensor]) -> float:
    """Mean |entry| over all calls."""
    return float(torch.stack([output.float().abs().mean() for output in outputs]).mean())


def mean_change(outputs: list[Tensor], before: list[Tensor]) -> float:
    """Mean |entry - entry before| over all calls; NaN where shapes differ."""
    pairs = list(zip(outputs, before, strict=False))
    if any(now.shape != then.shape for now, then in pairs):
        return float("nan")
    return float(torch.stack([(now.float() - then.float()).abs().mean() for now, then in pairs]).mean())
