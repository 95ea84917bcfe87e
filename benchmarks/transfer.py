"""Which rule carries the learning rate 8x in width, and from depth 2 to 8, on real text? Trained, not assumed.

    python -m benchmarks.transfer [--store FOLDER] [--tokens 122880] [--seeds 3] [--only width-AdamW ...]

Byte-level transformers on the standard library's source, AdamW and Muon; the same values, seeds and data for every
rule. Prints and writes drift of the optimum and gap of the base's value with 90 % intervals. Resumes from its store;
what `--only` leaves out keeps its earlier result, with its own date.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from typing import Any

import windtunnel as wt
from benchmarks.common import RESULTS, write
from windtunnel.ideas.muon import Muon
from windtunnel.parts.batch import FixedBatch
from windtunnel.parts.optimizers import AdamW
from windtunnel.scaling.rules import MuP, Standard, complete_p, depth_mup

CONTEXT, BATCH, HEAD = 64, 8, 16
# Ranges of the learning rate, in powers of 2, round the base's optimum in a probe of one seed; the same for every rule.
RANGES = {"AdamW": (2.0**-10, 2.0**-4), "Muon": (2.0**-9, 2.0**-3)}
OTHERS = 2.0**-6  # Muon's learning rate of embeddings, readout and vectors: AdamW's at the base
WIDTHS = {"muP": MuP(), "standard": Standard()}
DEPTHS = {"CompleteP": complete_p(), "depth-muP": depth_mup(), "muP": MuP()}


def ladders(tokens: int) -> dict[str, tuple[dict[str, Any], list[wt.Rung]]]:
    """Name to the rules and rungs that are compared."""

    def rung(width: int, depth: int) -> wt.Rung:
        return wt.Rung(width=width, depth=depth, heads=width // HEAD, tokens=tokens)

    return {
        "width": (WIDTHS, [rung(width, 2) for width in (32, 64, 128, 256)]),
        "depth": (DEPTHS, [rung(64, depth) for depth in (2, 4, 8)]),
    }


def optimizer(name: str) -> Any:
    """The part with its learning rate open."""
    open_rate = wt.tuned(*RANGES[name])
    return AdamW(lr=open_rate) if name == "AdamW" else Muon(lr=open_rate, others_lr=OTHERS)


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=None)
    parser.add_argument("--tokens", type=int, default=122_880)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=None)
    args = parser.parse_args()
    store = wt.Store(args.store or tempfile.mkdtemp(prefix="transfer-"))
    data = wt.data.text(context=CONTEXT)
    judge = wt.Judge(data=data, tokens=65_536, evaluations=1)
    result = _earlier() if args.only else {}
    result |= {"tokens": args.tokens, "batch": BATCH, "context": CONTEXT, "seeds": args.seeds}
    for kind, (rules, rungs) in ladders(args.tokens).items():
        for name in RANGES:
            if args.only and f"{kind}-{name}" not in args.only:
                continue
            recipe = wt.recipes.transformer_mup_adamw(data=data)
            recipe = recipe.but(optimizer=optimizer(name), batch=FixedBatch(examples=BATCH))
            found = wt.compare_parametrizations(recipe, rules, rungs=rungs, store=store, judge=judge, seeds=args.seeds)
            print(f"{kind}, {name}: {found}", flush=True)
            result[f"{kind}-{name}"] = found.to_json() | {"date": datetime.now(UTC).date().isoformat()}
    print(write("transfer", result))


def _earlier() -> dict[str, Any]:
    path = RESULTS / "transfer.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    return {name: value for name, value in kept.items() if name != "machine"}


if __name__ == "__main__":
    main()
