"""Ours beside mup and unit-scaling: does the learning rate transfer, what is lost in real code, what does a step cost?

    pip install -e '.[train,peers]' && pip install --no-deps mup==1.0.0     # why apart: pyproject.toml
    python -m benchmarks.peers [ladder] [failures] [speed] [--steps 240] [--seeds 2] [--widths 32 64 128 256]
        [--rounds 60] [--losses FILE]

Parts that are not asked for stay as they are in benchmarks/results/peers.json. The same decoder, batches, seeds and
search for all (peers_ladder.py); a newcomer would compare drifts alone: a tool whose losses are worse drifts nowhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import peers_sharded, peers_speed
from benchmarks.common import RESULTS, write
from benchmarks.peers_failures import KEPT, verdict
from benchmarks.peers_ladder import WIDTHS, Plan, climbed
from benchmarks.peers_models import Tool, tools
from benchmarks.peers_rates import SCALED
from benchmarks.peers_sharded import SHARDED

PARTS = ("ladder", "failures", "speed")


def ladder(found: dict[str, Tool], args: Any) -> dict[str, Any]:
    """Every tool's rows, one a width."""
    file = Path(args.losses or Path(tempfile.mkdtemp(prefix="peers-")) / "losses.jsonl")
    plan = Plan(steps=args.steps, seeds=args.seeds, file=file, widths=tuple(args.widths))
    rows = {name: climbed(tool, plan) for name, tool in found.items()}
    return {"steps": args.steps, "seeds": args.seeds, "rows": rows}


def failures(found: dict[str, Tool], args: Any) -> dict[str, Any]:
    """Every row's verdicts, and how many of each kind, over the rows that plain torch survives."""
    ways = [(row.name, partial(verdict, row)) for row in (*KEPT, *SCALED)]
    ways += [(row.name, partial(peers_sharded.verdict, row)) for row in SHARDED]
    said: dict[str, dict[str, str]] = {}
    for row, run in ways:
        said[row] = {name: run(tool) for name, tool in found.items()}
        print(row, *(f"    {name:<13} {what}" for name, what in said[row].items()), sep="\n", flush=True)
    counted = [row for row, by_tool in said.items() if not by_tool["plain"].startswith(("raises", "refuses"))]
    kinds = {name: Counter(said[row][name].split(":")[0].split()[0] for row in counted) for name in found}
    left_out = sorted(set(said) - set(counted))
    return {"rows": said, "not_counted": left_out, "counted": len(counted), "kinds": kinds}


def speed(found: dict[str, Tool], args: Any) -> dict[str, Any]:
    """Step times over the plain model's, eager and compiled."""
    kinds = {"eager": False, "compiled": True}
    return {"rounds": args.rounds} | {k: peers_speed.ratios(found, args.rounds, c) for k, c in kinds.items()}


def table(result: dict[str, Any]) -> str:
    """What is known so far, one line a tool."""
    lines = []
    for name in ("plain", "ours", "mup", "unit-scaling"):
        said = [f"{name:<13}"]
        if "ladder" in result:
            first, last = (result["ladder"]["rows"][name][at] for at in (0, -1))
            drift, gaps = last["drift_log2"], [gap for gap in last["gap_by_seed"] if gap is not None]
            gap = f"{100 * np.mean(gaps):.2f} % (n = {len(gaps)})" if gaps else "beyond what was tried"
            said += [
                f"to width {last['width']}: drift {drift['median']:+.2f} [{drift['low']:+.2f}, {drift['high']:+.2f}]",
                f"gap {gap}, loss {first['loss']:.3f} -> {last['loss']:.3f}",
            ]
        if name != "plain" and "failures" in result:
            there = result["failures"]["kinds"][name]
            said.append(
                ", ".join(f"{kind} {there.get(kind, 0)}" for kind in ("right", "refuses", "warns", "raises", "wrong"))
            )
        if name != "plain" and "speed" in result:
            of = {kind: result["speed"][kind][name] for kind in ("eager", "compiled")}
            said += [f"{kind} {x['median']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for kind, x in of.items()]
        lines.append("; ".join(said))
    return "\n".join(lines)


def main() -> None:
    """Run the parts, print the table and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], metavar="part")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--losses", default=None)
    args = parser.parse_args()
    if not set(args.parts) <= set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}, not {' '.join(args.parts)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    file = RESULTS / "peers.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    result["peers"] = {name: metadata.version(name) for name in ("mup", "unit-scaling")}
    for part, run in (("ladder", ladder), ("failures", failures), ("speed", speed)):
        if part in (args.parts or PARTS):
            result[part] = run(tools(), args)
            result.pop("machine", None)
            print(write("peers", result))
    print(table(result))


if __name__ == "__main__":
    main()
