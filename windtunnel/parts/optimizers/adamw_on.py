"""AdamW on some tensors, by name; the others stay as they are.

A newcomer would take the others' gradients away: they are computed and counted as of any network, and not used.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from windtunnel.errors import InputError
from windtunnel.parts.optimizers.adamw import AdamW
from windtunnel.recipe import Site, tuned


@dataclass(frozen=True, kw_only=True)
class AdamWOn:
    """AdamW on the tensors whose name matches one of `where` (patterns, or one with commas between them).

    Raises InputError where no tensor does.
    """

    where: str = "*"
    lr: float = tuned(1e-4, 1e-1)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0

    geometry = "entrywise"

    def numbers(self, tensors: Mapping[str, Site], seed: int, stretch: int) -> dict[str, dict[str, float]]:
        """`trained`: 1 or 0 by name."""
        patterns = [pattern.strip() for pattern in self.where.split(",")]
        found = {name: any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in tensors}
        if not any(found.values()):
            raise InputError(
                f"AdamWOn(where={self.where!r}) trains nothing: no tensor has such a name. They are called "
                f"{', '.join(sorted(tensors)[:4])} and so on."
            )
        return {name: {"trained": float(trained)} for name, trained in found.items()}

    def init(self, param: Tensor, site: Site) -> dict[str, Tensor]:
        """AdamW's."""
        return AdamW().init(param, site)

    def update(
        self, grad: Tensor, state: dict[str, Tensor], param: Tensor, hp: Mapping[str, Tensor], site: Site
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """AdamW's step, or none."""
        step, state = AdamW().update(grad, state, param, hp, site)
        return step * hp["trained"], state
