"""A study's tuned fields, searched together at the base rung: `Tuning(search=BayesTuning(runs=16))`.

The stock sweeps tune one field after another, which misses optima that lie across. A newcomer would expect an interval
from this; several fields together have none here, and the forecast says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from windtunnel.recipe import Tuned
from windtunnel.searches.bayes import Bayes, Point, Told
from windtunnel.searches.space import Space
from windtunnel.tune import Heard


@dataclass(frozen=True, kw_only=True)
class BayesTuning:
    """A `tune.Search` of `runs` sets of values: `first` of them spread evenly, then `at_once` at a time.

    What it asks rests on a fit, whose digits may differ between machines: a study that goes on elsewhere may ask for
    other values from there on; runs that are stored are used wherever they are asked for.
    """

    runs: int = 16
    first: int = 6
    at_once: int = 4
    seed: int = 0

    def ask(self, ranges: Mapping[str, Tuned], heard: Sequence[Heard]) -> list[Mapping[str, float]]:
        """The next values, field to value; none when `runs` have been heard of."""
        return [point.values for point in self._search(ranges).ask(_told(heard))]

    def best(self, ranges: Mapping[str, Tuned], heard: Sequence[Heard]) -> Mapping[str, float]:
        """The values of the lowest expected loss, its doubt added."""
        return self._search(ranges).best(_told(heard)).values

    def _search(self, ranges: Mapping[str, Tuned]) -> Bayes:
        space = Space(ranges=dict(ranges))
        return Bayes(space=space, costs=(1.0,), budget=float(self.runs), first=self.first, q=self.at_once,
                     seed=self.seed)  # fmt: skip


def _told(heard: Sequence[Heard]) -> list[Told]:
    return [Told(Point(each.values), each.loss) for each in heard]
