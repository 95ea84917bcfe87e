"""C12: model soups (2203.05482): average the weights of runs that part from one checkpoint.

Read: the abstract and section 3 as restated in our facts. Here a trunk is trained, several decays branch off it at
different heights of the learning rate, and the uniform soup of their weights is what is judged. The greedy soup is not
here: it chooses by validation loss, which is the judge's. A newcomer would average runs from different starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from windtunnel.ladder import Rung
from windtunnel.parts.schedules.faster import Faster, PartOf
from windtunnel.recipe import Recipe, Stretch, Weights


@dataclass(frozen=True, kw_only=True)
class Soup:
    """A trunk for `trunk` of the tokens; the rest is shared evenly by branches, one a height of the learning rate."""

    trunk: float = 0.7
    heights: tuple[float, ...] = (0.5, 1.0, 2.0)

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """Trunk, branches, and a last step of no learning rate that makes the soup."""
        step = (rung.batch or 1) * recipe.data.shape().tokens_per_example
        branch = int((rung.tokens * (1 - self.trunk) - step) / len(self.heights))
        done = self.trunk
        begin = recipe.but(schedule=PartOf(schedule=recipe.schedule, ends=done))
        ends = PartOf(schedule=recipe.schedule, begins=done)
        branches = [
            Stretch(
                name=f"branch {i}",
                recipe=recipe.but(schedule=Faster(schedule=ends, factor=height)),
                rung=rung.but(tokens=branch),
                start=_from_trunk,
            )
            for i, height in enumerate(self.heights)
        ]
        last = Stretch(
            name="soup",
            recipe=recipe.but(schedule=Still()),
            rung=rung.but(tokens=step),
            start=_soup,
        )
        return [Stretch(name="trunk", recipe=begin, rung=rung.but(tokens=round(done * rung.tokens))), *branches, last]


@dataclass(frozen=True)
class Still:
    """A learning rate of zero."""

    def __call__(self, tokens: float, horizon: float) -> float:
        """Zero."""
        return 0.0


def model_soup(base: Recipe) -> Recipe:
    """Averaging the weights of several decays of one trunk is better than any of them, at no cost when it is used."""
    return base.but(phases=Soup())


def _from_trunk(ended: Mapping[str, Weights]) -> Weights:
    return ended["trunk"]


def _soup(ended: Mapping[str, Weights]) -> Weights:
    branches = [weights for name, weights in ended.items() if name.startswith("branch")]
    return {name: torch.stack([weights[name] for weights in branches]).mean(0) for name in branches[0]}
