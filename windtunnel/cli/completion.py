"""`windtunnel --print-completion SHELL`: the script by which a shell completes our verbs, flags and files.

shtab writes it once from the parser, so that pressing TAB starts no Python; a completer that asks the program itself
(argcomplete) would load every verb at each TAB, about a second. It is a flag and no verb: nobody types it twice.
"""

from __future__ import annotations

import argparse
from typing import Any

from windtunnel.errors import InputError, meant

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
FOLDERS = ("PLACE", "FOLDER")  # metavars; what a flag takes is a folder
FILES = ("STUDY.py", "IDEA.py", "RUNS", "TABLE", "LOG", "FORECAST")


class Completion(argparse.Action):
    """The flag --print-completion: print the script and leave with code 0."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Print and leave. Raises InputError for a shell that has no completion."""
        print(script(str(values)))
        parser.exit()


def script(shell: str) -> str:
    """The completion script for a shell. Raises InputError for an unknown one, and where shtab is missing."""
    if shell not in SHELLS:
        raise InputError(
            f"--print-completion was given {shell[:60]!r}; it writes for {', '.join(SHELLS[:-1])} and {SHELLS[-1]}."
            f"{meant(shell[:60], SHELLS)}"
        )
    try:
        import shtab
    except ModuleNotFoundError:
        raise InputError("--print-completion needs shtab, which writes the script: pip install shtab.") from None
    from windtunnel.cli import parser

    top = parser()
    for each in _parsers(top):
        for action in each._actions:
            _say_what_completes(action, shtab.FILE, shtab.DIRECTORY)
    return shtab.complete(top, shell)


def _parsers(top: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return [top, *verbs.choices.values()]


def _say_what_completes(action: Any, file: Any, folder: Any) -> None:
    if action.metavar == "SHELL":
        action.choices = SHELLS
    elif action.metavar in FILES:
        action.complete = file
    elif action.metavar in FOLDERS:
        action.complete = folder
