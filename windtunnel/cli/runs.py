"""`windtunnel runs [KEY]`: list the records of a store, or show one whole."""

from __future__ import annotations

import argparse
from typing import Any

from windtunnel.cli.shared import add_store, existing_store, print_json
from windtunnel.errors import printable
from windtunnel.ladder import compact, four_decimals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel runs`."""
    parser.add_argument("key", metavar="KEY", nargs="?", help="a run's key or the beginning of one")
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Print the list, or one record, and return 0."""
    store = existing_store(args)
    if args.key:
        return _show(store.get(args.key).to_json(), args.json)
    rows = store.rows()
    if args.json:
        print_json({"runs": rows})
        return 0
    long = max([12, *(len(r.get("idea", "")) for r in rows)]) + 2
    print(
        f"{'key':<14}{'idea':<{long}}{'stage':<10}{'width':>6}{'depth':>6}{'tokens':>9}{'seed':>6}{'loss':>9}  outcome"
    )
    for r in rows:
        print(printable(_line(r, long)))
    print(f"{len(rows)} runs in {store.where}")
    return 0


def _line(r: dict[str, Any], long: int) -> str:
    loss = "-" if r["loss"] is None else four_decimals(r["loss"])
    return (
        f"{r['key'][:12]:<14}{r.get('idea', ''):<{long}}{r.get('stage', ''):<10}{r['width']:>6}{r['depth']:>6}"
        f"{compact(r['tokens']):>9}{r['seed']:>6}{loss:>9}  {r['outcome']} {r['message']}"
    )


def _show(record: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(record)
        return 0
    spec = record.pop("spec")
    for name, value in record.items():
        print(printable(f"{name:<18}{value}"))
    for name in ("rung", "hyperparameters", "seed", "judge"):
        print(printable(f"{name:<18}{spec[name]}"))
    for slot, part in spec["recipe"].items():
        print(printable(f"{slot:<18}{part}"))
    return 0
