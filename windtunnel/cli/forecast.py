"""`windtunnel forecast STUDY.py`: forecasts from stored runs only; writes them once, trains nothing."""

from __future__ import annotations

import argparse

from windtunnel.cli.shared import add_study, existing_store, load_study, print_json
from windtunnel.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel forecast`."""
    add_study(parser)


def execute(args: argparse.Namespace) -> int:
    """Write and print a forecast for each recipe that has enough runs; 3 if one fails its own backtest."""
    from windtunnel.forecasts import Forecast
    from windtunnel.study.answer import seal
    from windtunnel.study.stages import Stages

    study, store = load_study(args.study), existing_store(args)
    study.check()
    stages = Stages(study, store)
    stored = {name: f for name in stages.recipes if (f := seal(stages, name)) is not None}
    if not stored:
        raise InputError(
            f"{store.where} holds too few runs of {study.name}: a forecast needs tuned hyperparameters and three "
            f"rungs. `windtunnel run {args.study}` trains them."
        )
    if args.json:
        print_json({"forecasts": stored})
    else:
        for name, forecast in stored.items():
            print(f"{name}, written {forecast['created']}, hash {forecast['hash']}")
            print(Forecast.from_json(forecast), end="\n\n")
    return 0 if all(forecast["reliable"] for forecast in stored.values()) else 3
