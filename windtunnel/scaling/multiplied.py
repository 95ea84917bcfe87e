"""What multipliers at the found modules would miss, or touch besides: a second forward pass that follows both.

Finding branches says nothing of those that were not seen (torch.lerp, a stack of two that is summed). So matrices of
the growing stacks are followed to what comes after the stacks: all must have passed a multiplier. And what a multiplier
scales may go into sums alone: a module that is used inside another branch, or for an auxiliary loss, would be scaled
there too. A newcomer would trust a list of branches that looks complete; with half of them a model trains, wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from windtunnel.errors import InputError
from windtunnel.scaling.traced import LINEAR, SUMS, first_of, run, storage

STATE = "State the modules whose outputs are added to the stream, branches=(...), or take a rule for width alone."


def check_multiplied(
    model: nn.Module,
    inputs: Any,
    device: str,
    ends: Collection[str],
    matrices: Collection[str],
    grows: Callable[[str], bool],
) -> None:
    """Raise InputError where multipliers on the outputs of `ends` do not act on the branches, all and alone.

    `matrices` are the names of tensors that there are more of in the deeper model; `grows` tells whether a module
    stands in a growing stack.
    """
    follow = _Follow(model, ends, matrices, grows)
    handles = [h for name, module in model.named_modules() for h in follow.listen(name, module)]
    output = run(model, inputs, device, follow, handles)
    for name, operation in follow.touched.items():
        raise InputError(
            f"{name} ends a residual branch, yet what it returns is also used for something else ({operation}), which "
            f"a multiplier on it would scale too. Use another module for that. {STATE}"
        )
    left = follow.left or next((follow.unscaled_by(t) for t in tree_leaves(output) if isinstance(t, Tensor)), "")
    if left:
        raise InputError(
            f"What {left} computes reaches the end of its stack past every residual branch that was found "
            f"({', '.join(sorted(ends)[:3])}), so a multiplier there would leave it as it is. Write branches as "
            f"x + f(x), f a module. {STATE}"
        )


class _Follow(TorchDispatchMode):
    """Follows matrices until they pass a multiplier (by storage, so that slices that are written count), and what
    comes from a multiplier until it is added to the stream."""

    def __init__(
        self, model: nn.Module, ends: Collection[str], matrices: Collection[str], grows: Callable[[str], bool]
    ) -> None:
        super().__init__()
        self.ends, self.grows = ends, grows
        self.kept: list[Tensor] = []  # so that no identity is used twice
        self.unscaled = {storage(p): name for name, p in model.named_parameters() if name in matrices}
        self.hot: dict[int, str] = {}
        self.touched: dict[str, str] = {}
        self.left = ""
        self.inside: list[str] = []

    def listen(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Hooks: what an end returns is scaled; what a layer after the stacks takes must be."""
        weights = any(True for _ in module.parameters(recurse=False))

        def enter(module: nn.Module, inputs: Any, named: Any) -> None:
            self.inside.append(name)
            if weights and not any(map(self.grows, self.inside)):
                given = [self.unscaled_by(t) for t in tree_leaves((inputs, named)) if isinstance(t, Tensor)]
                self.left = self.left or next(filter(None, given), "")

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.inside.pop()
            if name in self.ends and isinstance(first := first_of(output), Tensor):
                self.unscaled.pop(storage(first), None)
                self.hot[id(first)] = name

        return [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]

    def unscaled_by(self, tensor: Tensor) -> str:
        """A matrix that the tensor was computed with and no multiplier has scaled, or ""."""
        return self.unscaled.get(storage(tensor), "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        unscaled = next(filter(None, map(self.unscaled_by, tensors)), "")
        hot = [self.hot[id(t)] for t in tensors if id(t) in self.hot]
        linear = func in SUMS or (func in LINEAR and len(hot) == 1)
        if hot and not linear:
            self.touched.setdefault(hot[0], str(func))
        out = func(*args, **(kwargs or {}))
        goes_on = bool(hot) and linear and (func not in SUMS or len(hot) == len(tensors))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self.kept.append(t)
                self.hot.pop(id(t), None)
                if unscaled and not goes_on:  # a gate times what is scaled is scaled
                    self.unscaled[storage(t)] = unscaled
                if goes_on:
                    self.hot[id(t)] = hot[0]
        return out
