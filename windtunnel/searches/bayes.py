"""Which run to buy next: multi-fidelity Bayesian optimisation, settings by size, information for its price.

`ask(told)` is a pure function of what has been told: it returns the points to train next, and none when the budget is
spent, so that a search goes on from any store of runs. A cheap small run is bought until a larger one tells more for
its FLOPs (max-value entropy over cost, BoTorch). A newcomer would read the best loss told; runs of different sizes
cannot be compared, so `best` asks the surrogate at the target's.

After ADMIRE-BayesOpt (2508.11551; its abstract and project page were read): mixture weights as a black box, model size
as fidelity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.searches.space import Space
from windtunnel.searches.surrogate import FEWEST, Surrogate, fit_surrogate, inputs, torch_quiet
from windtunnel.searches.trend import Mean

SAME = 1e-9  # settings that differ by less in every direction, each between 0 and 1, are one
DRAWN = 256  # candidates at each ask (guess; max-value entropy also samples the best value among them)


@dataclass(frozen=True)
class Point:
    """A setting by name, and the place of the fidelity at which it is to be trained."""

    values: Mapping[str, float]
    fidelity: int = 0


@dataclass(frozen=True)
class Told:
    """What a run of a point came to; `loss` None where it diverged. `parts` are losses on parts of what is judged, by
    name (`probes.LossOn`), for a mean that knows them."""

    point: Point
    loss: float | None
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bayes:
    """A search over `space` whose runs cost `costs` FLOPs at each fidelity, the target's last, until `budget` is spent.

    `first` points are spread over the space at the lowest fidelity, and one more at each higher one; then
    `q` points are asked for at a time. Where the space has hyperparameters, the q points have one mixture and one
    fidelity, so that they fill one pack. `mean` makes a prior mean of what has been told (`MixtureMean`). `candidates`
    are the only settings allowed, None: any. `repeats` is how many runs of one setting and size may be bought, for each
    of which you draw a new seed; None: any number. It binds candidates; other settings hardly recur.
    """

    space: Space
    costs: tuple[float, ...]
    budget: float
    first: int = 6
    q: int = 1
    mean: Callable[[Space, Sequence[Told]], Mean | None] | None = None
    candidates: tuple[Mapping[str, float], ...] | None = None
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        rising = all(0 < a < b for a, b in zip(self.costs, self.costs[1:], strict=False))
        if not self.costs or not rising or self.costs[0] <= 0:
            raise InputError(f"costs are {self.costs}; give the FLOPs of a run at each fidelity, rising to the target.")
        if not self.budget > 0 or self.first < 3 or self.q < 1 or (self.repeats is not None and self.repeats < 1):
            raise InputError(
                f"Bayes(budget={self.budget}, first={self.first}, q={self.q}, repeats={self.repeats}): the budget must "
                f"be positive, 3 points or more are needed to begin with, 1 or more at a time, and each once or more."
            )
        if self.budget < FEWEST * self.costs[0]:
            raise InputError(
                f"The budget {self.budget:g} buys fewer than {FEWEST} runs of {self.costs[0]:g}, without which nothing "
                f"is found. Give {FEWEST * self.costs[0]:g} or more, or a smaller first size."
            )

    def ask(self, told: Sequence[Told]) -> list[Point]:
        """The points to train next; empty when what is left of the budget buys none, or `repeats` forbids all."""
        self._check(told)
        left, known = self.budget - self.spent(told), [t.point for t in told]
        waiting = [point for point in self._first() if point not in known]
        if waiting:
            return self._affordable(waiting, left)
        if left < min(self.costs):
            return []
        return self._affordable(self._chosen(told, left), left)

    def spent(self, told: Sequence[Told]) -> float:
        """FLOPs of what has been told."""
        return float(sum(self.costs[t.point.fidelity] for t in told))

    def surrogate(self, told: Sequence[Told]) -> Surrogate:
        """The process fitted to what has been told; kept for a second question about the same."""
        key = (id(self), tuple((t.point.fidelity, t.loss, *t.point.values.values()) for t in told))
        if _last.get("key") != key:
            _last.update(key=key, found=self._surrogate(told))
        return _last["found"]

    def _surrogate(self, told: Sequence[Told]) -> Surrogate:
        mean = self.mean(self.space, told) if self.mean is not None else None
        losses = [np.inf if t.loss is None else t.loss for t in told]
        rows = self.space.rows([t.point.values for t in told])
        return fit_surrogate(rows, [t.point.fidelity for t in told], losses, self.fidelities, mean, self.seed)

    def best(self, told: Sequence[Told]) -> Point:
        """The setting with the lowest expected loss at the target's fidelity, its doubt added, among candidates and
        settings told. Without the doubt a corner that nothing is known of can be named (measured: two of six)."""
        self._check(told)
        rows = np.concatenate([self._candidates(len(told)), self.space.rows([t.point.values for t in told])])
        expected, doubt = self.surrogate(told).predict(rows, len(self.costs) - 1, noisy=False)
        return Point(self._named(rows[[int(np.argmin(expected + doubt))]])[0], len(self.costs) - 1)

    def _check(self, told: Sequence[Told]) -> None:
        for point in (each.point for each in told):
            if point.fidelity not in range(len(self.costs)):
                raise InputError(
                    f"A run was told of fidelity {point.fidelity!r}; costs name {len(self.costs)}, counted from 0. "
                    f"Tell the points that ask returned."
                )

    @property
    def fidelities(self) -> tuple[float, ...]:
        """Each fidelity as a number up to 1: the root of its share of the target's cost, about its share of width."""
        return tuple(float((cost / self.costs[-1]) ** 0.5) for cost in self.costs)

    def _first(self) -> list[Point]:
        found = []
        for place in range(len(self.costs)):
            count = self.first if place == 0 else 1
            found += [Point(values, place) for values in self._named(self._spread(count, place))]
        return found

    def _spread(self, count: int, place: int) -> np.ndarray:
        if self.candidates is None:
            return self.space.spread(count, self.seed + place)
        chosen = np.random.default_rng([self.seed, place]).permutation(len(self.candidates))[:count]
        return self.space.rows(self.candidates)[chosen]

    def _named(self, rows: np.ndarray) -> list[Mapping[str, float]]:
        """Rows by name; a candidate's as it was given, digit for digit."""
        if self.candidates is None:
            return list(self.space.points(rows))
        table = self.space.rows(self.candidates)
        return [self.candidates[int(np.argmin(np.abs(table - row).sum(axis=1)))] for row in rows]

    def _candidates(self, round_: int) -> np.ndarray:
        if self.candidates is not None:
            return self.space.rows(self.candidates)
        return self.space.spread(DRAWN, self.seed + 1000 + round_)

    def _affordable(self, points: Sequence[Point], left: float) -> list[Point]:
        found = []
        for point in points:
            left -= self.costs[point.fidelity]
            if left < 0:
                break
            found.append(point)
        return found

    def _chosen(self, told: Sequence[Told], left: float) -> list[Point]:
        """The most informative points for their price, one after another; the later ones know of the earlier."""
        surrogate, rows = self.surrogate(told), self._candidates(len(told))
        places = [place for place, cost in enumerate(self.costs) if cost <= left]
        found: list[tuple[np.ndarray, int]] = []
        for turn in range(self.q):
            if turn == 1 and self.space.shares and self.space.ranges:  # the rest of the pack: one mixture, one size
                rows, places = self._beside(found[0][0], len(told)), [found[0][1]]
            values = self._values(surrogate, rows, places, found, turn).reshape(len(places), len(rows))
            values = np.where(self._bought(told, found, rows, places), -np.inf, values)
            if not np.isfinite(values).any():
                break
            place, row = np.unravel_index(int(np.argmax(values)), values.shape)
            found.append((rows[row], places[place]))
            rows = np.delete(rows, row, axis=0) if len(rows) > 1 else rows
        return [Point(self._named(row[None])[0], place) for row, place in found]

    def _bought(
        self, told: Sequence[Told], chosen: Sequence[tuple[np.ndarray, int]], rows: np.ndarray, places: Sequence[int]
    ) -> np.ndarray:
        """Where a setting has been bought at a size as often as may be: (places, rows)."""
        if self.repeats is None:
            return np.zeros((len(places), len(rows)), dtype=bool)
        known = np.concatenate([self.space.rows([t.point.values for t in told]), *(row[None] for row, _ in chosen)])
        at = np.array([*(t.point.fidelity for t in told), *(place for _, place in chosen)])
        same = np.abs(rows[:, None] - known[None]).max(axis=2) < SAME
        return (at == np.array(places)[:, None]) @ same.T.astype(int) >= self.repeats

    def _beside(self, row: np.ndarray, round_: int) -> np.ndarray:
        """The same mixture with other hyperparameters."""
        count = len(self.space.shares)
        if self.candidates is not None:
            table = self.space.rows(self.candidates)
            return table[np.abs(table[:, :count] - row[:count]).max(axis=1) < SAME]
        others = self.space.spread(DRAWN // 4, self.seed + 2000 + round_)
        others[:, :count] = row[:count]
        return others

    def _values(
        self, surrogate: Surrogate, rows: np.ndarray, places: Sequence[int],
        chosen: Sequence[tuple[np.ndarray, int]], turn: int,
    ) -> np.ndarray:  # fmt: skip
        """Information about the best value at the target's fidelity, for each FLOP: (places x rows,)."""
        from torch import cat

        with torch_quiet(self.seed + turn):
            whole = cat([inputs(rows, self.fidelities[place]) for place in places])
            pending = [inputs(row[None], self.fidelities[place]) for row, place in chosen]
            found = _entropy(surrogate.model, inputs(rows, 1.0), cat(pending) if pending else None, self.costs[-1])
            return found(whole[:, None, :]).detach().numpy()


_last: dict[str, Any] = {}  # the last surrogate, and what it rests on


def _entropy(model: Any, best: Any, pending: Any, cost: float) -> Any:
    """BoTorch's max-value entropy search of minima, over cost."""
    from botorch.acquisition.cost_aware import InverseCostWeightedUtility
    from botorch.acquisition.max_value_entropy_search import qMultiFidelityMaxValueEntropy
    from botorch.acquisition.utils import project_to_target_fidelity
    from botorch.models.deterministic import GenericDeterministicModel

    last = best.shape[1] - 1
    price = GenericDeterministicModel(lambda x: cost * x[..., -1:] ** 2)
    return qMultiFidelityMaxValueEntropy(
        model, candidate_set=best, X_pending=pending, maximize=False, num_fantasies=8,
        cost_aware_utility=InverseCostWeightedUtility(cost_model=price),
        project=lambda x: project_to_target_fidelity(x, target_fidelities={last: 1.0}, d=last + 1),
    )  # fmt: skip
