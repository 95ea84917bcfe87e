"""Watch: a run in flight beside its forecast, the probability that it lands inside, and when to warn.

A newcomer would compare the current loss with the interval: early in a run every loss is above it, and late a small gap
is certain. What is compared is where the curve is heading (`heading.py`) through the shape of the ladder's own curves
(`band.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from windtunnel.errors import InputError
from windtunnel.forecasts.band import BIN, FEW, FIRST, gathered, known_at
from windtunnel.forecasts.heading import Heading, Shapes, headings_of, posterior, prior_of
from windtunnel.forecasts.interval import Interval

WARN_BELOW = 0.5  # warn when the final loss is likelier outside than inside
CALM = 0.5  # of the way back up to 1 before a warning is taken back, so that noise does not repeat it (guess)
LOW = 0.6  # times what is expected: no run is so much better (guess)
UNITS = (("bits", 1 / np.log(2)), ("nats where the forecast is in bits", np.log(2)))


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """What was foretold of a run: its loss at the level asked for and at others, its sizes, the ladder's run keys."""

    loss: Interval
    intervals: tuple[Interval, ...]
    target: Mapping[str, float]
    key: str = ""
    runs: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Foretold:
        """From a stored forecast, or from what `windtunnel fit --json` printed for one target.

        Raises InputError where it is neither.
        """
        if isinstance(data.get("forecasts"), list):
            if len(data["forecasts"]) != 1:
                raise InputError(
                    f"The file holds {len(data['forecasts'])} forecasts; give one that holds the run's own."
                )
            data = data["forecasts"][0]
        try:
            loss, target = data["loss"], {name: float(value) for name, value in data["target"].items()}
            if "intervals" in loss:
                intervals = tuple(Interval(median=loss["median"], **bounds) for bounds in loss["intervals"])
                stated = intervals[0]
            else:
                stated = Interval.from_json(loss)
                intervals = tuple(Interval.from_json(each) for each in data["intervals"])
            good = all(0 < i.low <= i.median <= i.high and 0 < i.level < 1 for i in (stated, *intervals))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(
                f"This is no forecast ({type(error).__name__}: {error}); give a file of a store's forecasts/, or what "
                f"`windtunnel fit --json` printed."
            ) from None
        if not good:
            raise InputError("The forecast's intervals are not positive, or not in order; the file is damaged.")
        return cls(loss=stated, intervals=intervals or (stated,), target=target, key=str(data.get("key", "")),
                   runs=tuple(str(run) for run in data.get("runs", ())))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a run: how far it is, what the forecast expected here, and where it is heading.

    `expected` is the foretold loss at this share, `loss` the run's own (spikes outvoted), None before there is one.
    `final` is the final loss given forecast and curve, at the forecast's level; `inside` the probability that it lands
    in `foretold`, which is 0 or 1 once `done`.
    """

    share: float
    loss: float | None
    expected: Interval | None
    final: Interval
    inside: float
    foretold: Interval
    done: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "share": self.share,
            "loss": self.loss,
            "expected": self.expected.to_json() if self.expected else None,
            "final": self.final.to_json(),
            "probability_inside": self.inside,
            "foretold": self.foretold.to_json(),
            "done": self.done,
        }


def look_at(
    forecast: Foretold, share: np.ndarray, loss: np.ndarray, shapes: Shapes, truth: float | None = None
) -> Look:
    """What the rows so far say of the final loss: `share` of the horizon (n,) and `loss` (n,), NaN where there is none.

    `shapes` are those of the ladder (`shape_of`, with probability 1) or `typical_shapes`; `truth` is the final loss
    once it is known.
    """
    return _looked(forecast, share, loss, gathered(share, loss), shapes, truth)


def history(
    forecast: Foretold, share: np.ndarray, loss: np.ndarray, shapes: Shapes, below: float = WARN_BELOW
) -> tuple[bool, list[Look]]:
    """What looks along the way would have said: whether a warning stands, and each look at which one was raised.

    A watch that is started late, or again, so warns as one that was there from the start.
    """
    standing, raised = False, []
    level, noise = gathered(share, loss)
    dense = len(share) > 1 and FEW * float(np.median(np.diff(share))) < 2 * BIN
    for index, at in enumerate(known_at(dense)):
        if np.isfinite(level[index]):
            # as `gathered` knows it: where rows are sparse it waits for the row behind, and one more
            rows = int(np.searchsorted(share, at, side="right") if dense else np.searchsorted(share, at) + 2)
            so_far = np.where(np.arange(len(level)) <= index, level, np.nan)
            look = _looked(forecast, share[:rows], loss[:rows], (so_far, noise), shapes)
            before, standing = standing, warned(standing, look.inside, below)
            raised += [look] if standing and not before else []
    return standing, raised


def _looked(
    forecast: Foretold,
    share: np.ndarray,
    loss: np.ndarray,
    curve: tuple[np.ndarray, np.ndarray],
    shapes: Shapes,
    truth: float | None = None,
) -> Look:
    prior, now = prior_of(forecast.intervals), float(np.max(share[np.isfinite(loss)], initial=0.0))
    level = forecast.loss.level
    expected = _expected(prior, shapes, now, level) if now >= FIRST else None
    if truth is not None:
        known, inside = Interval(truth, truth, truth, level), float(forecast.loss.holds(truth))
    else:
        grid, mass = posterior(prior, headings_of(*curve, shapes))
        cumulative = np.cumsum(mass) - mass / 2
        low, middle, high = np.exp(np.interp([0.5 - level / 2, 0.5, 0.5 + level / 2], cumulative, grid)).tolist()
        ends = np.log([forecast.loss.low, forecast.loss.high])
        below, above = np.interp(ends, grid, cumulative, left=0.0, right=1.0)
        known, inside = Interval(middle, low, high, level), float(above - below)
    return Look(
        share=now,
        loss=current(share, loss) if truth is None else truth,
        expected=expected,
        final=known,
        inside=inside,
        foretold=forecast.loss,
        done=truth is not None,
    )


def current(share: np.ndarray, loss: np.ndarray) -> float | None:
    """The run's own loss now: the median of its rows over the last hundredth of the horizon, or of its last few."""
    usable = np.isfinite(loss)
    share, loss = share[usable], loss[usable]
    if not len(loss):
        return None
    near = loss[share >= share.max() - 0.01]
    return float(np.median(near if len(near) >= 5 else loss[-min(3, len(loss)) :]))


