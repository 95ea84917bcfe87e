"""Wider is better: at one learning rate, is the training loss lower the wider the model, at every point of training?

Under a sound width rule it should be, up to noise (Yang et al. 2203.03466, section 8), so a width at which it is not
says that something does not follow. Sizes are compared seed by seed on the same batches. A newcomer would compare means
of two seeds and read noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, nan
from typing import Any

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.notebook import printed
from windtunnel.scaling.checks.setup import Lost, Report, Setup, Size, axis_of, runs, start, train
from windtunnel.scaling.checks.words import SHOWN, listed, loss_of, record, table, told
from windtunnel.scaling.slopes import CANNOT_TELL, LEVEL, plain, student

SOURCE = "Yang et al. 2203.03466, section 8"
LIMITS = (
    "That wider is better at this lr does not prove that this lr is the best at every width (the transfer check asks "
    "that), and a model large enough to repeat its data may be worse for that alone."
)
WINDOW = 0.1  # share of the steps so far, whose mean is called the loss at a step: batches differ more than widths


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two neighbouring sizes at one step: loss of the wider minus loss of the narrower over paired seeds.

    `probability` is that the wider is better in the mean, on a Student posterior. A run that was lost at the wider size
    alone makes the pair WORSE, whatever the others say.
    """

    narrow: Size
    wide: Size
    step: int
    losses: tuple[float, float]
    difference: float
    low: float
    high: float
    probability: float
    pairs: int

    @property
    def verdict(self) -> str:
        """ "better", "worse" or CANNOT_TELL, by the interval."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else CANNOT_TELL

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"narrow": self.narrow, "wide": self.wide, "step": self.step, "verdict": self.verdict,
                "losses": [plain(v) for v in self.losses], "difference": plain(self.difference),
                "low": plain(self.low), "high": plain(self.high), "probability": plain(self.probability),
                "pairs": self.pairs}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WiderIsBetter:
    """Neighbouring sizes at some steps; `ok` is False where a pair is worse, True where all are better, else None."""

    axis: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    pairs: tuple[Pair, ...]
    lost: tuple[Lost, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether larger is better throughout."""
        found = {pair.verdict for pair in self.pairs}
        if "worse" in found:
            return False
        return True if found == {"better"} else None

    @property
    def verdict(self) -> str:
        """The same as words."""
        larger = "wider" if self.axis == "width" else "deeper"
        return {True: f"{larger} is better", False: f"{larger} is worse somewhere", None: CANNOT_TELL}[self.ok]

    _repr_pretty_ = printed

    def __str__(self) -> str:
        rows = [
            (f"{pair.narrow} to {pair.wide}", f"step {pair.step}", f"loss {pair.losses[0]:.4g} to {pair.losses[1]:.4g}",
             f"{pair.difference:+.4f} [{pair.low:+.4f}, {pair.high:+.4f}]", f"P(better) {pair.probability:.2f}",
             pair.verdict)
            for pair in sorted(self.pairs, key=lambda pair: pair.verdict != "worse")[:SHOWN]
        ]  # fmt: skip
        more = f"  and {len(self.pairs) - SHOWN} more" if len(self.pairs) > SHOWN else ""
        return told(
            f"training loss over {self.axis} {listed(self.sizes)}, {len(self.seeds)} paired seeds: {self.verdict}",
            table(rows),
            more,
            loss_of(self.lost),
            LIMITS,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        pairs = [pair.to_json() for pair in self.pairs]
        return record("wider_is_better", self, SOURCE, LIMITS, level=LEVEL, pairs=pairs)


def wider_is_better(
    setup: Setup,
    sizes: Sequence[Size],
    *,
    steps: Sequence[int] = (50, 100, 200),
    seeds: Sequence[int] = (0, 1, 2),
    report: Report | None = None,
) -> WiderIsBetter:
    """Train every size and compare neighbours' training losses at each of `steps`, paired by seed.

    The loss at a step is the mean over the last tenth of the steps up to it. With one seed there is no interval and
    every pair cannot be told. Raises InputError for steps below 1 and sizes that do not grow one at a time.
    """
    axis, _ = axis_of(sizes)
    if not steps or min(steps) < 1:
        raise InputError(f"steps are {list(steps)}; give step counts at which losses are compared, as in (50, 200).")
    lost: list[Lost] = []
    curves = {each: _curve(setup, *each, max(steps), lost) for each in runs("wider is better", sizes, seeds, report)}
    pairs = []
    for narrow, wide in pairwise(sizes):
        for step in sorted(steps):
            found = [(loss_at(curves[narrow, seed], step), loss_at(curves[wide, seed], step)) for seed in seeds]
            pairs.append(_pair(narrow, wide, step, found))
    return WiderIsBetter(axis=axis, sizes=tuple(sizes), seeds=tuple(seeds), pairs=tuple(pairs), lost=tuple(lost))


def _curve(setup: Setup, size: Size, seed: int, steps: int, lost: list[Lost]) -> list[float]:
    losses = []
    for step, loss in enumerate(train(setup, start(setup, size, seed), seed, steps)):
        losses.append(loss if isfinite(loss) else inf)
        if not isfinite(loss):
            lost.append(Lost(size, seed, step))
    return losses + [inf] * (steps - len(losses))


def loss_at(curve: Sequence[float], step: int) -> float:
    """The loss at a step: the mean over the last tenth of the steps up to it."""
    window = max(1, round(WINDOW * step))
    return float(np.mean(curve[step - window : step]))


def _pair(narrow: Size, wide: Size, step: int, found: list[tuple[float, float]]) -> Pair:
    losses = float(np.mean([pair[0] for pair in found])), float(np.mean([pair[1] for pair in found]))
    known = [b - a for a, b in found if isfinite(a) and isfinite(b)]
    mean, low, high, probability = _student(known)
    if any(isfinite(a) and not isfinite(b) for a, b in found):
        mean, low, high, probability = inf, inf, inf, 0.0
    return Pair(
        narrow=narrow, wide=wide, step=step, losses=losses, difference=mean, low=low, high=high,
        probability=probability, pairs=len(known),
    )  # fmt: skip


def _student(differences: list[float]) -> tuple[float, float, float, float]:
    """Mean, interval of the mean, probability that it is negative."""
    if not differences:
        return nan, -inf, inf, nan
    mean, error, half = student(differences)
    if len(differences) == 1:
        return mean, -inf, inf, nan
    at = -mean / error if error > 0 else (inf if mean < 0 else -inf if mean > 0 else 0.0)
    return mean, mean - half, mean + half, float(special.stdtr(len(differences) - 1, at))
