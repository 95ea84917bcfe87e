"""`windtunnel report STUDY.py`: rewrite the HTML page from the store."""

from __future__ import annotations

import argparse

from windtunnel.cli.shared import add_study, existing_store, load_study, print_json, write_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel report`."""
    add_study(parser)


def execute(args: argparse.Namespace) -> int:
    """Write the page, print its path and return 0."""
    study, store = load_study(args.study), existing_store(args)
    page, _ = write_page(study.answer(store), args)
    print_json({"report": str(page)}) if args.json else print(page)
    return 0
