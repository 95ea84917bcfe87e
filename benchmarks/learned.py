"""A learned optimizer's step beside PyLO's and AdamW's, and meta-training beside Google's, in turns on one core.

    python -m benchmarks.learned step [--pylo CHECKOUT] [--rules small_fc celo2 ...] [--rounds 12]
    python -m benchmarks.learned meta [--google CHECKOUT] [--rounds 12]
        [--python OTHER]     # the interpreter that has the peer's libraries, where it is another one
        [--about TEXT]       # which version the checkout is; kept in the result

Every side is a warm process of its own (learned_sides.py); ours and a peer run in turns, so that what slows the machine
slows both, and the figure is the median of the rounds' ratios of processor time, with a 90 % bootstrap interval.
Without a checkout the peer is left out, and the output says so: clone Belilovsky-Lab/pylo (`pylo` on PyPI is a program
for electron microscopes) and google/learned_optimization. Inner steps count particles: 8 antithetic pairs make 16 a
step of the pack.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, write

SIDES = Path(__file__).with_name("learned_sides.py")
STEP_RULES = ("small_fc", "celo2", "celo2_base", "velo")  # celo2_base is without Newton-Schulz
HIDDEN = (32, 8)
DRAWS, LEVEL = 1000, 0.9
AT_LEAST = (
    0.3  # seconds in one turn: guess, enough for a clock of a millisecond and short enough for neighbours to even out
)
ONE_CORE = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}  # fmt: skip
BARS = {"step": {"pylo_small_fc_over_ours": 10.0, "peak_mib": 64.0}, "meta": {"ours_over_google": 1.5}}


class Runner:
    """A side in its process: what it said when it was warm, and its turns."""

    def __init__(self, python: str, arguments: Sequence[str]):
        environment = os.environ | ONE_CORE | {"PYTHONPATH": str(SIDES.parents[1])}
        self.process = subprocess.Popen(
            [python, str(SIDES), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.said: dict[str, Any] = self._answer()
        self.turns: list[dict[str, float]] = []
        self.count = 1
        if "missing" in self.said:
            return
        while (took := self._run(self.count))["clock"] < AT_LEAST:
            self.count = max(2 * self.count, int(self.count * AT_LEAST / max(took["clock"], 1e-4)))

    def turn(self) -> None:
        took = self._run(self.count)
        self.turns.append({kind: seconds / self.count for kind, seconds in took.items()})

    def _run(self, count: int) -> dict[str, float]:
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args[2:])} ended; what it said is above")  # type: ignore[arg-type]
        return json.loads(line)

    def seconds(self, kind: str = "processor") -> np.ndarray:
        return np.array([turn[kind] for turn in self.turns])


@contextmanager
def running(python: str, *arguments: str) -> Iterator[Runner]:
    runner = Runner(python, arguments)
    try:
        yield runner
    finally:
        runner.process.stdin.close()  # type: ignore[union-attr]
        runner.process.wait()


def together(ours: Runner, peer: Runner, rounds: int) -> dict[str, float]:
    """The peer's processor seconds over ours: median over rounds, 90 % bootstrap interval."""
    ours.turns.clear()
    for number in range(rounds):
        for side in (ours, peer) if number % 2 else (peer, ours):
            side.turn()
    return interval(peer.seconds() / ours.seconds())


def interval(found: np.ndarray) -> dict[str, float]:
    picked = np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found)))
    low, high = np.quantile(np.median(found[picked], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    middle = float(np.median(found))
    return {"median": round(middle, 3), "low": round(float(low), 3), "high": round(float(high), 3), "n": len(found)}


def told(side: Runner, unit: float = 1.0) -> dict[str, Any]:
    """Milliseconds a step by processor and by the clock, median and least, and what the side said of itself."""
    rows = {
        f"{kind}_ms": {"median": round(1e3 * float(np.median(s)), 3), "least": round(1e3 * float(s.min()), 3)}
        for kind in ("processor", "clock")
        for s in (side.seconds(kind),)
    }
    return rows | side.said


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Ours beside both AdamWs and, from a checkout, PyLO; a rule of PyLO's that is none of ours, beside AdamW."""
    result: dict[str, Any] = {"parameters": 1_045_450, "rules": known("learned_step").get("rules", {})}
    for rule in args.rules:
        with running(sys.executable, "ours", rule) as ours, running(sys.executable, "adamw", "default") as adamw:
            first, name = (adamw, "adamw") if "missing" in ours.said else (ours, "ours")
            row = dict(_rows(args, rule, first, name, adamw))
            row[name] = told(first)
        result["rules"][rule] = row | ({"ours": ours.said} if "missing" in ours.said else {})
        print(
            *(f"{rule:<11} {side:<12} {found}" for side, found in result["rules"][rule].items()), sep="\n", flush=True
        )
    return result


def known(name: str) -> dict[str, Any]:
    """The result as it is: what is not asked for stays in it."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _rows(
    args: argparse.Namespace, rule: str, first: Runner, name: str, adamw: Runner
) -> Iterator[tuple[str, dict[str, Any]]]:
    if first is not adamw:
        yield "adamw", {f"over_{name}": together(first, adamw, args.rounds)} | told(adamw)
        with running(sys.executable, "adamw", "fused") as fused:
            yield "adamw_fused", {f"over_{name}": together(first, fused, args.rounds)} | told(fused)
    if args.pylo:
        with running(args.python, "pylo", args.pylo, rule) as pylo:
            yield "pylo", {f"over_{name}": together(first, pylo, args.rounds)} | told(pylo)


def meta(args: argparse.Namespace) -> dict[str, Any]:
    """Inner steps a second, ours beside Google's where there is a checkout."""
    result: dict[str, Any] = {"pairs": 8, "task": "digits, 64-32-10, batch 64", "rounds": args.rounds, "hidden": {}}
    for hidden in map(str, HIDDEN):
        with running(sys.executable, "ours_meta", hidden) as ours:
            row: dict[str, Any] = {}
            if args.google:
                with running(args.python, "google", args.google, hidden) as peer:
                    row["over_ours"] = together(ours, peer, args.rounds)
                    row["google"] = rated(peer)
            else:
                for _ in range(args.rounds):
                    ours.turn()
            result["hidden"][hidden] = row | {"ours": rated(ours)}
            print(f"hidden {hidden}", result["hidden"][hidden], flush=True)
    return result


def rated(side: Runner) -> dict[str, Any]:
    """Inner steps a second: of processor time and of the clock."""
    units = side.said["inner_steps"]
    rates = {
        f"inner_steps_per_{kind}_second": {"median": round(units / float(np.median(s))), "best": round(units / s.min())}
        for kind in ("processor", "clock")
        for s in (side.seconds(kind),)
    }
    return rates | side.said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=("step", "meta"))
    parser.add_argument("--pylo", help="a checkout of Belilovsky-Lab/pylo")
    parser.add_argument("--google", help="a checkout of google/learned_optimization")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peer's libraries")
    parser.add_argument("--about", default="", help="which version the checkout is")
    parser.add_argument("--rules", nargs="+", choices=STEP_RULES, default=STEP_RULES)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result = steps(args) if args.act == "step" else meta(args)
    missing = (
        [] if (args.pylo if args.act == "step" else args.google) else ["no checkout was given: no peer beside ours"]
    )
    print(*missing, sep="\n")
    told_of = {"peer": args.about, "missing": missing, "bars": BARS[args.act]}
    print(write(f"learned_{args.act}", result | told_of))


if __name__ == "__main__":
    main()
