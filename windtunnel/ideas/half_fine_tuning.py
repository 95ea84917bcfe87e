"""C9: HFT, half fine-tuning (2404.18466). Each round trains a random half of the matrices and freezes the other.

Read: the abstract and the method's section on selection as restated in our facts: halves are balanced within every
layer over attention, feed-forward and norms. Here tensors are paired by block and by role, and of each pair one is
trained; a round is a stretch of training. A newcomer would draw each tensor by a coin, which unbalances small networks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Recipe, Site, tuned


@dataclass(frozen=True, kw_only=True)
class HalfAdamW:
    """AdamW on half of the tensors, another half in every stretch."""

    lr: float = tuned(1e-4, 1e-1)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0

    geometry = "entrywise"

    def numbers(self, tensors: Mapping[str, Site], seed: int, stretch: int) -> dict[str, dict[str, float]]:
        """Which tensors are trained: 1 or 0 by name, a half of every block's and role's."""
        kinds: dict[tuple[str, str], list[str]] = {}
        for name, site in tensors.items():
            kinds.setdefault((re.sub(r"[^.]*$", "", _block(name)), site.role), []).append(name)
        draw, chosen, over = random.Random(f"{seed} {stretch}"), set[str](), False
        for names in kinds.values():
            odd, over = len(names) % 2, over != bool(len(names) % 2)
            chosen |= set(draw.sample(sorted(names), len(names) // 2 + (odd and over)))
        return {name: {"trained": float(name in chosen)} for name in tensors}

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """AdamW's."""
        return AdamW().init(param, site)

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """AdamW's step, or none."""
        step, state = AdamW().update(grad, state, param, hp, site)
        return step * hp["trained"], state


def _block(name: str) -> str:
    """The numbered block that a tensor stands in, by name: "blocks.3." of "blocks.3.attention.query.weight"."""
    found = re.match(r"(.*?\.\d+\.)", name)
    return found.group(1) if found else ""


def half_fine_tuning(base: Recipe) -> Recipe:
    """Training only a random half of the weights in each round forgets less of what was learned before."""
    return base.but(optimizer=HalfAdamW())
