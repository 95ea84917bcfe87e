"""The foretold curve: how far above its final loss a run of this ladder stands at each share of its horizon.

In normalised compute (share of the horizon against log loss over the final loss) the runs of a ladder nearly collapse
(2507.02119 and the ladders named below); what is left moves slowly with size. Two predictors of that move, "like the
largest runs" and "a straight line in the final loss", are averaged; their disagreement and how each rung would have
been foretold from those below it make the width. A newcomer would ask for every run's parameters: the final loss orders
the runs as well as they do (measured), is always there, and needs no unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from windtunnel.errors import InputError
from windtunnel.runs import Run

# Shares of the horizon at which curves are compared: dense early, where they are steep. Before FIRST is warm-up.
FIRST = 0.05
SHARES = np.concatenate([np.geomspace(FIRST, 0.3, 10), np.linspace(0.35, 1.0, 27)])
BIN = 0.02  # of the horizon: rows nearer than this to a share are gathered there (a decay is seldom under a tenth)
FEW = 5  # rows that are gathered at least, so that a spike is outvoted, where the rows are dense enough
MANY = 25  # rows between which slopes are taken
SHORT = 100  # rows below which a log is one of evaluations, whose last row is the final loss
NEAR = 0.3  # nats of final loss over which a run's say in "like the largest runs" falls by e (guess: a rung or two)
# Error of a foretold shape before any past: AMPLITUDE of the fall still to come, along the whole curve; DRIFT of it,
# changing along the way; LEAST in log loss at all shares but the last. Median errors on 52 held-out top rungs of the
# OLMo ladder, Gadre's, gemstones and datablations (2026-11) are 0.09 to 0.15 of the fall between shares 0.1 and 0.8.
AMPLITUDE, DRIFT, LEAST = 0.12, 0.1, 0.0015
PRIOR_WEIGHT = 3.0  # rungs that these are worth beside the ladder's own past (guess)


@dataclass(frozen=True, eq=False)
class Past:
    """A finished run: `share` of its horizon (n,) rising to 1, `loss` (n,), and its `final` loss.

    `loss` may be of another kind than `final` (training beside held-out loss): the gap is part of the shape. `lr` (n,)
    is None where it is not known.
    """

    share: np.ndarray
    loss: np.ndarray
    final: float
    name: str = "run"
    lr: np.ndarray | None = None

    @cached_property
    def excess(self) -> np.ndarray:
        """Log loss over final loss at `SHARES` (shares,)."""
        return gathered(self.share, self.loss)[0] - np.log(self.final)


@dataclass(frozen=True, eq=False)
class Shape:
    """Log loss over final loss at `SHARES`, a multivariate Student-t: `excess`, `covariance`, `degrees` of freedom.

    `runs` is how many finished runs it was learned from, `tested` how many of them were foretold from smaller ones, and
    `error` their root mean square error in units of the prior's (1: as expected before any past).
    """

    excess: np.ndarray
    covariance: np.ndarray
    degrees: float
    runs: int
    tested: int
    error: float

    def at(self, share: float) -> tuple[float, float]:
        """Excess and its standard deviation at one share."""
        spread = np.sqrt(np.diag(self.covariance))
        return float(np.interp(share, SHARES, self.excess)), float(np.interp(share, SHARES, spread))


def shape_of(pasts: Sequence[Past], final: float) -> Shape:
    """The shape of a run whose final loss is foretold as `final`, from finished runs of its ladder.

    Raises InputError where no run has losses over its whole horizon.
    """
    known = [past for past in pasts if np.isfinite(past.final) and past.final > 0]
    grid = np.array([past.excess for past in known]).reshape(-1, len(SHARES))
    whole = np.isfinite(grid[:, SHARES >= 0.2]).all(axis=1)
    if not whole.any():
        raise InputError(
            f"None of {len(pasts)} finished runs has a loss curve over its whole horizon, so no curve can be foretold; "
            f"give logs that begin before a fifth of the run and reach its end."
        )
    grid, finals = grid[whole], np.array([past.final for past in known])[whole]
    excess, apart = _foretold(grid, finals, final)
    past = [_misfit(grid, finals, i) for i in range(len(finals)) if _smaller(finals, finals[i]).any()]
    squares = [each for each in past if np.isfinite(each)]
    scale = (PRIOR_WEIGHT + sum(squares)) / (PRIOR_WEIGHT + len(squares))
    error = float(np.sqrt(np.mean(squares))) if squares else 1.0
    covariance = scale * _covariance(excess) + np.outer(apart, apart)
    return Shape(excess, covariance, PRIOR_WEIGHT + len(squares), len(finals), len(squares), error)


def final_loss(share: np.ndarray, loss: np.ndarray) -> float:
    """Where a finished log ended: the median of its last hundredth (at least five rows), the last row of a short log.

    Raises InputError for a log without a finite loss.
    """
    usable = np.isfinite(loss)
    share, loss = share[usable], loss[usable]
    if not len(loss):
        raise InputError("A finished run's log has no finite loss; leave it out.")
    rows = max(FEW, int(np.sum(share >= 0.99 * share[-1]))) if len(loss) >= SHORT else 1
    return float(np.median(loss[-rows:]))


def pasts_of(runs: Sequence[Run], kind: str = "train_loss") -> list[Past]:
    """Finished runs of a store, by their training losses (one a step) or, `kind` "judged_loss", by the judge's."""
    pasts = []
    for run in runs:
        if run.finished and run.loss is not None and len(run.curve.get(kind, ())):
            tokens = run.curve["tokens" if kind == "train_loss" else "judged_tokens"]
            share = np.asarray(tokens, float) / run.spec.rung.tokens
            pasts.append(Past(share, np.asarray(run.curve[kind], float), run.loss, run.key[:8]))
    return pasts


