"""A learned optimizer that is watched: where its step or the loss leaps, another rule steps in for a while.

Learned rules fail by leaping, outside of what they were trained on (LAgg's reviews, Celo's AlgoPerf record). The guard
looks at each tensor's own step, beside what is usual for it, and at the loss where the training loop tells it. A
newcomer would catch what is not finite: by then the weights are gone. Both rules see every gradient, so the one that
steps in has its moments ready; that costs its state (Adam: two numbers a weight) and its arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.recipe import Parametrization, Site

USUAL = 0.9  # weight of what was usual before, a step (guess)
SETTLING = 10  # steps after which there is a usual size (guess: the features of time settle within it)


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """`learned`, and `otherwise` at `fallback_lr` for `hold` steps after a leap.

    A leap is a step that is not finite, or whose root mean square is over `most` times what is usual for the tensor;
    where the loop tells the loss (`hp["loss"]`), also a loss over `spike` times the lowest smoothed one. The rates of
    `otherwise` are found as for itself. Raises InputError for factors of 1 and less.
    """

    learned: Any
    fallback_lr: float
    otherwise: AdamW = AdamW(lr=1.0)  # noqa: RUF009  its lr is not read
    lr: float = 1.0
    weight_decay: float = 0.0
    most: float = 10.0
    spike: float = 3.0
    hold: int = 20

    geometry = "entrywise"

    def __post_init__(self) -> None:
        if not (self.most > 1 and self.spike > 1 and self.hold >= 1):
            raise InputError(
                f"Guarded(most={self.most}, spike={self.spike}, hold={self.hold}): a leap is more than 1 times what is "
                f"usual, and holds for a step or more."
            )

    @property
    def parametrization(self) -> Parametrization:
        """The learned rule's."""
        return self.learned.parametrization

    @property
    def identity(self) -> str:
        """The learned rule's, guarded."""
        return f"guarded {self.learned.identity}"

    def remark(self, steps: int) -> str:
        """What the learned rule has to say."""
        return self.learned.remark(steps)

    def suits(self, parametrization: Any) -> None:
        """As the learned rule's."""
        self.learned.suits(parametrization)

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """Both rules' states; the usual size of a step, the lowest smoothed loss, and what is left of a hold."""
        both = {f"learned_{n}": t for n, t in self.learned.init(param, site).items()}
        both |= {f"otherwise_{n}": t for n, t in self.otherwise.init(param, site).items()}
        zero = param.new_zeros(())
        own = {
            "steps": zero,
            "usual": zero,
            "smoothed": zero,
            "lowest": zero + float("inf"),
            "left": zero,
            "held": zero,
        }
        return both | {name: value.clone() for name, value in own.items()}

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The step of the rule whose turn it is, and the new state; `held` counts the steps of the other one."""
        move, learned = self.learned.update(grad, _of(state, "learned_"), param, hp, site)
        instead, otherwise = self.otherwise.update(grad, _of(state, "otherwise_"), param, self._other(hp), site)
        leapt, seen = self._leapt(move, state, hp)
        left = torch.where(leapt, torch.full_like(state["left"], self.hold), (state["left"] - 1).clamp(min=0))
        new = {f"learned_{n}": t for n, t in learned.items()} | {f"otherwise_{n}": t for n, t in otherwise.items()}
        new |= seen | {"steps": state["steps"] + 1, "left": left, "held": state["held"] + (left > 0)}
        return torch.where(left > 0, instead, move), new

    def _leapt(
        self, move: Tensor, state: Mapping[str, Tensor], hp: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Whether the step or the loss leaps, and what is usual from here on."""
        size = move.square().mean().sqrt() / hp["lr"].to(move.dtype).clamp(min=1e-30)
        usual, settled = state["usual"], state["steps"] >= SETTLING
        leapt = ~torch.isfinite(size) | (settled & (size > self.most * usual))
        first = state["steps"] == 0
        kept = torch.where(first, size, USUAL * usual + (1 - USUAL) * size)
        seen = {"usual": torch.where(leapt, usual, kept), "smoothed": state["smoothed"], "lowest": state["lowest"]}
        if "loss" in hp:
            loss = hp["loss"].to(move.dtype)
            smoothed = torch.where(first, loss, USUAL * state["smoothed"] + (1 - USUAL) * loss)
            spiked = ~torch.isfinite(loss) | (settled & (loss > self.spike * state["lowest"]))
            seen["smoothed"] = torch.where(torch.isfinite(smoothed), smoothed, state["smoothed"])
            seen["lowest"] = torch.minimum(state["lowest"], seen["smoothed"])
            leapt = leapt | spiked
        return leapt, seen

    def _other(self, hp: Mapping[str, Tensor]) -> dict[str, Any]:
        """The numbers of the rule that steps in; weights shrink as they would have."""
        fixed = {f.name: getattr(self.otherwise, f.name) for f in fields(self.otherwise)}
        decay = hp["weight_decay"] * hp["lr"] / hp["fallback_lr"]
        return fixed | {"lr": hp["fallback_lr"], "weight_decay": decay}


def _of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
