"""`windtunnel run STUDY.py`: the main job, followed live; then the report. Run again to resume."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from windtunnel.cli.live import Live, Plain
from windtunnel.cli.shared import add_study, add_where, launcher_of, load_study, open_store, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel run`."""
    add_study(parser)
    add_where(parser)


def execute(args: argparse.Namespace) -> int:
    """Train what is missing, print the answer; 3 if a forecast fails its own backtest."""
    from windtunnel.study.words import caveat_lines

    study, store = load_study(args.study), open_store(args)
    watch = Live() if sys.stderr.isatty() else Plain()
    with watch, launcher_of(args) as launcher:
        result = study.run(store, launcher=launcher, watch=watch)
    command = f"windtunnel run {shlex.quote(args.study)} --store {shlex.quote(args.store)}"
    page = Path(args.store) / f"{study.name.replace(' ', '-')}.html"
    result.report(page, command=command, study_file=args.study)
    if args.json:
        print_json(result.to_json() | {"report": str(page)})
    else:
        print("\n".join(["", *(f"caveat: {c}" for c in caveat_lines(result)), "", *result.lines(), ""]))
        print(f"report: {page}\nrepeat: {command}")
    return 0 if result.reliable else 3
