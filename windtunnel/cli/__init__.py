"""The command line: verbs, no science. Exit codes: 0 done, 1 our bug, 2 bad input, 3 done but a forecast fails its own
backtest, or (score --follow) the run lands outside it, 4 paused: the disk is full or the budget is spent; 130
interrupted, 143 asked to leave by SIGTERM (4, 130, 143: the same command goes on); docs/exit-codes.md.

Flags say where and how, never science; a test freezes them.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from windtunnel.cli.about import Version
from windtunnel.cli.completion import SHELLS, Completion
from windtunnel.errors import InputError, Paused, Stopped, meant, printable
from windtunnel.places import FULL

PAUSED = 4
VERBS = {
    "check": "conformance of an idea in seconds: loads, packs, repeats, learns, is width-stable, saves",
    "plan": "the dry run of a study: runs missing, FLOPs, minutes, memory",
    "run": "tune, train the ladder, write the forecast, report; run again to resume",
    "forecast": "forecasts of a study from stored runs only",
    "fit": "laws and a forecast from anyone's table of runs",
    "report": "rewrite a study's HTML report from the store",
    "runs": "list the records of a store, or show one",
    "score": "set a forecast beside the run that came later, or beside one that still trains",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # the bytes of a path that is no text, as they are
    try:
        args = _parsed(arguments)
        code = import_module(f"windtunnel.cli.{args.verb}").execute(args)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"windtunnel: {printable(error)}", file=sys.stderr)
        return PAUSED if isinstance(error, Paused) else 2
    except KeyboardInterrupt:
        again = printable(shlex.join(["windtunnel", *arguments]))
        print(f"windtunnel: interrupted; finished runs are kept, the same command goes on from here: {again}",
              file=sys.stderr)  # fmt: skip
        return 130
    except Stopped:
        print("windtunnel: asked to leave (SIGTERM); finished runs and checkpoints are kept, the same command goes on "
              "from here", file=sys.stderr)  # fmt: skip
        return 143
    except BrokenPipeError:
        _discard()  # the reader of our output left, as `head` does
        return 0
    except ModuleNotFoundError as error:
        return _missing(error)
    except MemoryError:
        print("windtunnel: out of memory; finished runs are kept. Train fewer packs at once (--devices).",
              file=sys.stderr)  # fmt: skip
        return 2
    except OSError as error:
        if error.errno not in (*FULL, errno.EACCES, errno.EPERM, errno.EROFS):
            return _bug()
        what = f"standard output: {error.strerror}" if error.filename is None and _unsaid() else error
        print(f"windtunnel: {what}; finished runs are kept, mend it and run again", file=sys.stderr)
        return PAUSED if error.errno in FULL else 2
    except Exception:
        return _bug()


def parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser with every verb; with arguments given, only the asked verb's module is imported."""
    top = _Parser(prog="windtunnel", description="Foretell a large model's result from small models.")
    top.add_argument("--version", action=Version, help="print our version and what it runs on, and leave")
    top.add_argument(
        "--print-completion", action=Completion, metavar="SHELL",
        help=f"print a completion script ({', '.join(SHELLS)}) and leave",
    )  # fmt: skip
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    asked = None if arguments is None else next((a for a in arguments if a in VERBS), "")
    for verb, says in VERBS.items():
        sub = verbs.add_parser(verb, help=says, description=says)
        if asked in (None, verb):
            import_module(f"windtunnel.cli.{verb}").add_arguments(sub)
    return top


class _Parser(argparse.ArgumentParser):
    """argparse, which takes no abbreviation for a flag and names what an unknown word was meant to be."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and leave with code 2."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        near = meant(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""
        super().error(message + ("." if near else "") + near)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    top = parser(arguments)
    args, unknown = top.parse_known_args(arguments)
    if unknown:
        verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
        verb = verbs.choices[args.verb]
        flags = [flag for action in verb._actions for flag in action.option_strings]
        near = meant(unknown[0].partition("=")[0], flags) if unknown[0].startswith("-") else ""
        verb.error(f"{args.verb} knows no {' '.join(unknown)}.{near}")
    return args


def _bug() -> int:
    traceback.print_exc()
    print(
        "windtunnel: this is a bug in windtunnel, not in your input; please report it with the lines above",
        file=sys.stderr,
    )
    return 1


def _unsaid() -> bool:
    """Whether standard output takes no more."""
    try:
        print(flush=True)
    except OSError:
        _discard()
        return True
    return False


def _discard() -> None:
    """Let what is still on its way to standard output go nowhere, so that Python's end does not stumble over it."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _missing(error: ModuleNotFoundError) -> int:
    if error.name in ("torch", "safetensors", "cloudpickle", "sklearn"):
        print(f"windtunnel: this needs {error.name}: pip install 'windtunnel[train]'", file=sys.stderr)
        return 2
    return _bug()
