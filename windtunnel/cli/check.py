"""`windtunnel check FILE.py`: the conformance suite on an idea, in seconds on a CPU. Exit 2 if a check fails.

A file with a variable `setup` is a training loop of the user's own, and is checked as check_setup.py says. The machine
comes first, as machine.py sees it, and alone where no file is given; what it lacks fails no check.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from windtunnel.cli import check_setup
from windtunnel.cli.machine import Machine, look, warned
from windtunnel.cli.shared import add_store, load_anew, load_module, print_json
from windtunnel.errors import InputError, printable

if TYPE_CHECKING:
    from windtunnel.conformance import Finding, Report

# mark -> on a terminal, its colour, in a pipe
MARKS = {
    "passed": ("✓", "green", "pass"),
    "failed": ("✗", "bold red", "FAIL"),
    "noted": ("·", "yellow", "note"),
    "skipped": ("-", "dim", "skip"),
}
NAME = 19  # columns of a check's name

Write = Callable[..., None]  # a line, its style, and how far its continuation is indented


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel check`."""
    parser.add_argument(
        "idea", metavar="IDEA.py", nargs="?",
        help="a Python file with a function Recipe -> Recipe, or with a `setup` and `sizes`; else the machine alone",
    )  # fmt: skip
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Say what machine this is and check every idea of the file; 0 if all pass, 2 if one fails."""
    machine = look(args.store)
    write = _silent if args.json else _writer()
    _tell_machine(machine, write)
    if args.idea is None:
        if args.json:
            print_json({"machine": machine.to_json()})
        return 0
    return _checked(args, machine, write)


def _checked(args: argparse.Namespace, machine: Machine, write: Write) -> int:
    from windtunnel.conformance import ideas_of, report

    module = _loaded(args.idea)
    if check_setup.is_setup(module):
        return check_setup.execute(module, args.idea, machine.to_json() if args.json else None)
    subjects = ideas_of(module, args.idea, partial(load_anew, args.idea))
    reports = []
    for subject in subjects:
        write(f"{subject.name}: {subject.claim.splitlines()[0] if subject.claim else 'no claim'}", "bold")
        reports.append(report(subject, tell=lambda finding: _tell(finding, write)))
        write(f"{reports[-1]}{_next(reports[-1])}")
    if args.json:
        passed = all(r.passed for r in reports)
        print_json({
            "file": args.idea, "passed": passed, "ideas": [r.to_json() for r in reports], "machine": machine.to_json(),
        })  # fmt: skip
    return 0 if all(r.passed for r in reports) else 2


def _loaded(path: str) -> ModuleType:
    """The file's module; an InputError that the file's own code raises is given its line."""
    try:
        return load_module(path)
    except InputError as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == Path(path).resolve()]
        if not lines:
            raise
        raise InputError(f"{path}, line {lines[-1]}: {error}") from error


def _tell_machine(machine: Machine, write: Write) -> None:
    write(printable(f"machine: {machine}"), "", len("machine: "))
    for warning in warned(machine):
        write(printable(f"warning: {warning}"), "yellow", len("warning: "))


def _tell(finding: Finding, write: Write) -> None:
    mark, colour, plain = MARKS[finding.mark]
    sign = mark if sys.stdout.isatty() else f"{plain:<4}"
    column = len(sign) + 1
    style = colour if finding.mark != "passed" else ""
    write(f"{sign} {finding.check:<{NAME}}{finding.found}", style, column + NAME)
    if finding.mark != "failed":
        return
    if finding.place is not None:
        write(f"{' ' * column}{finding.place}    {finding.place.code}", "cyan", column)
    for line in finding.remedy.splitlines():
        write(f"{' ' * column}{line}", "", column)


def _next(report: Report) -> str:
    return f"; name it in a study: ideas=[{report.idea}]" if report.passed else ""


def _writer() -> Write:
    """Colours and hanging indents on a terminal, whole plain lines in a pipe."""
    if not sys.stdout.isatty():
        return lambda text, style="", indent=0: print(text, flush=True)
    from rich.console import Console

    console = Console(highlight=False)

    def write(text: str, style: str = "", indent: int = 0) -> None:
        wrapped = textwrap.wrap(text, console.width, subsequent_indent=" " * indent)
        console.print("\n".join(wrapped), style=style or None, markup=False)

    return write


def _silent(text: str, style: str = "", indent: int = 0) -> None: ...
