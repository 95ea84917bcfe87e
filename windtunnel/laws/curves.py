"""A loss curve under a learning-rate schedule, and what the laws of curves read from it.

What counts is not the step but the progress: the area under the learning rate, in steps at the peak, and each fall of
the rate with the progress and the rate at which it happened. A newcomer's error is to smear a sudden drop over the
rows beside it: logged once in 128 steps, a drop must fall on the row that first shows the new rate, because that row's
loss was measured before it acted (placed a row early, it costs the multi-power law four times its misfit: measured).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.notebook import printed

JUMP = 0.2  # share of the rate; a larger change between two rows is a sudden one (a guess; smooth schedules move < 8 %)
WARM = 0.99  # warm-up ends where the rate first reaches this share of its peak
KNOTS = 256  # falls kept a curve: beyond that, neighbouring ones are gathered
SAMPLES = 2000  # steps at which a callable schedule is asked, when only their number is given
ROWS = 200  # rows fitted a curve: beyond that, neighbouring ones are averaged


@dataclass(frozen=True, eq=False)
class Curve:
    """One run: `steps` (n,) rising, `lr` (n,) the rate at each, `loss` (n,) in nats, nan where not measured.

    Rows may be any subset of the steps; between them the rate moves linearly unless it changes by more than a fifth.
    Before the first row it is taken to have risen linearly from zero. `loss` None: a schedule only.
    """

    steps: np.ndarray
    lr: np.ndarray
    loss: np.ndarray | None = None
    name: str = "curve"

    def __post_init__(self) -> None:
        steps, lr = (np.atleast_1d(np.asarray(column, float)) for column in (self.steps, self.lr))
        loss = np.full(len(steps), np.nan) if self.loss is None else np.atleast_1d(np.asarray(self.loss, float))
        _check(self.name, steps, lr, loss)
        for field, value in (("steps", steps), ("lr", lr), ("loss", loss)):
            object.__setattr__(self, field, value)

    _repr_pretty_ = printed

    def __str__(self) -> str:
        measured = self.losses[np.isfinite(self.losses)]
        ends = f"loss {measured[0]:.4g} to {measured[-1]:.4g}" if len(measured) else "no losses"
        return f"{self.name}: {len(self.steps)} rows to step {self.steps[-1]:g}, peak rate {self.peak:.3g}, {ends}"

    @property
    def peak(self) -> float:
        """Highest learning rate."""
        return float(self.lr.max())

    @property
    def warm(self) -> np.ndarray:
        """Which rows lie behind the warm-up: (n,) bool."""
        return np.arange(len(self.steps)) >= np.argmax(self.lr >= WARM * self.peak)

    @property
    def measured(self) -> np.ndarray:
        """Which rows have a loss and lie behind the warm-up: (n,) bool."""
        return self.warm & np.isfinite(self.losses)

    @property
    def losses(self) -> np.ndarray:
        """`loss`, as an array whatever was given."""
        return np.asarray(self.loss, float)

    def until(self, step: float) -> Curve:
        """The same schedule with the losses after `step` hidden."""
        return Curve(self.steps, self.lr, np.where(self.steps <= step, self.losses, np.nan), self.name)


@dataclass(frozen=True, eq=False)
class Rows:
    """Where a law of curves is evaluated: n rows and f falls of one schedule, in steps at the reference rate.

    `steps` and `progress` (n,); `fall_size` (f,) as a share of the reference rate (negative for a rise), `fall_step`,
    `fall_progress` and `fall_lr` (f,), the rate after the fall as a share of the reference rate. `start` is the
    progress of the earliest row fitted: the unit of the laws' shift.
    """

    steps: np.ndarray
    progress: np.ndarray
    fall_size: np.ndarray
    fall_step: np.ndarray
    fall_progress: np.ndarray
    fall_lr: np.ndarray
    start: float


def schedule(steps: Any, lr: Callable[[float], float] | Any, name: str = "schedule") -> Curve:
    """A curve without losses: `lr` is an array beside `steps`, or a callable from a step to its learning rate.

    A callable needs the steps, or their number alone: it is then asked at `SAMPLES` of them.
    """
    steps = np.atleast_1d(np.asarray(steps, float))
    if len(steps) == 1 and callable(lr):
        steps = np.unique(np.round(np.linspace(1, steps[0], SAMPLES)))
    return Curve(steps, np.array([lr(step) for step in steps]) if callable(lr) else np.asarray(lr), None, name)


def rows(curve: Curve, at: np.ndarray, reference: float, start: float = 1.0) -> Rows:
    """What a law reads at the steps `at`: `reference` is the learning rate that counts as 1."""
    share = curve.lr / reference
    sudden = (np.abs(np.diff(share)) > JUMP * share[:-1]) & curve.warm[:-1]
    area = np.diff(curve.steps) * np.where(sudden, share[:-1], (share[:-1] + share[1:]) / 2)
    progress = 0.5 * curve.steps[0] * share[0] + np.concatenate([[0.0], np.cumsum(area)])
    fall = np.where(curve.warm[:-1], share[:-1] - share[1:], 0.0)
    late = np.where(sudden, 1.0, 0.5)  # where between its two rows a fall is placed
    middle = progress[:-1] + late * area
    step, after = curve.steps[:-1] + late * np.diff(curve.steps), share[:-1] - late * fall
    first = np.array(
        [1 - curve.peak / reference, -np.inf, -np.inf, curve.peak / reference]
    )  # a lower peak, long settled
    falls = np.concatenate([first[:, None], _gathered(np.stack([fall, step, middle, after]))], axis=1)
    falls = falls[:, np.abs(falls[0]) > 1e-9]
    return Rows(np.asarray(at, float), np.interp(at, curve.steps, progress), *falls, start=start)


def thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of the measured rows, neighbours averaged down to about `ROWS`."""
    steps, loss = curve.steps[curve.measured], curve.losses[curve.measured]
    if len(steps) <= ROWS:
        return steps, loss
    parts = np.array_split(np.arange(len(steps)), ROWS)
    return np.array([steps[p].mean() for p in parts]), np.exp([np.log(loss[p]).mean() for p in parts])


