"""`windtunnel report STUDY.py`: rewrite the HTML page from the store; with --serve, show it while the study runs."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from windtunnel.cli.shared import (
    add_store,
    command_of,
    existing_store,
    load_study,
    page_name,
    print_json,
    write_page,
)
from windtunnel.errors import InputError
from windtunnel.report.figures import made_folder
from windtunnel.report.pages import Pages, Source
from windtunnel.report.serve import DEFAULT, Address, serve
from windtunnel.report.stored import stored_data, study_names
from windtunnel.store import Store

EPILOG = """Without --serve each study's page is written into the store. With --serve nothing is written: the pages of
the named studies, and of every other study that the store's records name, are shown at ADDRESS and follow what another
process trains. On loopback whoever is on this machine may read them; at any other address a token is asked for, which
the printed address holds. To look from elsewhere, prefer `ssh -L 8640:127.0.0.1:8640 machine`.

examples:
  windtunnel report study.py
  windtunnel report study.py --figures figures
  windtunnel report study.py --serve
  windtunnel report --serve --store runs          every study of a store, from its records
  windtunnel report study.py --serve 0.0.0.0:8640
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `windtunnel report`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("study", metavar="STUDY.py", nargs="*", help="a Python file with a variable `study`")
    parser.add_argument(
        "--serve", metavar="ADDRESS", nargs="?", const=DEFAULT, help=f"show live pages at a port or address ({DEFAULT})"
    )
    parser.add_argument(
        "--figures", metavar="FOLDER", help="also write every figure there: SVG, CSV, and PNG where matplotlib is"
    )
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Write each page, print its path and return 0; with --serve, answer until interrupted."""
    if args.serve is not None and args.figures is not None:
        raise InputError("--serve writes nothing, --figures does; give them one after the other.")
    if args.serve is not None:
        return _serve(args)
    if not args.study:
        raise InputError("report needs a STUDY.py; with --serve it also shows a store's studies from their records.")
    if args.figures is not None:
        made_folder(args.figures)
    written, figures = [], []
    for file in args.study:
        study, store = load_study(file), existing_store(args)
        result = study.answer(store)
        page, _ = write_page(result, argparse.Namespace(study=file, store=args.store))
        written.append(str(page))
        figures += _figures(result, args)
    if args.json:
        print_json({"report": written[0], "reports": written, "figures": figures})
    else:
        print("\n".join([*written, *figures]))
    return 0


def _figures(result: Any, args: argparse.Namespace) -> list[str]:
    """Each study has its own folder where there are several."""
    if args.figures is None:
        return []
    folder = Path(args.figures)
    if len(args.study) > 1:
        folder /= page_name(result.study.name).removesuffix(".html")
    found = [str(path) for path in result.figures(folder)]
    if not any(path.endswith(".png") for path in found):
        print("windtunnel: no PNG without matplotlib: pip install 'windtunnel[figures]'", file=sys.stderr)
    return found


def _serve(args: argparse.Namespace) -> int:
    address = Address.parse(args.serve)
    store = Store(args.store)
    if not args.study:
        store = existing_store(args)

    def told(url: str) -> None:
        print_json({"url": url}) if args.json else print(url)
        sys.stdout.flush()
        print("windtunnel: reads only; end it with ctrl-C", file=sys.stderr)
        if not address.loopback:
            print("windtunnel: not encrypted, and whoever has this address can read; prefer ssh -L", file=sys.stderr)

    named = [_named(file, args, store) for file in args.study]
    if hasattr(os, "nice"):
        os.nice(10)  # the study that is watched goes first
    serve(Pages(store, lambda: [*named, *_recorded(store)]), address, told)
    return 0


def _named(file: str, args: argparse.Namespace, store: Store) -> Source:
    from windtunnel.study.living import Living

    study = load_study(file)
    command = partial(command_of, args=argparse.Namespace(study=file, store=args.store))
    return Source(study.name, Living(study, store, command, file))


def _recorded(store: Store) -> list[Source]:
    """Every study that the store's records name."""
    return [Source(name, partial(stored_data, store, name)) for name in study_names(store)]
