"""`windtunnel report STUDY.py`: rewrite the HTML page from the store."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from windtunnel.cli.shared import add_study, existing_store, load_study, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel report`."""
    add_study(parser)


def execute(args: argparse.Namespace) -> int:
    """Write the page, print its path and return 0."""
    study, store = load_study(args.study), existing_store(args)
    page = Path(args.store) / f"{study.name.replace(' ', '-')}.html"
    command = f"windtunnel run {shlex.quote(args.study)} --store {shlex.quote(args.store)}"
    study.answer(store).report(page, command=command, study_file=args.study)
    print_json({"report": str(page)}) if args.json else print(page)
    return 0
