"""`windtunnel fit RUNS`: laws, forecasts and verdicts from anyone's runs.

Each series (and idea) is fitted on its own. Targets are --target, the rows of --targets, and the table's own rows whose
split is `predict`; losses of those rows are looked at only after the forecast is made, to score it.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import fields
from typing import Any

from windtunnel.cli.table.answers import answer_all
from windtunnel.cli.table.groups import target_of
from windtunnel.cli.table.json import as_json
from windtunnel.cli.table.words import as_text
from windtunnel.errors import InputError, meant, printable
from windtunnel.ladder import Target
from windtunnel.laws.reading import read_runs, read_targets

TARGET_NAMES = tuple(field.name for field in fields(Target) if field.name != "rung")
EPILOG = """RUNS is a table with one row a run: CSV, TSV, Parquet, JSON, JSON lines (.gz too), an export of W&B or
MLflow, a store, an mlruns folder, or a folder of TensorBoard event files. Columns: loss; params, active_params, width,
tokens, unique_tokens, epochs, flops, lr, batch_tokens, steps; seed, series, idea, split (fit or predict), key,
outcome.

examples:
  windtunnel fit runs.csv --target "params=7e9,tokens=1.4e11"
  windtunnel fit runs.csv --columns "params=n_params,loss=val_loss" --level 0.8 --level 0.95 --json
  windtunnel fit runs.csv --target "params=7e9,tokens=1.4e11" --budget 1e20
  windtunnel fit wandb.json --columns "params=config.n_params,loss=summary.val/loss" --targets targets.csv
  windtunnel fit mlruns --columns "loss=val/loss" --target "params=1e9,tokens=2e10"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel fit`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("runs", metavar="RUNS", help="table of runs, tracker's export, or folder of runs")
    parser.add_argument(
        "--columns", metavar="OURS=THEIRS,...", help="what the table calls our columns; an empty THEIRS ignores one"
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="SIZES", help='e.g. "params=7e9,tokens=1.4e11"; repeatable'
    )
    parser.add_argument(
        "--targets", metavar="TABLE", help="a table of targets; its series and idea, where stated, say for which runs"
    )
    parser.add_argument(
        "--level", action="append", type=float, default=[], help="probability of the interval, default 0.9; repeatable"
    )
    parser.add_argument(
        "--base", metavar="IDEA", help="the idea that others are compared with (default: empty, base or baseline)"
    )
    parser.add_argument(
        "--budget",
        metavar="FLOPS",
        type=float,
        help="say what to run next, and how to split params and tokens, for so much",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Fit, print, and return 0, or 3 if a forecast fails its own backtest or a series could not be answered.

    Raises InputError for a bad input, and where nothing at all could be answered.
    """
    levels = tuple(dict.fromkeys(args.level)) or (0.9,)
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"--level is {level:g}; it is a probability between 0 and 1, as in 0.9.")
    if args.budget is not None and not (math.isfinite(args.budget) and args.budget > 0):
        raise InputError(f"--budget is {args.budget:g}; give the FLOPs you can spend as a positive number, as in 1e20.")
    targets = [parse_target(text) for text in args.target]
    asked = read_targets(args.targets, args.columns) if args.targets else None
    answer = answer_all(read_runs(args.runs, args.columns), targets, asked, levels, args.base, args.budget)
    print(as_json(answer, levels) if args.json else printable("\n".join(as_text(answer, levels))))
    for refusal in answer.refusals[:5]:
        print(f"windtunnel: {printable(refusal)}", file=sys.stderr)
    if len(answer.refusals) > 5:
        print(
            f"windtunnel: and {len(answer.refusals) - 5} more could not be answered (--json lists all)", file=sys.stderr
        )
    return 0 if answer.reliable else 3


def parse_target(text: str) -> Target:
    """'params=7e9,tokens=1.4e11' as a Target; raises InputError with the form that is needed."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    sizes: dict[str, Any] = {}
    for name, _, value in pairs:
        if name.strip() == "epochs":
            raise InputError(
                f"--target {text!r} names 'epochs'; state the distinct tokens instead, which are tokens / epochs: "
                f'"tokens=1e9,unique_tokens=2.5e8" is 4 epochs.'
            )
        if name.strip() not in TARGET_NAMES:
            raise InputError(
                f"--target {text!r} names {name.strip()!r}.{meant(name.strip(), TARGET_NAMES)} Write any of "
                f'{", ".join(TARGET_NAMES)}, as in "params=7e9,tokens=1.4e11".'
            )
        if name.strip() in sizes:
            raise InputError(f"--target {text!r} states {name.strip()} twice; give one target a --target.")
        try:
            sizes[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"--target {text!r}: {value.strip()!r} is not a number; write it as 7e9.") from None
    return target_of(sizes)  # refuses an empty or negative one itself
