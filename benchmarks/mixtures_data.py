"""Every mixture of a grid as one data plan, so that runs of different mixtures fill one pack: the seed says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.parts.data.mixed import Mixed
from windtunnel.recipe import DataShape


@dataclass(frozen=True)
class BySeed:
    """All mixtures of the grid as one plan: a seed is 1000 times a mixture's place, and one of its own, so that runs of
    different mixtures fill one pack."""

    plans: tuple[Any, ...]
    grid: tuple[tuple[float, ...], ...]
    parts: int
    repeat: bool = False

    def mixture(self, seed: int) -> Any:
        """The mixture of a seed."""
        return Mixed(self.plans, self.grid[seed // 1000])

    def shape(self) -> DataShape:
        """As the plans', as long as the shortest."""
        return replace(self.plans[0].shape(), train_tokens=min(plan.shape().train_tokens for plan in self.plans))

    def fingerprint(self) -> str:
        """Of the plans and the grid."""
        return f"by seed {self._equal().fingerprint()} {self.parts}"

    def batch(self, *, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A step of the seed's own mixture."""
        return self.mixture(seed).batch(seed=seed % 1000, step=step, size=size)

    def held_out(self, *, size: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Equal parts of all."""
        return self._equal().held_out(size=size, tokens=tokens)

    def _equal(self) -> Mixed:
        return Mixed(self.plans, (1 / len(self.plans),) * len(self.plans))
