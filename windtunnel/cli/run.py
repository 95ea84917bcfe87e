"""`windtunnel run STUDY.py`: the main job, within a budget if one is given; then the report. Run again to resume."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from windtunnel.cli.live import Live, Plain
from windtunnel.cli.meta import executed, is_meta
from windtunnel.cli.shared import add_study, add_where, launcher_of, load_study, open_store, print_json, write_page
from windtunnel.notebook import marked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel run`."""
    add_study(parser)
    add_where(parser)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32",
        help="of matrix products; bfloat16 is faster on devices that compute in it (float32)",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=_budget, metavar="FLOPS|TIME",
        help="stop when the study has spent this over all its calls: FLOPs (2e15) or device time (90s, 30min, 2h, 1d)",
    )  # fmt: skip


def _budget(text: str) -> str:
    """Checked before a study is loaded; argparse says what is wrong with it."""
    from windtunnel.errors import InputError
    from windtunnel.study.budget import Budget

    try:
        Budget.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def execute(args: argparse.Namespace) -> int:
    """Train what is missing, print the answer; 3 if a forecast fails its own backtest."""
    from windtunnel.launch.own_torchrun import heard_of

    with heard_of():
        return _executed(args)


def _executed(args: argparse.Namespace) -> int:
    from windtunnel.errors import InputError
    from windtunnel.study.words import caveat_lines

    if args.budget and args.on == "torchrun":
        raise InputError(
            "--budget is not kept by --on torchrun; `windtunnel plan` says what a study costs. Leave it out."
        )
    study = load_study(args.study, also=is_meta)
    if is_meta(study):
        _check_meta(args)
        return executed(study, args)
    store = open_store(args)
    result = _over_processes(args, study, store) if args.on == "torchrun" else _launched(args, study, store)
    if result is None:
        return 0  # another process of this torchrun has the answer
    page, command = write_page(result, args)
    if args.json:
        print_json(result.to_json() | {"report": str(page)})
    else:
        print("\n".join(["", *marked(caveat_lines(result)), "", *result.lines(), ""]))
        print(f"report: {page}\nrepeat: {command}")
    return 0 if result.reliable or launched_by_torchrun(args) else 3


def _check_meta(args: argparse.Namespace) -> None:
    from windtunnel.errors import InputError

    if args.on != "here" or args.budget or args.precision != "float32":
        raise InputError(
            "A meta-training runs here, to its own end, in float32; leave --on, --budget and --precision out."
        )


def launched_by_torchrun(args: argparse.Namespace) -> bool:
    """Whether a code other than 0 would make torchrun start all processes again."""
    from windtunnel.train.ranks import launched

    return args.on == "torchrun" and launched()


def _launched(args: argparse.Namespace, study: Any, store: Any) -> Any:
    with _watch() as watch, launcher_of(args) as launcher:
        return study.run(store, launcher=launcher, watch=watch, budget=args.budget, precision=args.precision)


def _over_processes(args: argparse.Namespace, study: Any, store: Any) -> Any:
    """As one of torchrun's processes, or by starting torchrun and telling what it left in the store."""
    from windtunnel.launch.errand import shared_folder
    from windtunnel.launch.here import default_devices
    from windtunnel.launch.own_torchrun import spawn
    from windtunnel.launch.torchrun import led

    if not launched_by_torchrun(args):
        shared_folder(store)
        same = ["run", args.study, "--on", "torchrun", "--store", args.store, "--precision", args.precision]
        spawn(same, args.devices or max(2, default_devices()))
        return study.run(store, precision=args.precision)

    def main(launcher: Any) -> Any:
        with _watch() as watch:
            return study.run(store, launcher=launcher, watch=watch, precision=args.precision)

    return led(main)


def _watch() -> Live | Plain:
    """A display that redraws itself where a person looks at a terminal that can; else lines that stay."""
    redraws = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
    return Live() if redraws else Plain()