def gathered(share: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log loss at `SHARES` (NaN where nothing is near) and its variance by the scatter of the rows around it.

    A median of the rows near a share, brought there along the straight line through them, so that spikes and steepness
    do not move it; where rows are sparse, the line between the two beside it. Losses that are not positive and finite
    are left out. A share is filled only once the rows around it are all there, so that more rows change no other share.
    """
    usable = np.isfinite(loss) & (np.asarray(loss) > 0) & np.isfinite(share)
    share, logs = np.asarray(share, float)[usable], np.log(np.asarray(loss, float)[usable])
    order = np.argsort(share, kind="stable")
    share, logs = share[order], logs[order]
    level, variance = np.full(len(SHARES), np.nan), np.full(len(SHARES), np.nan)
    if len(share) > 1:
        dense = FEW * float(np.median(np.diff(share))) < 2 * BIN
        if not dense:  # a row that stands out alone is a spike; the newest may be one, so it waits for the next
            ended = share[-1] > 0.999
            logs = np.concatenate([logs[:1], np.median([logs[:-2], logs[1:-1], logs[2:]], axis=0), logs[-1:]])
            share, logs = (share, logs) if ended or len(share) < 3 else (share[:-1], logs[:-1])
        for index in range(int(np.searchsorted(known_at(dense), share[-1] * 1.0001, side="right"))):
            level[index], variance[index] = _near(share, logs, float(SHARES[index]))
    return level, variance


def known_at(dense: bool) -> np.ndarray:
    """The share at which each of `SHARES` is known: that of the last row around it where rows are dense."""
    return np.minimum(SHARES + np.minimum(BIN, SHARES / 4), 0.999) if dense else SHARES


def _near(share: np.ndarray, logs: np.ndarray, at: float) -> tuple[float, float]:
    reach = min(BIN, at / 4)
    first, last = np.searchsorted(share, [at - reach, at + reach * 1.0001])
    if last - first >= FEW:
        x, y = share[first:last] - at, logs[first:last]
        flat = y - _slope(x, y) * x
        middle = float(np.median(flat))
        spread = 1.48 * float(np.median(np.abs(flat - middle)))
        return middle, 2 * 1.57 * spread**2 / len(flat)  # of a median; doubled, as neighbours err together
    if at < share[0] * 0.999:
        return np.nan, np.nan
    return float(np.interp(np.log(at), np.log(np.maximum(share, 1e-9)), logs)), 0.0


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Theil-Sen: the median slope between rows, at most MANY of them."""
    some = np.linspace(0, len(x) - 1, min(len(x), MANY)).astype(int)
    first, second = np.triu_indices(len(some), 1)
    run = x[some][second] - x[some][first]
    rise = y[some][second] - y[some][first]
    return float(np.median(rise[run > 0] / run[run > 0])) if np.any(run > 0) else 0.0


def _foretold(grid: np.ndarray, finals: np.ndarray, final: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the two predictors (shares,), and half their difference."""
    like = np.exp(-(finals - finals.min()) / NEAR)
    largest = _average(grid, like)
    line = np.array([_line(finals, column, final, level) for column, level in zip(grid.T, largest, strict=True)])
    return 0.5 * (largest + line), 0.5 * (line - largest)


def _average(grid: np.ndarray, weight: np.ndarray) -> np.ndarray:
    there = np.isfinite(grid) * weight[:, None]
    total = there.sum(axis=0)
    sums = (np.nan_to_num(grid) * there).sum(axis=0)
    filled = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
    return np.interp(SHARES, SHARES[np.isfinite(filled)], filled[np.isfinite(filled)])


def _line(finals: np.ndarray, column: np.ndarray, final: float, level: float) -> float:
    """The straight line in the final loss through one share's excesses, at `final`; flat where runs hardly differ."""
    there = np.isfinite(column)
    x, y = finals[there], column[there]
    if len(x) < 2 or np.ptp(x) < 0.02 * x.mean():
        return level
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    # no further beyond the runs than they span: a line is not to be trusted with more
    at = np.clip(final, x.min() - np.ptp(x), x.max() + np.ptp(x))
    return float(y.mean() + slope * (at - x.mean()))


def _covariance(excess: np.ndarray) -> np.ndarray:
    """Errors before any past: in amplitude, drifting along the way (what is left at the later of two shares), least."""
    fall = np.abs(excess - excess[-1])
    later = np.maximum.outer(SHARES, SHARES)
    left = np.interp(later, SHARES, np.maximum.accumulate(fall[::-1])[::-1])
    end = np.clip((1 - later) / 0.05, 0, 1)
    return (AMPLITUDE**2) * np.outer(fall, fall) + DRIFT**2 * left**2 + LEAST**2 * end


def _smaller(finals: np.ndarray, final: float) -> np.ndarray:
    return finals > final * 1.005


def _misfit(grid: np.ndarray, finals: np.ndarray, index: int) -> float:
    """Mean squared error of one run's shape, foretold from the runs below it, in units of the prior's variance."""
    below = _smaller(finals, finals[index])
    excess, apart = _foretold(grid[below], finals[below], finals[index])
    variance = np.diag(_covariance(excess)) + apart**2
    there = np.isfinite(grid[index]) & (SHARES < 0.99)
    return float(np.mean((grid[index] - excess)[there] ** 2 / variance[there]))


# Curves of recipes nobody has shown: median and spread, in log loss, of a power law, of a steeper one, of a linear and
# of a cosine gain of annealing, and of a late decay. Over 339 runs of six published sources (cosine, linear, constant,
# WSD; 2026-11) the fall from a twentieth of the run is 0.07 (constant) to 0.41, that from a half 0.006 to 0.06, and
# that from 0.8 is 0.003 to 0.012, of WSD 0.037; spreads are wide on purpose.
LOOSE = 12.0  # variance beside that of a learned shape: 4 covered 0.64 to 0.78 of 0.9 late in those runs, 12 0.91
TYPICAL, LATE_GAIN = ((0.08, 0.05), (0.0, 0.01), (0.0, 0.02), (0.015, 0.02)), (0.03, 0.015)
SEEN = 4.0  # times the spread of its gain where a decay is known to be under way (made-up runs of two gains, followed
# to 3, 5, 10 and 15 % of the run into it: intervals of 90 % hold 0.9, with 1 half of them and none of the larger gain)
NARROWEST = 0.02  # share of a run that a decay takes at least
LATE, LATE_SHARE = 0.2, 0.15  # how long a late decay usually runs (2405.18392), and how often there is one (guess)


def typical_shapes(falling: float | None = None) -> tuple[tuple[float, Shape], ...]:
    """Shapes, with probabilities, where no finished run of the recipe is at hand: without and with a late sudden decay.

    The run's own curve then decides between the terms. `falling` is the share of the run from which the learning rate
    was seen to fall: one that fell early has no late decay to come, one that fell late is in it.
    """
    terms = np.stack([SHARES**-0.5 - 1, SHARES**-1.0 - 1, 1 - SHARES, (1 + np.cos(np.pi * SHARES)) / 2])
    median, spread = np.array(TYPICAL).T
    excess = median @ terms
    covariance = (terms.T * spread**2) @ terms + LOOSE * _covariance(excess)
    smooth = Shape(excess, covariance, PRIOR_WEIGHT, 0, 0, 1.0)
    if falling is not None and falling < 1 - 2 * LATE:
        return ((1.0, smooth),)
    lasts, times = (LATE, 1.0) if falling is None else (max(1 - falling, NARROWEST), SEEN)
    around = np.linspace(-BIN, BIN, 9) if falling is not None else np.zeros(1)  # the kink is gathered with its rows
    late = np.mean(np.clip((1 - SHARES - around[:, None]) / lasts, 0.0, 1.0), axis=0)
    wider = covariance + (times * LATE_GAIN[1]) ** 2 * np.outer(late, late)
    more = Shape(excess + LATE_GAIN[0] * late, wider, PRIOR_WEIGHT, 0, 0, 1.0)
    return ((1.0, more),) if falling is not None else ((1 - LATE_SHARE, smooth), (LATE_SHARE, more))
