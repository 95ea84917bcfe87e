"""Paired runs: an idea's run beside the base run of the same rung and seed.

Same seed means same data order, so most of the run-to-run noise cancels in the difference (1.5 to 6 times less than
between two separate fits). An idea may add parameters: pairs are made at equal rung, and placed at the base's size.
Where a rate or batch was swept, a recipe's run at a rung is its best one: each is judged at its own optimum.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import KDTree

from windtunnel.errors import InputError
from windtunnel.forecasts.price import Bill, params_by_rung
from windtunnel.laws.law import Sizes
from windtunnel.laws.observations import Observations

SAME_SIZE = 0.1  # sizes closer than this in log are one rung, where rungs are not named


@dataclass(frozen=True, eq=False)
class Pairs:
    """Of each pair the base run's sizes, log ratio of losses (idea over base), rung number; and if seeds matched.

    `alone` counts base and idea runs of a rung and seed that the other side lacks; `tried` how many values of lr and
    batch a rung was tried with, the base's and the idea's, as medians over rungs (nan where they are not stated);
    `bill` the idea's FLOPs over the base's (None where they are not stated).
    """

    sizes: Sizes
    gap: np.ndarray
    rung: np.ndarray
    seeded: bool
    alone: tuple[int, int] = (0, 0)
    tried: tuple[float, float] = (float("nan"), float("nan"))
    bill: Bill | None = None

    def __len__(self) -> int:
        return len(self.gap)

    @property
    def rungs(self) -> int:
        """How many rungs have pairs."""
        return len(np.unique(self.rung))

    def within(self) -> tuple[float, int]:
        """Standard deviation of a pair's gap about its rung's mean, and degrees of freedom."""
        counts = np.bincount(self.rung)
        mean = np.bincount(self.rung, self.gap) / np.maximum(counts, 1)
        df = int(np.sum(np.maximum(counts - 1, 0)))
        return (float(np.sqrt(np.sum((self.gap - mean[self.rung]) ** 2) / df)), df) if df else (0.0, 0)


def paired(base: Observations, idea: Observations) -> Pairs:
    """Match by rung (or size) and seed; where no seeds match, the runs of a rung are paired by lot.

    Raises InputError where fewer than two rungs have pairs.
    """
    ours, theirs = _rungs(base, idea)
    seeded = base.seed is not None and idea.seed is not None
    found = _matched(_runs(base, ours, base.seed), _runs(idea, theirs, idea.seed)) if seeded else []
    if not found:
        seeded = False
        found = _matched(_runs(base, ours, _lots(base, ours, 0)), _runs(idea, theirs, _lots(idea, theirs, 1)))
    rung = np.array([rung for rung, _, _ in found], int)
    if len(np.unique(rung)) < 2:
        raise InputError(
            f"{len(found)} pair(s) at {len(np.unique(rung))} rung(s) are common to base and idea; a verdict needs "
            f"pairs at 2 rungs or more. Train both at the same rungs and seeds; if the idea has other params there, "
            f"name each run's rung in a column `rung`."
        )
    first = np.unique(ours, return_index=True)[1]
    gap = np.array([gap for _, _, gap in found])
    both = {(rung, name) for rung, name, _ in found}
    alone = (_outside(both, ours, base.seed), _outside(both, theirs, idea.seed)) if seeded else (0, 0)
    tried = _settings_tried(base, ours), _settings_tried(idea, theirs)
    sizes, label = Sizes.of(base, first[rung]), np.unique(rung, return_inverse=True)[1]
    return Pairs(sizes, gap, label, seeded, alone, tried, _bill(base, idea, ours, theirs))


def _bill(base: Observations, idea: Observations, ours: np.ndarray, theirs: np.ndarray) -> Bill | None:
    if base.flops is None or idea.flops is None:
        return None
    sides = ((base.flops, ours), (idea.flops, theirs))
    cost, costs = ({rung: float(np.mean(flops[at == rung])) for rung in set(at.tolist())} for flops, at in sides)
    return Bill.of(cost, costs, params_by_rung(base, ours.tolist()))


def _settings_tried(o: Observations, rung: np.ndarray) -> float:
    columns = [column for column in (o.lr, o.batch_tokens) if column is not None and np.all(np.isfinite(column))]
    if not columns:
        return float("nan")
    tried = np.unique(np.stack([rung, *(np.round(np.log(column), 3) for column in columns)], axis=1), axis=0)
    tried = tried[tried[:, 0] >= 0]
    return float(np.median(np.unique(tried[:, 0], return_counts=True)[1]))


def _outside(both: set[tuple[int, str]], rung: np.ndarray, seed: np.ndarray | None) -> int:
    assert seed is not None
    return sum((where, str(name)) not in both for where, name in zip(rung.tolist(), seed.tolist(), strict=True))


def _matched(base: dict[tuple[int, str], float], idea: dict[tuple[int, str], float]) -> list[tuple[int, str, float]]:
    """Rung, seed and gap of what both have."""
    return [(*key, idea[key] - base[key]) for key in sorted(idea) if key in base]


def _runs(o: Observations, rung: np.ndarray, seed: np.ndarray | None) -> dict[tuple[int, str], float]:
    """Log loss of each rung and seed: the best where a rate or batch was swept, else the mean of repeats."""
    assert seed is not None
    swept = any(column is not None and _varies(column, rung) for column in (o.lr, o.batch_tokens))
    found: dict[tuple[int, str], list[float]] = {}
    for where, name, loss in zip(rung.tolist(), seed.tolist(), np.log(o.loss).tolist(), strict=True):
        if where >= 0:
            found.setdefault((where, str(name)), []).append(loss)
    return {key: min(losses) if swept else sum(losses) / len(losses) for key, losses in found.items()}


def _varies(column: np.ndarray, rung: np.ndarray) -> bool:
    """Whether a column takes several values inside a rung."""
    known = (rung >= 0) & np.isfinite(column)
    return len(np.unique(np.stack([rung[known], column[known]]), axis=1).T) > len(np.unique(rung[known]))


def _lots(o: Observations, rung: np.ndarray, seed: int) -> np.ndarray:
    """A number for each run within its rung, drawn by lot: in order of loss the gaps would look too much alike.

    A swept rung is one run, its best, so there all have one number.
    """
    if any(column is not None and _varies(column, rung) for column in (o.lr, o.batch_tokens)):
        return np.zeros(len(o), int)
    order = np.lexsort([np.random.default_rng(seed).random(len(o)), rung])
    starts = np.concatenate([[0], np.flatnonzero(np.diff(rung[order])) + 1])
    lots = np.empty(len(o), int)
    lots[order] = np.arange(len(o)) - np.repeat(starts, np.diff([*starts, len(o)]))
    return lots


def _rungs(base: Observations, idea: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Number of each run's rung, counted over the base's; -1 for an idea's run at a rung the base has not."""
    if base.rung is not None and idea.rung is not None:
        names, ours = np.unique(base.rung, return_inverse=True)
        number = {name: i for i, name in enumerate(names.tolist())}
        return ours, np.array([number.get(name, -1) for name in idea.rung.tolist()])
    names = [f.name for f in fields(Sizes) if f.name in ("params", "tokens", "flops")]
    both = [name for name in names if getattr(base, name) is not None and getattr(idea, name) is not None]
    both = [name for name in both if name != "flops" or "params" not in both]
    if not both:
        raise InputError(
            "Base and idea have no size column in common (params, tokens, flops), so no run has a partner."
        )
    places = [np.log(np.stack([getattr(o, name) for name in both], axis=1)) for o in (base, idea)]
    distinct, ours = np.unique(np.round(places[0], 3), axis=0, return_inverse=True)
    away, nearest = KDTree(distinct).query(places[1], p=np.inf, distance_upper_bound=SAME_SIZE)
    return ours.reshape(-1), np.where(np.isfinite(away), nearest, -1)
