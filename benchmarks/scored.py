"""Scores of forecasts beside hidden runs: errors, coverage by series, widths over an oracle's, rounded once.

Runs of one series err together, so every figure is a mean (or median) over series of a figure of each series, and the
pooled one stands beside it. A newcomer would call an interval good that covers; a very wide one does. So widths are
divided by what an oracle would have needed: the one relative half-width that just holds 95 % of a table's hidden runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.tables import Series
from windtunnel.errors import InputError
from windtunnel.forecasts import fit
from windtunnel.ladder import Target
from windtunnel.laws import Observations
from windtunnel.laws.observations import ALL_SIZES

LEVELS = (0.8, 0.95)


@dataclass(frozen=True, eq=False)
class Told:
    """One series foretold: log truth and log median (runs,), log bounds (2, runs) by level, and seconds for all of it.

    `epochs` are tokens over unique tokens; `refused` says why nothing was foretold, the arrays then being empty.
    """

    table: str
    name: str
    domain: str
    truth: np.ndarray
    median: np.ndarray
    bounds: Mapping[float, np.ndarray]
    epochs: np.ndarray
    seconds: float
    refused: str = ""

    @property
    def error(self) -> np.ndarray:
        """Absolute relative errors of the hidden runs: (runs,)."""
        return np.abs(np.expm1(self.median - self.truth))

    @property
    def half(self) -> np.ndarray:
        """Half of each 95 % interval, in log loss: (runs,)."""
        low, high = self.bounds[0.95]
        return 0.5 * (high - low)

    def held(self, level: float) -> float:
        """Share of hidden runs inside their interval."""
        low, high = self.bounds[level]
        return float(np.mean((low <= self.truth) & (self.truth <= high)))

    def where(self, mask: np.ndarray) -> Told:
        """Only some of the hidden runs."""
        bounds = {level: each[:, mask] for level, each in self.bounds.items()}
        picked = {name: getattr(self, name)[mask] for name in ("truth", "median", "epochs")}
        return Told(**{**vars(self), **picked, "bounds": bounds})


def foretell(series: Series, laws: Sequence[Any] | None = None) -> Told:
    """Fit the rows to fit, forecast every hidden run; a hidden loss is looked at only here, afterwards."""
    start, hidden = time.perf_counter(), series.observations.to_predict()
    refused, answers = "", []
    try:
        fitted = fit(series.observations.to_fit(), laws)
        answers = [fitted.forecast(target, 0.95) for target in targets(hidden)]
    except InputError as error:
        refused, hidden = str(error), hidden.where(np.zeros(len(hidden), bool))
    stated = [{interval.level: interval for interval in answer.intervals} for answer in answers]
    bounds = {level: np.log([[i[level].low, i[level].high] for i in stated]).reshape(-1, 2).T for level in LEVELS}
    median = np.log([answer.loss.median for answer in answers])
    taken = time.perf_counter() - start
    return Told(
        series.table, series.name, series.domain, np.log(hidden.loss), median, bounds, epochs(hidden), taken, refused
    )


def targets(hidden: Observations) -> list[Target]:
    """What is stated of each hidden run, without its loss."""
    columns = {name: column for name in ALL_SIZES if (column := getattr(hidden, name)) is not None}
    rows: list[dict[str, Any]] = [{name: float(c[i]) for name, c in columns.items()} for i in range(len(hidden))]
    return [Target(**row) for row in rows]


def epochs(o: Observations) -> np.ndarray:
    """Tokens over unique tokens; 1 where data do not repeat."""
    return np.ones(len(o)) if o.unique_tokens is None or o.tokens is None else o.tokens / o.unique_tokens


def oracle(errors: np.ndarray, share: float = 0.95) -> float:
    """The least constant half-width, in log loss, that holds this share of the runs (of few: all of them)."""
    return float(np.quantile(np.abs(errors), share, method="inverted_cdf"))


def line(told: Sequence[Told]) -> dict[str, Any]:
    """The scores of a table; series that were refused are counted beside, never filled in."""
    refused = [t for t in told if t.refused]
    done = [t for t in told if not t.refused]
    if not done:
        return {"series": 0, "hidden": 0, "refused": len(refused)}
    away = [np.abs(t.median - t.truth) for t in done]
    just = max(oracle(np.concatenate(away)), 1e-9)
    own = [float(np.mean(t.half) / max(float(a.max()), 1e-9)) for t, a in zip(done, away, strict=True)]
    return rounded({
        "series": len(done), "hidden": sum(len(t.truth) for t in done), "refused": len(refused),
        "error_percent": 100 * mean([t.error.mean() for t in done]),
        "error_pooled_percent": 100 * float(np.concatenate([t.error for t in done]).mean()),
        "error_largest_percent": 100 * max(float(t.error.max()) for t in done),
        **{f"coverage_{100 * level:g}": mean([t.held(level) for t in done]) for level in LEVELS},
        "width_over_oracle": float(np.median(np.concatenate([t.half for t in done]))) / just,
        "width_over_own_largest_error": float(np.median(own)),
        "seconds": sum(t.seconds for t in done),
    })  # fmt: skip


def over_series(told: Sequence[Told]) -> dict[str, Any]:
    """Coverage as a mean over all series of all tables; widths over each series' own table's oracle."""
    done = [t for t in told if not t.refused]
    tables = dict.fromkeys(t.table for t in done)
    just = {name: oracle(np.concatenate([t.median - t.truth for t in done if t.table == name])) for name in tables}
    over = [float(np.median(t.half)) / max(just[t.table], 1e-9) for t in done]
    own = [float(np.mean(t.half)) / max(float(np.abs(t.median - t.truth).max()), 1e-9) for t in done]
    by_table = {level: [mean([t.held(level) for t in done if t.table == name]) for name in tables] for level in LEVELS}
    return rounded({
        "series": len(done), "tables": len(tables),
        **{f"coverage_{100 * level:g}": mean([t.held(level) for t in done]) for level in LEVELS},
        **{f"coverage_{100 * level:g}_mean_of_tables": mean(by_table[level]) for level in LEVELS},
        "width_over_oracle": float(np.median(over)), "width_over_own_largest_error": float(np.median(own)),
    })  # fmt: skip


def rmsle(told: Sequence[Told], of: Callable[[Told], str]) -> dict[str, Any]:
    """Mean over series of the root mean square log error, by group."""
    each: dict[str, list[float]] = {}
    for t in told:
        if not t.refused:
            each.setdefault(of(t), []).append(float(np.sqrt(np.mean((t.median - t.truth) ** 2))))
    return rounded({name: mean(values) for name, values in each.items()})


def mean(values: Sequence[Any]) -> float:
    """Plain mean."""
    return float(np.mean(values))


def rounded(values: Any) -> Any:
    """Numbers in four significant digits, at any depth: what is committed must not hang on the last bit."""
    if isinstance(values, Mapping):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [rounded(value) for value in values]
    return float(f"{values:.4g}") if isinstance(values, float | np.floating) else values
