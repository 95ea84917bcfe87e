"""`windtunnel fit RUNS.csv`: laws and forecasts from anyone's table of runs.

Each series (and idea) is fitted on its own. Rows whose split is `predict` are targets; their losses are looked at only
after the forecast is made, to score it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.forecasts import Fit, Forecast, Score, fit, score
from windtunnel.ladder import Target
from windtunnel.laws import Observations, read_runs
from windtunnel.laws.observations import SIZE_COLUMNS

EPILOG = """examples:
  windtunnel fit runs.csv --target "params=7e9,tokens=1.4e11"
  windtunnel fit runs.csv --columns "params=n_params,loss=val_loss" --level 0.8 --json"""


@dataclass(frozen=True)
class Answer:
    """One forecast of one series, with its score where the truth was in the table."""

    series: str
    forecast: Forecast
    score: Score | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel fit`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("runs", metavar="RUNS", help="table with one row a run: CSV, TSV, Parquet or JSON lines")
    parser.add_argument(
        "--columns",
        metavar="OURS=THEIRS,...",
        help="what the table calls our columns loss, params, tokens, flops, seed, series, idea, split, key",
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="SIZES", help='e.g. "params=7e9,tokens=1.4e11"; repeatable'
    )
    parser.add_argument(
        "--level", action="append", type=float, default=[], help="probability of the interval, default 0.9; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Fit, print, and return 0, or 3 if a forecast fails its own backtest. Raises InputError for a bad input."""
    levels = tuple(args.level) or (0.9,)
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"--level is {level:g}; it is a probability between 0 and 1, as in 0.9.")
    targets = [parse_target(text) for text in args.target]
    fits = {name: (fit(runs), runs) for name, runs in _series(read_runs(args.runs, args.columns))}
    answers = [answer for name, pair in fits.items() for answer in _answers(name, *pair, targets, levels)]
    if args.json:
        print(json.dumps(_json(fits, answers, levels)))
    else:
        print("\n".join(_text(fits, answers, levels)))
    return 0 if all(answer.forecast.reliable for answer in answers) else 3


def parse_target(text: str) -> Target:
    """'params=7e9,tokens=1.4e11' as a Target; raises InputError with the form that is needed."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    sizes: dict[str, Any] = {}
    for name, _, value in pairs:
        if name.strip() not in SIZE_COLUMNS:
            raise InputError(
                f"--target {text!r} names {name.strip()!r}; write params=, tokens= or flops=, as in "
                f'"params=7e9,tokens=1.4e11".'
            )
        try:
            sizes[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"--target {text!r}: {value.strip()!r} is not a number; write it as 7e9.") from None
    return Target(**sizes)  # refuses an empty or negative one itself


def _series(runs: Observations) -> Iterable[tuple[str, Observations]]:
    """Series that have rows to fit; one that only has targets cannot be foretold and says so."""
    for name, part in runs.by_series():
        if len(part.to_fit()) == 0:
            raise InputError(f"{runs.source}: series {name!r} has only `predict` rows; a forecast needs rows to fit.")
        yield name, part


def _answers(
    name: str, fitted: Fit, runs: Observations, targets: Sequence[Target], levels: Sequence[float]
) -> list[Answer]:
    rows = runs.to_predict()
    asked: list[tuple[Target, float]] = [(target, float("nan")) for target in targets]
    asked += [(_row_target(rows, i), float(rows.loss[i])) for i in range(len(rows))]
    found = []
    for target, truth in asked:
        forecast = fitted.forecast(target, levels[0], levels=levels[1:])
        found.append(Answer(name, forecast, score(forecast, truth) if np.isfinite(truth) else None))
    return found


def _row_target(rows: Observations, i: int) -> Target:
    stated = {name: getattr(rows, name) for name in SIZE_COLUMNS}
    sizes: dict[str, Any] = {name: float(values[i]) for name, values in stated.items() if values is not None}
    return Target(**sizes)


def _json(fits: dict[str, tuple[Fit, Observations]], answers: list[Answer], levels: Sequence[float]) -> dict[str, Any]:
    return {
        "forecasts": [_forecast_json(answer, levels) for answer in answers],
        "scores": _summary(answers),
        "fits": [_fit_json(name, fitted) for name, (fitted, _) in fits.items()],
    }


def _forecast_json(answer: Answer, levels: Sequence[float]) -> dict[str, Any]:
    forecast = answer.forecast
    shown = [interval for interval in forecast.intervals if interval.level in levels]
    return {
        "series": answer.series,
        "target": dict(forecast.target),
        "loss": {
            "median": forecast.loss.median,
            "intervals": [{"level": i.level, "low": i.low, "high": i.high} for i in shown],
        },
        "laws": [{"name": name, "weight": weight} for name, weight in forecast.laws.items()],
        "caveats": list(forecast.caveats),
        "backtest": [hidden.to_json() for hidden in forecast.backtest.hidden],
        "reliable": forecast.reliable,
        "key": forecast.key,
        "score": answer.score.to_json() if answer.score else None,
    }


def _fit_json(name: str, fitted: Fit) -> dict[str, Any]:
    return {
        "series": name,
        "laws": [
            {"name": law.law.name, "weight": weight, "parameters": law.parameters(), "residual": law.spread}
            for law, weight in zip(fitted.laws, fitted.weights, strict=True)
        ],
        "noise": {"relative": fitted.noise.relative, "df": fitted.noise.df, "source": fitted.noise.source},
        "runs": len(fitted.observations),
        "caveats": list(fitted.caveats),
        "reliable": fitted.reliable,
    }


def _summary(answers: list[Answer]) -> dict[str, Any]:
    """How the forecasts did on the rows whose losses were known."""
    scores = [answer.score for answer in answers if answer.score]
    if not scores:
        return {}
    errors = np.abs([each.relative for each in scores])
    return {
        "n": len(scores),
        "mean_absolute_relative_error": float(errors.mean()),
        "largest_absolute_relative_error": float(errors.max()),
        "coverage": {
            f"{level:g}": float(np.mean([each.inside[level] for each in scores])) for level in scores[0].inside
        },
    }


def _text(fits: dict[str, tuple[Fit, Observations]], answers: list[Answer], levels: Sequence[float]) -> list[str]:
    lines: list[str] = []
    for name, (fitted, _) in fits.items():
        own = [answer for answer in answers if answer.series == name]
        lines += [f"== {name}"] if name else []
        lines += [f"caveat: {caveat}" for caveat in fitted.caveats]
        for answer in own:
            lines += _answer_lines(fitted, answer, levels)
        lines += [*str(fitted).splitlines()[len(fitted.caveats) :], ""]
    summary = _summary(answers)
    if summary:
        covered = ", ".join(f"{100 * float(level):g}%: {share:.2f}" for level, share in summary["coverage"].items())
        error = f"mean error {100 * summary['mean_absolute_relative_error']:.2f} %"
        lines.append(f"scored {summary['n']} forecasts: {error}, share inside {covered}")
    return lines


def _answer_lines(fitted: Fit, answer: Answer, levels: Sequence[float]) -> list[str]:
    """The target's own caveats, the number, further levels, the score; the fit's caveats are printed once above."""
    forecast = answer.forecast
    lines = [f"caveat: {caveat}" for caveat in forecast.caveats if caveat not in fitted.caveats]
    lines += [f"loss at {forecast.place}: {forecast.loss}"]
    lines += [f"    {interval}" for interval in forecast.intervals if interval.level in levels[1:]]
    return lines + ([f"    {answer.score}"] if answer.score else [])
