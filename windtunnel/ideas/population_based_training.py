"""B53: population based training (1711.09846).

Read: the abstract, algorithm 1 and the appendix's settings as restated in our facts: truncation selection (who is among
the worst fifth copies weights and numbers of one of the best fifth) and numbers perturbed by 0.8 or 1.2. A population
is one run here, paid whole: its members train side by side on the same data, at constant rates, and are compared by
their losses on training batches before they learn from them, never by the judge's. A newcomer would say that it costs
what one member costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.ladder import Rung
from windtunnel.parts.schedules.constant import Constant
from windtunnel.parts.schedules.faster import PartOf
from windtunnel.recipe import Recipe, Stretch, Told, tuned

Range = tuple[str, float, float]  # a number field of the optimizer, and where its first values are drawn


@dataclass(frozen=True, kw_only=True)
class Population:
    """`members` trained for `generations`; after each, a share `replaced` of them goes on from better ones.

    First values are drawn evenly in the logarithm of `ranges`. With `replaced` 0 it is random search.
    """

    ranges: tuple[Range, ...]
    members: int = 8
    generations: int = 8
    replaced: float = 0.25  # the paper's 0.2 of 8 members is less than two
    factors: tuple[float, float] = (0.8, 1.2)

    @property
    def cost(self) -> float:
        """Every member trains for the whole horizon."""
        return float(self.members)

    def stretches(self, recipe: Recipe, rung: Rung) -> Sequence[Stretch]:
        """All generations with the first one's values: what it will cost."""
        first = self._first(0)
        return [
            self._stretch(recipe, rung, g, m, first[m]) for g in range(self.generations) for m in range(self.members)
        ]

    def ask(self, recipe: Recipe, rung: Rung, told: Sequence[Told], seed: int) -> Sequence[Stretch]:
        """The next generation: worse members as perturbed copies of better ones, the others as they were."""
        generation = len(told) // self.members
        if not told:
            first = self._first(seed)
            return [self._stretch(recipe, rung, 0, m, first[m]) for m in range(self.members)]
        last = told[-self.members :]
        if generation == self.generations or all(t.diverged for t in last):
            return []
        parents, chance = self._parents(last, seed, generation), np.random.default_rng((seed, generation, 1))
        asked = []
        for member, parent in enumerate(parents):
            values = dict(last[parent].stretch.values or {})
            if parent != member:
                values = {name: value * float(chance.choice(self.factors)) for name, value in values.items()}
            asked.append(self._stretch(recipe, rung, generation, member, values, last[parent].stretch.name))
        return asked

    def chosen(self, told: Sequence[Told]) -> str:
        """The best of the last generation."""
        last = told[-self.members :]
        return last[min(range(len(last)), key=lambda m: loss_of(last[m]))].stretch.name

    def _parents(self, last: Sequence[Told], seed: int, generation: int) -> list[int]:
        chance = np.random.default_rng((seed, generation, 0))
        order = sorted(range(self.members), key=lambda m: loss_of(last[m]))
        count, parents = int(self.replaced * self.members), list(range(self.members))
        lost = [m for m in order if last[m].diverged]
        for member in dict.fromkeys([*order[self.members - count :], *lost]):
            well = [m for m in order[: max(count, 1)] if not last[m].diverged]
            parents[member] = int(chance.choice(well))
        return parents

    def _first(self, seed: int) -> list[dict[str, float]]:
        chance = np.random.default_rng(seed)
        draws = chance.uniform(size=(self.members, len(self.ranges)))
        return [
            {name: float(low * (high / low) ** u) for (name, low, high), u in zip(self.ranges, row, strict=True)}
            for row in draws
        ]

    def _stretch(
        self, recipe: Recipe, rung: Rung, generation: int, member: int, values: Mapping[str, float],
        fork: str | None = None,
    ) -> Stretch:  # fmt: skip
        edges = [round(rung.tokens * g / self.generations) for g in (generation, generation + 1)]
        part = PartOf(
            schedule=recipe.schedule, begins=generation / self.generations, ends=(generation + 1) / self.generations
        )
        open_ = {name: tuned(low, high) for name, low, high in self.ranges}
        return Stretch(
            name=f"generation {generation} member {member}",
            recipe=recipe.but(optimizer=replace(recipe.optimizer, **open_), schedule=part),
            rung=rung.but(tokens=edges[1] - edges[0]),
            fork=fork,
            values=values,
        )


def loss_of(told: Told) -> float:
    """Mean training loss over the later half of a stretch; infinite for one that diverged."""
    half = told.losses[len(told.losses) // 2 :]
    return float("inf") if told.diverged else float(half.mean())


def population_based_training(base: Recipe) -> Recipe:
    """A population that copies its best members finds a schedule better than the best of as many random settings."""
    return base.but(**_closed(base), schedule=Constant(), phases=Population(ranges=_ranges(base)))


def random_search(base: Recipe) -> Recipe:
    """The same first settings, each kept to the end: the arm that population based training is compared with."""
    return base.but(**_closed(base), schedule=Constant(), phases=Population(ranges=_ranges(base), replaced=0.0))


def _ranges(base: Recipe) -> tuple[Range, ...]:
    """The optimizer's open fields."""
    own = vars(base.optimizer)
    return tuple((name, field.low, field.high) for name, field in base.tuned_fields().items() if name in own)


def _closed(base: Recipe) -> dict[str, object]:
    middle = {name: (low * high) ** 0.5 for name, low, high in _ranges(base)}
    return {"optimizer": replace(base.optimizer, **middle)}
