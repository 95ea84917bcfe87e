"""Updates of tensors of which every process has a part, all together: each sum over the processes is one collective.

An optimizer's `divided(site, dim)` says how it moves such a part: an object with `axes` (which axis of each leaf of
the state the processes share, and how long it is in all), `init(param)` and `update(grad, state, param, hp)`, a
generator that yields tensors to be summed over the processes, is sent the sums, and returns (step, state). All tensors'
generators go on together, so that a step takes as many collectives as one of them yields. A newcomer would sum tensor
by tensor: a model has hundreds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from windtunnel.recipe import Site

Tree = dict[str, Tensor]
Sums = Generator[list[Tensor], list[Tensor], tuple[Tensor, Tree]]


@dataclass(frozen=True)
class Share:
    """Processes share axis `dim` of a tensor, over dimension `over` of their mesh; `group` is theirs."""

    dim: int
    over: int
    group: Any
    world: int


@dataclass(frozen=True)
class Divided:
    """How a part updates this process's part of a tensor, and where that lies."""

    rule: Any
    share: Share

    def closed(self, leaf: str, value: Tensor, like: Any) -> Any:
        """A leaf of the state as the processes hold it together; one that is alike on all stays as it is."""
        from torch.distributed.tensor import DTensor, Shard

        if leaf not in self.rule.axes:
            return value
        axis, length = self.rule.axes[leaf]
        placements = list(like.placements)
        placements[self.share.over] = Shard(axis)
        shape = (*value.shape[:axis], length, *value.shape[axis + 1 :])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            value, like.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
        )


def whole_here(param: Any) -> bool:
    """Whether every process has the whole of a DTensor, so that all may do the same with it."""
    return all(placement.is_replicate() for placement in param.placements)


def gradient_here(param: Any) -> Tensor:
    """What this process has of a DTensor's gradient, placed as the DTensor is.

    Of a weight that all have, each may have its own share of the sum (tensor parallelism: a norm over a cut sequence).
    """
    grad = param.grad.detach()
    if tuple(grad.placements) != tuple(param.placements):
        grad = grad.redistribute(placements=param.placements)
    return grad.to_local()


def divided_of(part: Any, site: Site, param: Any) -> Divided | None:
    """How a part updates a DTensor in parts; None where it does not, or the tensor is cut in another way than by one
    axis."""
    from torch.distributed.tensor import Shard

    cut = [index for index, placement in enumerate(param.placements) if not placement.is_replicate()]
    if not hasattr(part, "divided") or len(cut) != 1 or type(param.placements[cut[0]]) is not Shard:
        return None
    mesh, over = param.device_mesh, cut[0]
    dim, world = param.placements[over].dim, mesh.size(over)
    rule = part.divided(site, dim)
    even = param.shape[dim] % world == 0  # torch cuts an axis into equal pieces but for the last; a product of axes not
    if rule is None or not (even or all(length == param.shape[dim] for _, length in rule.axes.values())):
        return None
    return Divided(rule, Share(dim, over, mesh.get_group(over), world))


def together(updates: Sequence[tuple[Sums, Share]]) -> Iterator[tuple[int, tuple[Tensor, Tree]]]:
    """Each update's place and what it returns, as it ends, having summed for all at once as often as they ask.

    Use what comes and drop it, so that the steps of a whole model are never there at once. Updates end in the same
    order on all processes; go through all of them, for sums of later ones may follow.
    """
    given: dict[int, list[Tensor] | None] = dict.fromkeys(range(len(updates)))
    while given:
        asked: dict[int, list[Tensor]] = {}
        for index, sums in given.items():
            try:
                asked[index] = updates[index][0].send(sums)  # pyright: ignore[reportArgumentType]  None begins it
            except StopIteration as done:
                yield index, done.value
        given = dict(_summed({index: (tensors, updates[index][1]) for index, tensors in asked.items()}))


def _summed(asked: Mapping[int, tuple[list[Tensor], Share]]) -> dict[int, list[Tensor]]:
    """All tensors, summed over the processes of their group: one row of numbers and one collective for each group."""
    import torch.distributed as dist

    found: dict[int, list[Tensor]] = {}
    for group in {id(share.group): share.group for _, share in asked.values()}.values():
        ours = {index: tensors for index, (tensors, share) in asked.items() if share.group is group}
        tensors = [tensor for each in ours.values() for tensor in each]
        row = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(row, group=group)
        parts = iter(torch.split(row, [tensor.numel() for tensor in tensors]))
        found |= {index: [next(parts).view_as(tensor) for tensor in each] for index, each in ours.items()}
    return found
