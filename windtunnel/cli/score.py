"""`windtunnel score FORECAST RUN`: a forecast beside a later run; with --follow, beside one that still trains."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.cli.shared import add_store, existing_store, print_json
from windtunnel.errors import InputError
from windtunnel.files import json_of
from windtunnel.forecasts import Forecast, score
from windtunnel.ladder import compact
from windtunnel.likeness import differing
from windtunnel.report.record import SAME
from windtunnel.runs import Run
from windtunnel.store import Store

NEARLY = 0.1  # a target that is stated in round numbers is this close to the run that is meant (guess)
EPILOG = """FORECAST is the beginning of a stored forecast's key or hash, or a JSON file: one of a store's forecasts/,
or what `windtunnel fit --json` printed for one target. LOG is a CSV, JSON lines or Parquet file, an export of W&B, a
TensorBoard event file or run folder, an MLflow run folder, or a Trainer's trainer_state.json; its columns are loss, and
tokens or steps.

examples:
  windtunnel score 3f2a 91c0                            a finished run of the store
  windtunnel score 3f2a --follow                        the run in flight
  windtunnel score forecast.json --follow train.jsonl --tokens-per-step 524288
  windtunnel score forecast.json --follow big.csv --ladder small.csv --ladder medium.csv --once --json

exit codes with --follow: 0 the final loss (or where it is heading, at a stop) is inside the forecast's interval, 3 it
is not, or the loss is NaN; 2 bad input.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("forecast", metavar="FORECAST", help="key or hash of a stored forecast, or a JSON file")
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run's key or the beginning of one")
    parser.add_argument("--follow", metavar="LOG", nargs="?", const="", help="watch RUN, or a log, while it trains")
    parser.add_argument("--columns", metavar="OURS=THEIRS,...", help="what the logs call loss, tokens, steps, lr")
    parser.add_argument(
        "--ladder", metavar="LOG", action="append", default=[], help="a finished smaller run's log; repeatable"
    )
    parser.add_argument("--tokens-per-step", metavar="N", type=_positive, help="where a log counts steps only")
    parser.add_argument("--horizon", metavar="N", type=_positive, help="tokens (or steps) at which the run ends")
    parser.add_argument("--every", metavar="SECONDS", type=_positive, default=10.0, help="time between looks (10)")
    parser.add_argument("--once", action="store_true", help="look once and stop")
    parser.add_argument("--warn-below", metavar="P", type=_share, default=0.5, help="warn at this probability (0.5)")
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the score and return 0; with --follow, watch until the end and return 0 inside, 3 outside."""
    if args.follow is not None:
        from windtunnel.cli.follow import follow

        return follow(args)
    if args.run is None:
        raise InputError("score needs a RUN, or --follow and a log: windtunnel score FORECAST --follow LOG.")
    data, store = forecast_of(args)
    store = store or existing_store(args)
    forecast, run = Forecast.from_json(data), store.get(args.run)
    _check_foretold(forecast, run, store)
    scored = score(forecast, run)
    print_json(scored.to_json()) if args.json else print(scored)
    return 0


def forecast_of(args: argparse.Namespace) -> tuple[dict[str, Any], Store | None]:
    """The forecast's JSON: of a file, else of the store, which is returned with it."""
    file = Path(args.forecast)
    if file.is_file():
        return json_of(file.read_bytes(), str(file), "Give a forecast's file, or the key of a stored one."), None
    if file.suffix == ".json":
        raise InputError(f"{file} does not exist; give a forecast's file, or the key of a stored one.")
    store = existing_store(args)
    stored = store.forecasts()
    found = [f for f in stored if f["key"].startswith(args.forecast) or f["hash"].startswith(args.forecast)]
    if len(found) != 1:
        known = ", ".join(f["key"][:12] for f in stored) or "none"
        raise InputError(f"{len(found)} forecasts in {store.where} begin with {args.forecast!r}; known: {known}.")
    return found[0], store


def _check_foretold(forecast: Forecast, run: Run, store: Store) -> None:
    """Raise InputError for a run of another size than the forecast's; say where it is a little off, or is of another
    recipe than the runs that it was made from, or was asked for as one where the store does not hold these.

    Labels prove nothing: a run that two recipes or studies share bears those of whoever asked first.
    """
    check_size(forecast.target, run)
    asked, foretold = run.labels.get("idea") or "base", forecast.idea or "base"
    known = next((store.get(key) for key in forecast.runs if key in store), None)
    apart = [] if known is None else differing(known.spec, run.spec)
    if apart:
        print(f"note: the run's recipe is not that of the forecast's runs: {', '.join(apart)}", file=sys.stderr)
    elif known is None and forecast.study and asked != foretold:
        print(f"note: the forecast is of {foretold}, the run was asked for as {asked}", file=sys.stderr)


def check_size(target: Mapping[str, float], run: Run) -> None:
    """Raise InputError for a run of another size than the one foretold; say where it is a little off."""
    sizes = {"params": float(run.size.params), "tokens": float(run.spec.rung.tokens)}
    off = max((abs(target[name] / value - 1) for name, value in sizes.items() if name in target), default=0.0)
    if SAME < off <= NEARLY:
        print(f"note: the run's sizes are up to {100 * off:.1f} % off the forecast's", file=sys.stderr)
    if off > NEARLY:
        trained, asked = (", ".join(f"{compact(each)} {name}" for name, each in s.items()) for s in (sizes, target))
        raise InputError(
            f"Run {run.key[:12]} has {trained}; the forecast is for {asked}, so it says nothing of this run. "
            f"`windtunnel runs` lists the others."
        )


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a probability between 0 and 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
