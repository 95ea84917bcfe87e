"""C43: LoRA-SB (2411.19557): of W + B R A only R is trained, in the plane that the first step of fine-tuning spans.

Read: the abstract and the introduction; the construction as restated in our facts and public descriptions of it. B and
A are the singular vectors of the first update of full fine-tuning, that of Adam, so the sign of the averaged gradient
times the learning rate; R begins as its largest singular values: the adapted network begins where that step, cut to the
rank, leads. A newcomer would give R a scale of its own: orthonormal B and A make it the gradient's best projection.
`python -m studies.gallery` sets it beside LoRA (`low_rank_adaptation`) and the same R in a random plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from windtunnel.parts.phases import Adapting
from windtunnel.parts.transforms import LowRank
from windtunnel.recipe import Recipe, Weights

EXAMPLES = 64  # that the first step is averaged over; the paper takes a thousandth of the data set


@dataclass(frozen=True, kw_only=True)
class OfFirstStep:
    """left, core and right of every matrix from its first step of full fine-tuning, cut to `rank`."""

    rank: int
    where: str = "blocks."

    def __call__(self, ended: Mapping[str, Weights]) -> Weights:
        """Values of the new tensors by name."""
        before, after = ended["pretrained"], ended["one step"]
        found: dict[str, Tensor] = {}
        for name in _matrices(before, self.where):
            left, sizes, right = torch.linalg.svd(after[name] - before[name], full_matrices=False)
            found |= _three(name, left[:, : self.rank], sizes[: self.rank].diag(), right[: self.rank])
        return found


@dataclass(frozen=True, kw_only=True)
class AtRandom:
    """The same three with a random orthonormal plane, the core zero: the arm that tells what the plane is worth."""

    rank: int
    where: str = "blocks."

    def __call__(self, ended: Mapping[str, Weights]) -> Weights:
        """Values of the new tensors by name; the same for every run."""
        found: dict[str, Tensor] = {}
        draw = torch.Generator().manual_seed(0)
        for name, weight in sorted(_matrices(ended["pretrained"], self.where).items()):
            out, within = weight.shape
            left, right = (torch.linalg.qr(torch.randn(n, self.rank, generator=draw))[0] for n in (out, within))
            found |= _three(name, left, torch.zeros(self.rank, self.rank), right.T)
        return found


def _matrices(weights: Weights, where: str) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if name.startswith(where) and weight.ndim == 2}


def _three(name: str, left: Tensor, core: Tensor, right: Tensor) -> dict[str, Tensor]:
    # laid out as a checkpoint lays them out, so that a resumed run has the same bits
    layer = name.removesuffix("weight")
    found = {f"{layer}left": left, f"{layer}core": core, f"{layer}right": right}
    return {each: tensor.contiguous() for each, tensor in found.items()}


def lora_sb(base: Recipe, rank: int = 8) -> Recipe:
    """A core of rank x rank numbers in the plane of the first fine-tuning step adapts as well as LoRA does."""
    core = LowRank(of=base.model, rank=rank, core=True, where="blocks.*")
    begin = OfFirstStep(rank=rank)
    return base.but(phases=Adapting(transforms=(core,), trained="*.core", begin=begin, step_of=EXAMPLES))


def random_basis(base: Recipe, rank: int = 8) -> Recipe:
    """The same core in a random plane: the arm that tells what the plane of the first step is worth."""
    core = LowRank(of=base.model, rank=rank, core=True, where="blocks.*")
    return base.but(phases=Adapting(transforms=(core,), trained="*.core", begin=AtRandom(rank=rank)))


def low_rank_adaptation(base: Recipe, rank: int = 8) -> Recipe:
    """LoRA: thin matrices beside frozen weights adapt as well as all weights do."""
    thin = LowRank(of=base.model, rank=rank, where="blocks.*")
    return base.but(phases=Adapting(transforms=(thin,), trained="*.left,*.right"))
