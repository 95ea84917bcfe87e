"""`windtunnel score FORECAST RUN`: a stored forecast beside a stored run that came later."""

from __future__ import annotations

import argparse

from windtunnel.cli.shared import add_store, existing_store, print_json
from windtunnel.errors import InputError
from windtunnel.forecasts import Forecast, score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel score`."""
    parser.add_argument("forecast", metavar="FORECAST", help="a forecast's key or hash, or the beginning of one")
    parser.add_argument("run", metavar="RUN", help="a run's key or the beginning of one")
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the score and return 0."""
    store = existing_store(args)
    stored = store.forecasts()
    found = [f for f in stored if f["key"].startswith(args.forecast) or f["hash"].startswith(args.forecast)]
    if len(found) != 1:
        known = ", ".join(f["key"][:12] for f in stored) or "none"
        raise InputError(f"{len(found)} forecasts in {store.where} begin with {args.forecast!r}; known: {known}.")
    scored = score(Forecast.from_json(found[0]), store.get(args.run))
    print_json(scored.to_json()) if args.json else print(scored)
    return 0