def unshared(curves: Sequence[Curve]) -> list[Curve]:
    """The same curves, a common trunk's losses kept in the first of them only: (len(curves),).

    Runs branched off one trunk log its rows again: one observation, not several. Shared are leading rows that agree in
    step, rate and loss; later coincidences are not.
    """
    kept: list[Curve] = []
    for index, curve in enumerate(curves):
        shared = max((_trunk(curve, earlier) for earlier in curves[:index]), default=0)
        hidden = np.arange(len(curve.steps)) < shared
        kept.append(Curve(curve.steps, curve.lr, np.where(hidden, np.nan, curve.losses), curve.name))
    return kept


def relaxed(rows: Rows, gain: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Sum over falls of size times `gain(steps since, progress since, rate)`, in [0, 1]: (n,). Chunked over rows."""
    total = np.zeros(len(rows.steps))
    if not len(rows.fall_size):
        return total
    for part in np.array_split(np.arange(len(total)), 1 + len(total) // 4000):
        steps = np.maximum(rows.steps[part, None] - rows.fall_step, 0.0)
        progress = np.maximum(rows.progress[part, None] - rows.fall_progress, 0.0)
        total[part] = gain(steps, progress, np.maximum(rows.fall_lr, 1e-4)) @ rows.fall_size
    return total


def _trunk(one: Curve, other: Curve) -> int:
    """How many leading rows the two curves share."""
    rows = min(len(one.steps), len(other.steps))
    pairs = zip((one.steps, one.lr, one.losses), (other.steps, other.lr, other.losses), strict=True)
    same = np.all([np.isclose(a[:rows], b[:rows], rtol=1e-9, atol=0.0, equal_nan=True) for a, b in pairs], axis=0)
    return rows if same.all() else int(np.argmin(same))


def _gathered(falls: np.ndarray) -> np.ndarray:
    """At most KNOTS groups of neighbouring falls (4, m), each the fall-weighted mean of its members."""
    falls = falls[:, np.abs(falls[0]) > 1e-9]
    if falls.shape[1] <= KNOTS:
        return falls
    weight = np.abs(falls[0])
    group = np.minimum((np.cumsum(weight) / weight.sum() * KNOTS).astype(int), KNOTS - 1)
    sums = np.array([np.bincount(group, weight * row, KNOTS) for row in falls[1:]])
    total = np.bincount(group, weight, KNOTS)
    held = total > 0
    return np.concatenate([np.bincount(group, falls[0], KNOTS)[None, held], sums[:, held] / total[held]])


def _check(name: str, steps: np.ndarray, lr: np.ndarray, loss: np.ndarray) -> None:
    if not len(steps) == len(lr) == len(loss):
        raise InputError(
            f"{name} has {len(steps)} steps, {len(lr)} learning rates and {len(loss)} losses; give one each."
        )
    if len(steps) < 2 or not np.all(np.isfinite(steps)) or steps[0] < 0 or np.any(np.diff(steps) <= 0):
        raise InputError(
            f"{name}: steps must be at least two, not negative and strictly rising; sort them, drop repeats."
        )
    if not np.all(np.isfinite(lr)) or lr.min() < 0 or lr.max() <= 0:
        raise InputError(
            f"{name}: learning rates run from {lr.min():g} to {lr.max():g}; they must be >= 0, not all zero."
        )
    if np.any(loss <= 0) or np.any(np.isinf(loss)):
        raise InputError(f"{name} has losses that are not positive and finite; leave out diverged rows, or write nan.")


def check_curves(curves: Sequence[Curve]) -> None:
    """Raise InputError unless there is something to fit: a curve, and 20 measured rows behind the warm-up in each."""
    if not curves:
        raise InputError("No curves were given; a curve law needs at least one run's steps, learning rates and losses.")
    for curve in curves:
        if not isinstance(curve, Curve):
            raise InputError(f"A {type(curve).__name__} was given among curves; make each wt.Curve(step, lr, loss).")
        if curve.measured.sum() < 20:
            raise InputError(
                f"{curve.name} has {curve.measured.sum()} measured losses behind its warm-up; a curve needs 20 or "
                "more. Log the loss more often, or leave this run out."
            )
