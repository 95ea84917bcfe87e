"""`windtunnel plan STUDY.py`: what a study would train and what it would cost; trains and writes nothing."""

from __future__ import annotations

import argparse

from windtunnel.cli.meta import is_meta
from windtunnel.cli.meta import planned as of_meta
from windtunnel.cli.shared import add_study, add_where, load_study, open_store, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel plan`."""
    add_study(parser)
    add_where(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the plan and return 0."""
    from windtunnel.study.plan import plan

    study = load_study(args.study, also=is_meta)
    if is_meta(study):
        return of_meta(study, args)
    store = open_store(args)
    study.check()
    planned = plan(study, store, args.devices)
    print_json(planned.to_json()) if args.json else print(planned)
    return 0
