"""Paired runs: an idea's run beside the base run of the same rung and seed.

Same seed means same data order, so most of the run-to-run noise cancels in the difference (1.5 to 6 times less than
between two separate fits).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InputError
from windtunnel.laws.observations import Observations

SAME_SIZE = 0.1  # sizes closer than this in log are one rung, where rungs are not named


@dataclass(frozen=True, eq=False)
class Pairs:
    """Log size of the base run, log ratio of losses (idea over base), rung number, and whether seeds matched."""

    log_size: np.ndarray
    gap: np.ndarray
    rung: np.ndarray
    seeded: bool

    def __len__(self) -> int:
        return len(self.gap)

    def means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log size, mean gap and number of pairs of each rung."""
        counts = np.bincount(self.rung)
        return np.bincount(self.rung, self.log_size) / counts, np.bincount(self.rung, self.gap) / counts, counts

    def within(self) -> tuple[float, int]:
        """Standard deviation of a pair's gap about its rung's mean, and degrees of freedom."""
        _, mean, counts = self.means()
        df = int(np.sum(counts - 1))
        return (float(np.sqrt(np.sum((self.gap - mean[self.rung]) ** 2) / df)), df) if df else (0.0, 0)


def paired(base: Observations, idea: Observations) -> Pairs:
    """Match by rung (or size) and seed; where no seeds match, the runs of a rung are paired as they come.

    Raises InputError where fewer than two rungs have pairs.
    """
    seeded = base.seed is not None and idea.seed is not None
    found = _by_seed(base, idea) if seeded else []
    if not found:
        seeded, found = False, _by_order(base, idea)
    sizes = np.array([size for size, _ in found])
    rung = np.unique(np.round(sizes, 1), return_inverse=True)[1] if len(found) else np.zeros(0, int)
    if len(set(rung.tolist())) < 2:
        raise InputError(
            f"{len(found)} pair(s) at {len(set(rung.tolist()))} rung(s) are common to base and idea; a verdict needs "
            f"pairs at 2 rungs or more. Train both at the same rungs and seeds."
        )
    return Pairs(sizes, np.array([gap for _, gap in found]), rung, seeded)


def _by_seed(base: Observations, idea: Observations) -> list[tuple[float, float]]:
    assert base.seed is not None and idea.seed is not None
    found = []
    for i in range(len(idea)):
        same = np.flatnonzero(_same_rung(base, idea, i) & (base.seed == idea.seed[i]))
        if len(same):
            found.append((float(np.log(base.size[same[0]])), float(np.log(idea.loss[i] / base.loss[same[0]]))))
    return found


def _by_order(base: Observations, idea: Observations) -> list[tuple[float, float]]:
    """Any two runs of a rung as a pair, each used once: the gap then carries both runs' noise, as it must."""
    free = np.ones(len(base), bool)
    found = []
    for i in range(len(idea)):
        same = np.flatnonzero(_same_rung(base, idea, i) & free)
        if len(same):
            free[same[0]] = False
            found.append((float(np.log(base.size[same[0]])), float(np.log(idea.loss[i] / base.loss[same[0]]))))
    return found


def _same_rung(base: Observations, idea: Observations, i: int) -> np.ndarray:
    if base.rung is not None and idea.rung is not None:
        return base.rung == idea.rung[i]
    near = np.ones(len(base), bool)
    for name in ("params", "tokens", "flops"):
        ours, theirs = getattr(base, name), getattr(idea, name)
        if ours is not None and theirs is not None and not (name == "flops" and base.params is not None):
            near &= np.abs(np.log(ours / theirs[i])) < SAME_SIZE
    return near
