"""Forecast: a target's loss as intervals, with caveats, laws and backtest; written once, hashed, never edited.

Its key is a hash of everything it is computed from, so asking the same twice gives the same forecast. Score: that
forecast beside a run that came later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.files import misfit, shape_of
from windtunnel.forecasts.backtest import Backtest, Hidden
from windtunnel.forecasts.interval import Interval, digits
from windtunnel.forecasts.place import Place, located, runs_of
from windtunnel.ladder import Size, Target, compact, in_words
from windtunnel.notebook import card, marked, printed
from windtunnel.runs import Run, canonical

if TYPE_CHECKING:
    from windtunnel.forecasts.fit import Fit

_NUMBER = (int, float)
_INTERVAL = {"median": _NUMBER, "low": _NUMBER, "high": _NUMBER, "level": _NUMBER}
_HIDDEN = {"kept": int, "rung": int, "size": _NUMBER, "predicted": _INTERVAL, "truth": _NUMBER, "error": _NUMBER}
_SHAPE = {
    "key": str, "created": str, "study": str, "idea": str, "target": {str: _NUMBER}, "loss": _INTERVAL,
    "intervals": [_INTERVAL], "laws": {str: _NUMBER}, "caveats": [str], "backtest": [_HIDDEN | {"z": _NUMBER}],
    "reliable": bool, "hyperparameters": {str: _INTERVAL}, "runs": [str],
}  # fmt: skip
METHOD = 4  # raised by one when the same runs would give other numbers; part of every forecast's key
LEVELS = (0.5, 0.8, 0.9, 0.95)
WIDE = 3.0  # highest over lowest loss of an interval from which it is said that it tells next to nothing (guess)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Loss (the runs' unit, usually nats per token) of one new run at the target, foretold from smaller runs.

    `target` holds the params, tokens, flops used. `loss` is at the asked level, `intervals` at several. `reliable` is
    False when the forecast fails its own backtest, or stands on runs that no law describes. `created` is ISO, UTC.
    """

    key: str
    created: str
    target: Mapping[str, float]
    loss: Interval
    intervals: tuple[Interval, ...]
    laws: Mapping[str, float]
    caveats: tuple[str, ...]
    backtest: Backtest
    reliable: bool
    runs: tuple[str, ...] = field(repr=False)
    hyperparameters: Mapping[str, Interval] = field(default_factory=dict)
    study: str = ""
    idea: str = ""

    _repr_pretty_ = printed

    def __str__(self) -> str:
        lines = marked(self.doubts)
        lines.append(f"loss at {self.place}: {self.loss}")
        lines += [f"best {name}: {interval}" for name, interval in self.hyperparameters.items()]
        lines.append("laws: " + ", ".join(f"{name} {weight:.2f}" for name, weight in self.laws.items()))
        return "\n".join([*lines, str(self.backtest)])

    def _repr_html_(self) -> str:
        failed = [] if self.reliable else [self._unreliable()]
        facts = {f"{100 * i.level:g}% interval": f"{digits(i.low)} to {digits(i.high)}" for i in self.intervals}
        facts |= {f"best {name}": str(interval) for name, interval in self.hyperparameters.items()}
        facts |= {"laws": ", ".join(f"{name} {weight:.2f}" for name, weight in self.laws.items())}
        rows = [
            (f"size {compact(h.size)} from {h.kept} rungs", h.predicted, digits(h.truth), "yes" if h.held else "no")
            for h in self.backtest.hidden
        ]
        return card(
            f"Forecast for {self.place}", says=f"loss {self.loss}", caveats=[*failed, *self.caveats], facts=facts,
            head=("hidden rung", "predicted", "truth", "held") if rows else (), rows=rows,
        )  # fmt: skip

    @property
    def doubts(self) -> tuple[str, ...]:
        """The caveats, and before them that the forecast is not reliable, where none of them says so by itself."""
        told = self.reliable or self.backtest.failed or not self.backtest.hidden
        return self.caveats if told else (self._unreliable(), *self.caveats)

    def _unreliable(self) -> str:
        if self.backtest.failed:
            return "This forecast fails its own backtest."
        return "This forecast is not reliable: " + (
            "the caveats say why." if self.backtest.hidden else "too few rungs or runs to hide one and foretell it."
        )

    @property
    def place(self) -> str:
        """The target's sizes in words."""
        return in_words(self.target)

    @property
    def question(self) -> tuple[Any, ...]:
        """What it answers and from which runs. Forecasts of one question may differ in method, words and numbers."""
        return (self.study, self.idea, dict(self.target), self.loss.level, sorted(self.runs))

    def but(self, **changes: Any) -> Forecast:
        """This forecast with labels or hyperparameters filled in, before it is stored."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain data, fit for `Store.add_forecast`, that `from_json` reads."""
        return {
            "key": self.key,
            "created": self.created,
            "study": self.study,
            "idea": self.idea,
            "target": dict(self.target),
            "loss": self.loss.to_json(),
            "intervals": [interval.to_json() for interval in self.intervals],
            "laws": dict(self.laws),
            "caveats": list(self.caveats),
            "backtest": [hidden.to_json() for hidden in self.backtest.hidden],
            "reliable": self.reliable,
            "hyperparameters": {name: interval.to_json() for name, interval in self.hyperparameters.items()},
            "runs": list(self.runs),
            "method": METHOD,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Forecast:
        """The forecast that `to_json` wrote (a seal that the store added is ignored). Raises InputError for another."""
        wrong = misfit(data, _SHAPE, "the forecast")
        if wrong:
            raise InputError(f"This is not a forecast: {wrong}.")
        with shape_of("This forecast", "it was written by something else."):
            return cls._of(data)

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Forecast:
        return cls(
            key=data["key"],
            created=data["created"],
            study=data["study"],
            idea=data["idea"],
            target=data["target"],
            loss=Interval.from_json(data["loss"]),
            intervals=tuple(Interval.from_json(interval) for interval in data["intervals"]),
            laws=data["laws"],
            caveats=tuple(data["caveats"]),
            backtest=Backtest(tuple(Hidden.from_json(hidden) for hidden in data["backtest"])),
            reliable=data["reliable"],
            hyperparameters={name: Interval.from_json(i) for name, i in data["hyperparameters"].items()},
            runs=tuple(data["runs"]),
        )


def make_forecast(
    fit: Fit,
    target: Target,
    level: float = 0.9,
    *,
    levels: Sequence[float] = (),
    size: Size | None = None,
    hyperparameters: Mapping[str, Interval] | None = None,
    study: str = "",
    idea: str = "",
) -> Forecast:
    """The loss at a target, with its interval at `level`, caveats and backtest.

    `levels` asks for further intervals beside the usual ones. A target with a rung needs `size`, the model's Size at
    that rung. Raises InputError for a level outside (0, 1) and for a target that lacks a size the laws need.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; it is the probability that the interval holds the truth, as in 0.9.")
    place = located(runs_of(fit), target, size, fit.reads, fit.unread)
    mixture = fit.predict(place.sizes)
    intervals = tuple(mixture.interval(each, exponential=True) for each in sorted({*LEVELS, level, *levels}))
    loss = next(interval for interval in intervals if interval.level == level)
    return Forecast(
        key=_key(fit, place, level, study, idea),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        target=place.stated(),
        loss=loss,
        intervals=intervals,
        laws=fit.shares(),
        caveats=(*fit.caveats, *place.caveats, *_wide(loss)),
        backtest=fit.backtest,
        reliable=fit.reliable and place.supported,
        runs=fit.run_keys,
        hyperparameters=dict(hyperparameters or {}),
        study=study,
        idea=idea,
    )


def _wide(loss: Interval) -> tuple[str, ...]:
    """What to say of an interval that rules out next to nothing."""
    times = loss.high / loss.low
    said = f"Its {100 * loss.level:g}% interval spans a factor of {times:.2g}: these runs hardly tell the loss there."
    return (said,) if times > WIDE else ()


def _key(fit: Fit, place: Place, level: float, study: str, idea: str) -> str:
    origin = {
        "method": METHOD,
        "runs": fit.run_hash,
        "laws": [law.law.name for law in fit.laws],
        "draws": [len(law.drawn) for law in fit.laws],
        "target": place.stated(),
        "level": level,
        "study": study,
        "idea": idea,
    }
    return hashlib.sha256(canonical(origin).encode()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A forecast beside the truth that came later. `error` is forecast minus truth; `relative` is its share of truth.

    `inside` says for each level whether the interval held the truth. `made_before` is None where the truth carries no
    date, and False for a forecast that is no forecast.
    """

    predicted: Interval
    truth: float
    error: float
    relative: float
    inside: Mapping[float, bool]
    made_before: bool | None

    _repr_pretty_ = printed

    def __str__(self) -> str:
        flag = "" if self.made_before is not False else "NOT A FORECAST (made after the run): "
        held = "inside" if self.predicted.holds(self.truth) else "OUTSIDE"
        return (
            f"{flag}foretold {self.predicted}, truth {digits(self.truth)}: error {100 * self.relative:+.2f} %, "
            f"{held} the interval"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "predicted": self.predicted.to_json(),
            "truth": self.truth,
            "error": self.error,
            "relative_error": self.relative,
            "inside": {f"{level:g}": held for level, held in self.inside.items()},
            "made_before": self.made_before,
        }


def score(forecast: Forecast, run: Run | float) -> Score:
    """Set a forecast beside a later run, or beside a loss without a date.

    Raises InputError for a run without a loss.
    """
    truth = run.loss if isinstance(run, Run) else float(run)
    if truth is None or not np.isfinite(truth) or truth <= 0:
        raise InputError(f"The run has no usable loss ({truth!r}), so it cannot be scored; give a finished run.")
    created = run.created if isinstance(run, Run) else ""
    return Score(
        predicted=forecast.loss,
        truth=truth,
        error=forecast.loss.median - truth,
        relative=forecast.loss.median / truth - 1,
        inside={interval.level: interval.holds(truth) for interval in forecast.intervals},
        made_before=moment(forecast.created) < moment(created) if created else None,
    )


def moment(text: str) -> datetime:
    """A written date as a moment, in UTC where it names no zone; the first of all for what is no date."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = datetime.min  # a run without a date may have been there before
    return found if found.tzinfo else found.replace(tzinfo=UTC)
