"""B43: a multi-level framework for accelerating training transformer models (2404.07999), a V-cycle over sizes.

Read: the abstract, algorithm 1 and equations 5 to 12 as restated in our facts. The network is trained briefly, joined
to half its width and depth, trained there for most of the tokens at a larger learning rate, grown back, mixed with what
it was, and trained on. Widths are joined by maps whose rows add up to one; for widths that do not halve exactly (a
gated MLP's) the map shares neighbours by overlap. Layers are joined in pairs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.ladder import Rung
from windtunnel.parts.schedules.faster import Faster
from windtunnel.recipe import Recipe, Stretch, Weights

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK = re.compile(r"^(.*?\.)(\d+)(\..*)$")


@dataclass(frozen=True, kw_only=True)
class VCycle:
    """Large, small, large: the shares of the tokens that the first two take, and how the grown network is mixed in."""

    first: float = 0.1
    small: float = 0.5
    faster: float = 2.0  # the small network's learning rate over the large one's (the paper's GPT-2 example has 4)
    mixed: float = 0.5  # share of the grown network; 0.25 in the paper for BERT, 0.5 here is a guess

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """Three stretches; the tokens together are those of the rung."""
        if rung.width % 2 or (rung.heads % 2 and rung.heads > 1):
            raise InputError(f"A V-cycle halves width and heads; {rung} has {rung.heads} heads: give an even number.")
        half = rung.but(width=rung.width // 2, depth=ceil(rung.depth / 2), heads=max(1, rung.heads // 2))
        parts = [round(rung.tokens * share) for share in (self.first, self.small)]
        head = rung.width // rung.heads if rung.heads > 1 else 1  # a single head is halved inside
        shapes = (partial(_shapes, recipe, rung), partial(_shapes, recipe, half))
        quick = recipe.but(schedule=Faster(schedule=recipe.schedule, factor=self.faster))
        return (
            Stretch(name="first", recipe=recipe, rung=rung.but(tokens=parts[0])),
            Stretch(
                name="small",
                recipe=quick,
                rung=half.but(tokens=parts[1]),
                start=lambda ended: resized(ended["first"], shapes[1](), rung.depth, half.depth, head),
            ),
            Stretch(
                name="last",
                recipe=recipe,
                rung=rung.but(tokens=rung.tokens - sum(parts)),
                start=lambda ended: self._grown(ended, shapes[0](), half.depth, rung.depth, head),
            ),
        )

    def _grown(self, ended: Mapping[str, Weights], shapes: Shapes, small: int, large: int, head: int) -> Weights:
        grown = resized(ended["small"], shapes, small, large, head)
        return {name: torch.lerp(old, grown[name], self.mixed) for name, old in ended["first"].items()}


def v_cycle(base: Recipe) -> Recipe:
    """Training most of the tokens at half the width and depth reaches the same loss with fewer FLOPs."""
    return base.but(phases=VCycle())


def resized(weights: Weights, shapes: Shapes, depth: int, wanted: int, head: int = 1) -> dict[str, Tensor]:
    """A network's weights for another width and depth: outputs averaged or copied, inputs so that sums stay.

    `shapes` by name are those wanted, `depth` and `wanted` the layers that there are and shall be, `head` is a head's
    width: heads are joined whole.
    """
    found = {}
    for name, shape in shapes.items():
        tensor = torch.stack([weights[source] for source in _layers(name, depth, wanted)]).mean(0)
        for axis, size in enumerate(shape):
            if tensor.shape[axis] != size:
                within = head if "attention." in name and (axis == 1) == (".out." in name) else 1
                tensor = _along(tensor, axis, size, within, sums=axis == 1 and "embedding" not in name)
        found[name] = tensor
    return found


def _layers(name: str, depth: int, wanted: int) -> list[str]:
    """The names of the tensors, in a stack `depth` deep, that stand where `name` does in one `wanted` deep."""
    found = _BLOCK.match(name)
    if found is None or depth == wanted:
        return [name]
    before, index, after = found[1], int(found[2]), found[3]
    lower, upper = index * depth / wanted, (index + 1) * depth / wanted
    return [f"{before}{i}{after}" for i in range(int(lower), max(int(lower) + 1, ceil(upper - 1e-9)))]


def _along(tensor: Tensor, axis: int, size: int, within: int, sums: bool) -> Tensor:
    """An axis brought to `size`, in units of `within`; `sums`: so that sums over it stay, else its values."""
    units = tensor.unflatten(axis, (-1, within))
    shared = overlap(units.shape[axis], size // within).to(tensor)  # (units, old units), rows add up to one
    if sums:
        shared = shared * (tensor.shape[axis] / size)
    return (units.movedim(axis, -1) @ shared.T).movedim(-1, axis).flatten(axis, axis + 1)


def overlap(old: int, new: int) -> Tensor:
    """How much of each of `new` equal pieces of a line is covered by each of `old` ones, (new, old); rows sum to 1."""
    edges = torch.arange(new + 1, dtype=torch.float64) / new
    olds = torch.arange(old + 1, dtype=torch.float64) / old
    low = torch.maximum(edges[:-1, None], olds[None, :-1])
    high = torch.minimum(edges[1:, None], olds[None, 1:])
    return (high - low).clamp(min=0) * new


def _shapes(recipe: Recipe, rung: Rung) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = recipe.model.build(rung, recipe.data.shape())
        for transform in recipe.transforms:
            model = transform(model)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