def _expected(prior: Heading, shapes: Shapes, now: float, level: float) -> Interval:
    weight = np.array([each for each, _ in shapes])
    excess, spread = np.array([shape.at(now) for _, shape in shapes]).T
    middle = float(weight @ excess)
    degrees = min(prior.degrees, *(shape.degrees for _, shape in shapes))
    deviation = np.sqrt(prior.scale**2 + weight @ (spread**2 + (excess - middle) ** 2))
    away = float(special.stdtrit(degrees, 0.5 + level / 2)) * deviation
    low, high = np.exp(prior.centre + middle + np.array([-away, away]))
    return Interval(float(np.exp(prior.centre + middle)), float(low), float(high), level)


def warned(before: bool, inside: float, below: float = WARN_BELOW) -> bool:
    """Whether a warning stands, given whether one stood before: raised below `below`, taken back well above it."""
    return inside < (below + (1 - below) * CALM if before else below)


def unit_doubt(look: Look) -> str:
    """A sentence where the run's loss stands as if written in another unit than the forecast's; empty otherwise."""
    if look.loss is None or look.expected is None or look.expected.holds(look.loss):
        return ""
    ratio = look.loss / look.expected.median
    for name, factor in UNITS:
        if abs(np.log(ratio / factor)) < 0.05:
            return f"the log's loss is {ratio:.3g} times what is expected here: is it in {name}? write both in one unit"
    if ratio < LOW:
        return (
            f"the log's loss is {ratio:.2g} times what is expected here: is it another unit (bits per byte?), another "
            f"tokenizer or another loss?"
        )
    if abs(np.log(look.loss) - look.expected.median) < 0.3 and look.loss > 3 * look.expected.median:
        return f"the log's loss, {look.loss:.4g}, is about e to the power of what is expected: is it a perplexity?"
    return ""
