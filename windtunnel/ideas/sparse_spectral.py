"""C26: sparse spectral training, SST (2405.15481): train all singular values, and a few singular vectors at a time.

Read: the abstract; the mechanism as restated in our facts (the paper's algorithm was not stored, so how long a round is
and what is reset are guesses). A matrix is held as U diag(s) V^T. Every step moves all of s; of the vectors a few are
drawn for a round, without putting back and in proportion to s, and follow their gradient without the factor s, kept at
length one. After some rounds a new decomposition makes the vectors orthonormal again. As an optimizer: the factors are
its state, and its step is where they lead, so the losses are the paper's and the memory is not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, zeros_like

from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Recipe, Site, tuned

HUGE = 1e6  # a weight beyond has diverged, and a decomposition need not bear it
PARTS = ("left", "values", "right")


@dataclass(frozen=True, kw_only=True)
class SparseSpectral:
    """SST on hidden matrices, AdamW on all else. `share`: of the vectors, trained in a round of `round_steps` steps."""

    lr: float = tuned(1e-4, 3e-2)  # beyond, drawn vectors turn by a right angle in a few steps
    share: float = 1 / 8
    round_steps: float = 16.0  # guess
    rounds: float = 2.0  # guess: that many, then a new decomposition
    turn: float = 8.0  # a round's vectors' largest step over a singular value's
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0

    def geometry(self, site: Site) -> str:
        """The singular values of a hidden matrix's step are about lr; AdamW's steps are entrywise."""
        return "orthogonal" if site.role == "hidden" else "entrywise"

    def numbers(self, tensors: Mapping[str, Site], seed: int, stretch: int) -> dict[str, dict[str, float]]:
        """A number of each tensor's own that its draws come from."""
        draw = random.Random(f"{seed} {stretch}")
        return {name: {"key": draw.uniform(0, 1000)} for name in tensors}

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """The factors and their moments; AdamW's state for other tensors."""
        if site.role != "hidden":
            return AdamW().init(param, site)
        factors = _factors(param)
        moments = {f"{what}_{name}": zeros_like(t) for name, t in factors.items() for what in ("mean", "square")}
        return factors | moments | {"drawn": zeros_like(factors["values"]), "steps": param.new_zeros(())}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """To where the factors lead."""
        if site.role != "hidden":
            return AdamW().update(grad, state, param, hp, site)
        steps, into = state["steps"], state["steps"] % self.round_steps
        left, values, right = (state[name] for name in PARTS)
        anew = self._draw(values, hp["key"], (steps / self.round_steps).floor()).to(grad)
        drawn = torch.where(into > 0, state["drawn"], anew)  # a round keeps its vectors, whatever their values become
        wanted = {"left": grad @ right, "values": (left.T @ grad @ right).diagonal(), "right": grad.T @ left}
        began = steps % (self.round_steps * self.rounds)  # moments of values last as long as their basis
        found: dict[str, Tensor] = {}
        for name, toward in wanted.items():
            since = began if name == "values" else into
            kept = (since > 0).to(grad)
            mean = hp["beta1"] * state[f"mean_{name}"] * kept + (1 - hp["beta1"]) * toward
            square = hp["beta2"] * state[f"square_{name}"] * kept + (1 - hp["beta2"]) * toward * toward
            root = (square / (1 - hp["beta2"] ** (since + 1))).sqrt() + 1e-12
            step = mean / (1 - hp["beta1"] ** (since + 1)) / root
            if name == "values":
                found[name] = values - hp["lr"] * (step + hp["weight_decay"] * values)
            else:
                moved = state[name] - hp["lr"] * self.turn * (len(toward) * self.count(values)) ** -0.5 * drawn * step
                found[name] = torch.where(drawn > 0, moved / moved.norm(dim=0).clamp(min=1e-12), state[name])
            found |= {f"mean_{name}": mean, f"square_{name}": square}
        weight = found["left"] * found["values"] @ found["right"].T
        fresh, over = _factors(weight), began + 1 >= self.round_steps * self.rounds
        found |= {"drawn": drawn} | {name: torch.where(over, fresh[name], found[name]) for name in PARTS}
        found = {name: found[name].to(state[name].dtype) for name in found} | {"steps": steps + 1}
        return (weight - param).to(param.dtype), found

    def _draw(self, values: Tensor, key: Tensor, number: Tensor) -> Tensor:
        """1 for the vectors of a round: the largest of log s and Gumbel noise, a draw in proportion to s."""
        index = torch.arange(len(values), device=values.device, dtype=torch.float64)
        noise = torch.sin(key + 12.9898 * index + 78.233 * number) * 43758.5453
        noise = (noise - noise.floor()).clamp(1e-9, 1 - 1e-9)
        score = values.abs().clamp(min=1e-12).log() - (-noise.log()).log()
        return score >= score.topk(self.count(values)).values[-1]

    def count(self, values: Tensor) -> int:
        """How many vectors a round trains."""
        return max(1, round(self.share * len(values)))


def _factors(weight: Tensor) -> dict[str, Tensor]:
    bounded = torch.nan_to_num(weight, 0.0, HUGE, -HUGE).clamp(-HUGE, HUGE)
    left, values, right = torch.linalg.svd(bounded, full_matrices=False)
    # laid out as a checkpoint lays them out, so that a resumed run has the same bits
    return {"left": left.contiguous(), "values": values, "right": right.mT.contiguous()}


def sparse_spectral(base: Recipe) -> Recipe:
    """Training all singular values and an eighth of the vectors at a time comes close to training all weights."""
    return base.but(optimizer=SparseSpectral())
